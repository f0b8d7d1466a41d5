"""README.md and docs/ say what the code says.

What stands between `<!-- begin NAME … -->` and `<!-- end NAME -->` is made from the code; `python -m tests.unit.test_docs`
makes it anew.
"""

import re
from pathlib import Path

import pytest

from oxmgr.cli.details import Usage
from oxmgr.cli.parser import command_help
from oxmgr.cli.table import COMMANDS
from oxmgr.config import keys
from oxmgr.config.detect import INTERPRETERS
from oxmgr.config.oxfile import load_oxfile
from oxmgr.lifecycle import events, machine
from oxmgr.model import messages
from oxmgr.model import status as is_

ROOT = Path(__file__).resolve().parents[2]
RENEW = ".venv/bin/python -m tests.unit.test_docs"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
EXAMPLES = sorted((ROOT / "examples").rglob("*.toml"))
PROGRAMS = ("node", "npm", "python3", "postgres", "sleep", "tail", "gunicorn")
CONFIG, CLI, ARCHITECTURE = "docs/config.md", "docs/cli.md", "docs/architecture.md"


def made() -> dict[tuple[str, str], str]:
    """What the code says, by page and mark."""
    found = {
        (CONFIG, "keys"): keys.markdown(),
        (CONFIG, "later"): _words(keys.LATER) + "\n",
        (CONFIG, "later-top"): _words(keys.LATER_TOP) + "\n",
        (ARCHITECTURE, "lifecycle"): lifecycle_table(),
    }
    for command in COMMANDS:
        found[CLI, command.name] = f"```text\n{command_help(command)}```\n"
    return found


def lifecycle_table() -> str:
    """A row an event, a column a status; a cell names the function in oxmgr/lifecycle/machine.py, · is ignored."""
    rows = [f"| | {' | '.join(is_.ALL)} |", "|---" * (len(is_.ALL) + 1) + "|"]
    for event in events.EVENTS:
        names = [machine._TABLE[status, event].__name__ for status in is_.ALL]
        cells = ["·" if name == "_ignore" else f"`{name}`" for name in names]
        rows.append(f"| **{event.__name__}** | {' | '.join(cells)} |")
    return "\n".join(rows) + "\n"


def _words(words: frozenset[str]) -> str:
    return ", ".join(f"`{word}`" for word in sorted(words))


def renewed(page: str) -> str:
    """The page with all that is made in it made anew."""
    text = (ROOT / page).read_text()
    for (where, name), content in made().items():
        if where == page:
            parts = re.split(
                rf"(?<=<!-- begin {name}, made from )([^>]*-->\n).*?(?=<!-- end {name} -->)", text, flags=re.DOTALL
            )
            assert len(parts) == 3, f"{page} has {len(parts) // 2} places for {name!r}"
            text = "".join([*parts[:2], content, parts[2]])
    return text


@pytest.mark.parametrize("page", [CONFIG, CLI, ARCHITECTURE])
def test_what_is_made_from_the_code_is_as_the_code_is(page: str) -> None:
    assert (ROOT / page).read_text() == renewed(page), f"renew it: {RENEW}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_relative_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        file = (page.parent / path).resolve() if path else page
        assert file.exists(), f"{page.name} links to {target}"
        if anchor:
            assert anchor in _anchors(file), f"{page.name} links to {target}"


def _anchors(page: Path) -> set[str]:
    """The headings' anchors, as GitHub makes them."""
    headings = re.findall(r"^#+ (.*)$", page.read_text(), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.fixture
def environ(tmp_path: Path) -> dict[str, str]:
    """A PATH with the programs that the pages and examples run."""
    (tmp_path / "bin").mkdir()
    for program in PROGRAMS:
        path = tmp_path / "bin" / program
        path.write_text("#!/bin/sh\n")
        path.chmod(0o755)
    return {"PATH": str(tmp_path / "bin"), "HOME": "/home/ann"}


def _load(text: str, folder: Path, environ: dict[str, str]) -> list[str]:
    folder.mkdir()
    (folder / ".env").write_text("DATABASE_URL=postgres://localhost/shop\n")
    (folder / "oxfile.toml").write_text(text)
    return [spec.name for spec in load_oxfile(str(folder / "oxfile.toml"), environ=environ)]


def test_every_whole_oxfile_in_the_pages_is_accepted(tmp_path: Path, environ: dict[str, str]) -> None:
    blocks = [
        block
        for page in PAGES
        for block in re.findall(r"^```toml whole\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)
    ]
    assert len(blocks) >= 3
    for number, block in enumerate(blocks):
        assert _load(block, tmp_path / str(number), environ), block


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_is_accepted(example: Path, tmp_path: Path, environ: dict[str, str]) -> None:
    assert _load(example.read_text(), tmp_path / "project", environ)


@pytest.mark.parametrize(
    "struct",
    [messages.InstanceView, messages.Event, messages.DaemonView, messages.Change, Usage],
    ids=lambda one: one.__name__,
)
def test_every_key_of_the_json_is_explained(struct: type) -> None:
    fields: tuple[str, ...] = struct.__struct_fields__  # type: ignore[attr-defined]
    text = (ROOT / CLI).read_text()
    missing = [key for key in fields if f"| `{key}` |" not in text]
    assert not missing


def test_every_ending_of_a_file_that_start_knows_is_explained() -> None:
    text = (ROOT / CLI).read_text()
    assert not [ending for ending in INTERPRETERS if f"`{ending}`" not in text]


def test_every_file_and_function_that_the_architecture_names_is_there() -> None:
    """A file by its path from the root, a function with `()` behind its name."""
    text = (ROOT / ARCHITECTURE).read_text()
    files = set(re.findall(r"`((?:oxmgr|csrc|tests|packaging)/[\w./-]+\.\w+)`", text))
    assert len(files) > 20
    assert not [file for file in sorted(files) if not (ROOT / file).exists()]
    code = "".join(path.read_text() for path in sorted((ROOT / "oxmgr").rglob("*.py")))
    code += "".join(path.read_text() for path in sorted((ROOT / "csrc").glob("*.[ch]")))
    names = set(re.findall(r"`(?:\w+\.)*(\w+)\(\)`", text))
    assert len(names) > 20
    assert not [name for name in sorted(names) if not re.search(rf"(?:def |\b[\w*]+ \*?){name}\(", code)]


if __name__ == "__main__":
    for one in (CONFIG, CLI, ARCHITECTURE):
        (ROOT / one).write_text(renewed(one))
