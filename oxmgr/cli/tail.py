"""The last lines of an instance, as part of what is said of a failure."""

from oxmgr.client.logchain import Chain, Folders
from oxmgr.client.logfile import Source
from oxmgr.client.logmerge import merge_backward
from oxmgr.model.messages import InstanceView

TYPE_CHECKING = False
if TYPE_CHECKING:
    from oxmgr.client.logfile import Run


def last_lines(view: InstanceView, count: int) -> "list[Run]":
    """Of both its streams, by time."""
    from oxmgr.cli.logfilter import last_runs

    paths = dict.fromkeys((view.log_file, view.error_log_file))
    folders = Folders()
    sources = [(path, Source(view.name, view.app, view.instance, "", rank)) for rank, path in enumerate(paths)]
    chains = [Chain(path, source, folders) for path, source in sources if path.startswith("/")]
    return last_runs(merge_backward(chain.backward() for chain in chains), count)
