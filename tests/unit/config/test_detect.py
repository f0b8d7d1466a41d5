"""Zero config: what the words of `oxmgr start` mean, and what `oxmgr init` makes of a folder."""

import json
from pathlib import Path

import pytest

from oxmgr.config.detect import app_from_words, clean_name
from oxmgr.config.errors import ConfigError
from oxmgr.config.init import draft_oxfile
from oxmgr.config.oxfile import load_oxfile
from oxmgr.model.spec import Spec, name_error
from tests.unit.config.conftest import program


class Start:
    def __init__(self, folder: Path, environ: dict[str, str]) -> None:
        self.folder = folder
        self.environ = environ

    def __call__(self, *words: str, **keys: object) -> Spec:
        return app_from_words(list(words), cwd=str(self.folder), environ=self.environ, **keys)  # type: ignore[arg-type]

    def refused(self, *words: str) -> str:
        with pytest.raises(ConfigError) as raised:
            self(*words)
        return str(raised.value)


@pytest.fixture
def start(folder: Path, environ: dict[str, str]) -> Start:
    return Start(folder, environ)


@pytest.mark.parametrize(
    ("name", "interpreter"),
    [
        ("server.js", ["node"]),
        ("server.mjs", ["node"]),
        ("server.cjs", ["node"]),
        ("app.py", ["python3"]),
        ("run.sh", ["sh"]),
    ],
)
def test_a_script_finds_its_interpreter_by_its_ending(start: Start, name: str, interpreter: list[str]) -> None:
    path = program(start.folder, name, "", 0o644)
    spec = start(name)
    assert (spec.argv, spec.command, spec.name) == ([*interpreter, str(path)], name, path.stem)
    assert spec.working_dir == str(start.folder)


def test_one_that_may_run_and_says_by_what_runs_itself(start: Start) -> None:
    path = program(start.folder, "app.py", "#!/usr/bin/env python3\n")
    assert start("app.py").argv == [str(path)]
    path.chmod(0o644)
    assert start("app.py").argv == ["python3", str(path)]


def test_a_binary_runs_itself(start: Start) -> None:
    path = program(start.folder, "server", "\x7fELF")
    assert start("./server").argv == [str(path)]
    assert start("./server").name == "server"


def test_a_python_app_gets_its_own_virtual_environment_and_prints_at_once(start: Start) -> None:
    program(start.folder, "app.py", "", 0o644)
    python = program(start.folder, ".venv/bin/python")
    spec = start("app.py")
    assert spec.argv[0] == str(python)
    assert spec.env == {"PYTHONUNBUFFERED": "1"}
    assert start("app.py", env={"PYTHONUNBUFFERED": ""}).env == {"PYTHONUNBUFFERED": ""}


def test_the_words_behind_a_script_are_its_own(start: Start) -> None:
    path = program(start.folder, "server.js", "", 0o644)
    assert start("server.js", "--port", "80 80").argv == ["node", str(path), "--port", "80 80"]


def test_a_command_line_is_one_word_or_several(start: Start) -> None:
    assert start("npm start").argv == ["npm", "start"]
    assert start("npm", "start").argv == ["npm", "start"]
    assert start("sleep 1 | cat").argv == ["/bin/sh", "-c", "sleep 1 | cat"]
    assert start("sleep", "1 | cat").argv == ["sleep", "1 | cat"], "several words never mean a shell"


def test_a_file_with_the_name_of_a_program_does_not_hide_it(start: Start) -> None:
    program(start.folder, "sleep")
    assert start("sleep", "1").argv == ["sleep", "1"]
    assert start("./sleep", "1").argv == [str(start.folder / "./sleep"), "1"]


@pytest.mark.parametrize(
    ("words", "name"),
    [
        (["node server.js"], "server"),
        (["node", "--inspect", "dist/main.mjs"], "main"),
        (["python3 -m http.server 8000"], "http.server"),
        (["npm start"], "web-shop"),
        (["npm run dev"], "web-shop"),
        (["sleep 1000"], "sleep"),
        (["sleep 1 | cat"], "sleep"),
        (["./bin/Serve It"], "Serve-It"),
    ],
)
def test_the_name_is_a_telling_one(start: Start, words: list[str], name: str) -> None:
    program(start.folder, "bin/Serve It", "\x7fELF")
    (start.folder / "package.json").write_text('{"name": "@web/shop"}')
    assert start(*words).name == name


def test_a_name_may_be_given_and_must_be_one(start: Start) -> None:
    assert start("sleep 1", name="mine").name == "mine"
    with pytest.raises(ConfigError, match="the name 'a/b' has a slash"):
        start("sleep 1", name="a/b")


