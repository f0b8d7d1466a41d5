"""Desired state as the bytes of a file, and back: pure.

The first record counts those behind it, so that a file which was cut off is known to be, even between two records.
"""

from oxmgr.model.check import spec_error
from oxmgr.model.codec import UNREADABLE, Decoder, Struct, encode
from oxmgr.model.messages import Saved, SavedApp, SavedCount, SavedEnviron
from oxmgr.model.records import file_header, read_records, record
from oxmgr.model.spec import NAME_LIMIT

KIND = "desired"


class Snapshot(Struct):
    """`wrong` says why it is not whole (None: it is); what is here of it is good all the same."""

    apps: dict[str, SavedApp]
    environs: dict[str, bytes]
    wrong: str | None = None


def pack(apps: dict[str, SavedApp], environs: dict[str, bytes]) -> bytes:
    saved: list[Saved] = [SavedEnviron(name, data) for name, data in environs.items()]
    saved += apps.values()
    return file_header(KIND) + b"".join(record(encode(one)) for one in (SavedCount(len(saved)), *saved))


def unpack(data: bytes) -> Snapshot:
    """Raises Newer when a later version wrote it."""
    payloads, wrong, _ = read_records(KIND, data)
    found = Snapshot({}, {}, wrong)
    decoder = Decoder(Saved)
    count: int | None = None
    for payload in payloads:
        try:
            saved = decoder.decode(payload)
        except UNREADABLE as error:
            found.wrong = found.wrong or str(error)
            continue
        if isinstance(saved, SavedCount):
            count = saved.records
        elif isinstance(saved, SavedEnviron):
            found.environs[saved.id] = saved.data
        elif why := spec_error(saved.spec):
            found.wrong = found.wrong or f"{saved.spec.name[:NAME_LIMIT]!r}: {why}"
        else:
            found.apps[saved.spec.name] = saved
    if count != len(payloads) - 1:
        found.wrong = found.wrong or "it ends before its last record"
    return found


def missing() -> Snapshot:
    return Snapshot({}, {}, "there is none that can be read")


def choose(latest: Snapshot, before: Snapshot) -> Snapshot:
    """Which of the two is desired: the latest when it is whole, else the one before. What is good of one that is not
    whole is better than nothing."""
    if latest.wrong is None or not before.apps:
        return latest
    return before if before.wrong is None or not latest.apps else latest