@pytest.mark.parametrize("text", ["@scope/pkg", "a b", "é", "-", "..", "x" * 300, "a\n", ""])
def test_a_cleaned_name_is_a_name_or_nothing(text: str) -> None:
    assert clean_name(text) == "" or name_error(clean_name(text)) is None


def test_what_cannot_be_started_is_named(start: Start, environ: dict[str, str]) -> None:
    assert start.refused("nosuch").startswith(
        "nosuch: there is no such app, file or command: there is no program nosuch"
    )
    assert start.refused("./nosuch.js").endswith("nosuch.js does not exist")
    assert start.refused("") == "the command is empty"
    program(start.folder, "data.txt", "", 0o644)
    assert "not executable and its ending names no interpreter" in start.refused("data.txt")
    program(start.folder, "bad", "#!/nosuch/x\n")
    for words in (["./bad"], ["bad"], ["bad", "--now"], ["./bad --now"]):
        told = start.refused(*words)
        assert "is to be run by /nosuch/x" in told and "no such app" not in told
    program(start.folder, "a.rb", "", 0o644)
    assert start.refused("a.rb") == "a.rb needs ruby, which is not in your PATH: install it"
    program(start.folder, "a.ts", "", 0o644)
    assert start.refused("a.ts") == "a.ts needs tsx or bun or deno, which is not in your PATH: install it"


# --- init ---


def drafted(folder: Path, environ: dict[str, str]) -> dict[str, str]:
    """name → command; the draft must be an oxfile that starts."""
    text, _ = draft_oxfile(str(folder))
    path = folder / "oxfile.toml"
    path.write_text(text)
    return {spec.name: spec.command for spec in load_oxfile(str(path), environ=environ)}


def test_a_procfile_gives_an_app_a_line(folder: Path, environ: dict[str, str]) -> None:
    (folder / "Procfile").write_text('web: node server.js --x="a b"\n# c: d\nworker:sleep 1\nbad line\n')
    (folder / "package.json").write_text('{"scripts": {"start": "node x.js"}}')
    assert drafted(folder, environ) == {"web": 'node server.js --x="a b"', "worker": "sleep 1"}


@pytest.mark.parametrize(
    ("package", "command"),
    [
        ({"name": "shop", "scripts": {"start": "node server.js"}}, "node server.js"),
        ({"name": "shop", "scripts": {"start": "node a.js && node b.js"}}, "npm start"),
        ({"name": "shop", "scripts": {"start": "next start"}}, "npm start"),
        ({"name": "shop", "main": "server.js"}, "node server.js"),
        ({"name": "shop", "main": "gone.js"}, "node server.js"),
        ({"name": "shop"}, "node server.js"),
    ],
)
def test_a_package_json(folder: Path, environ: dict[str, str], package: dict[str, object], command: str) -> None:
    (folder / "package.json").write_text(json.dumps(package))
    (folder / "server.js").write_text("")
    assert drafted(folder, environ) == {"shop": command}


def test_a_django_project(folder: Path, environ: dict[str, str]) -> None:
    (folder / "manage.py").write_text("")
    assert drafted(folder, environ) == {"project": "python3 manage.py runserver --noreload"}
    program(folder, ".venv/bin/gunicorn")
    program(folder, "site/wsgi.py")
    (folder / "requirements.txt").write_text("Django\ngunicorn==22\n")
    assert drafted(folder, environ) == {"project": ".venv/bin/gunicorn site.wsgi"}


def test_a_python_project_by_its_dependencies(folder: Path, environ: dict[str, str]) -> None:
    (folder / "main.py").write_text("")
    assert drafted(folder, environ) == {"project": "python3 main.py"}
    (folder / "pyproject.toml").write_text('[project]\ndependencies = ["FastAPI", "uvicorn"]\n')
    program(folder, ".venv/bin/uvicorn")
    assert drafted(folder, environ) == {"project": ".venv/bin/uvicorn main:app"}


def test_an_empty_folder_gets_an_example_that_starts(folder: Path, environ: dict[str, str]) -> None:
    assert drafted(folder, environ) == {"app": "sleep 1000"}


@pytest.mark.parametrize("text", ["[", "[]", '{"scripts": 1}', '{"scripts": {"start": 1}}', "\xff"])
def test_files_that_are_not_what_they_should_be_are_passed_over(
    folder: Path, environ: dict[str, str], text: str
) -> None:
    (folder / "package.json").write_bytes(text.encode("latin-1"))
    (folder / "pyproject.toml").write_text("[")
    assert drafted(folder, environ) == {"app": "sleep 1000"}
