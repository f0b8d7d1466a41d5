"""A first oxfile for a folder, from what is in it."""

import os
import tomllib

from oxmgr.config.detect import clean_name, package

HEAD = "# What oxmgr keeps running here. `oxmgr start` starts it; docs/config.md has every key.\n"


def draft_oxfile(folder: str) -> tuple[str, list[str]]:
    """(the text, where each app came from, as words). With nothing found: an example, commented out but for one app."""
    apps: dict[str, tuple[str, str]] = {}
    for source in (_procfile, _package_json, _python):
        for name, command, origin in source(folder):
            apps.setdefault(clean_name(name) or "app", (command, origin))
        if apps:
            break
    if not apps:
        return HEAD + _EXAMPLE, []
    parts = [f"[processes.{_key(name)}]\ncommand = {_string(command)}\n" for name, (command, _) in apps.items()]
    return HEAD + "\n" + "\n".join(parts), [f"{name}: {command} ({origin})" for name, (command, origin) in apps.items()]


_EXAMPLE = """
[processes.app]
command = "sleep 1000"            # what to run; put your own here
# instances = 2                   # or "max"
# env = { PORT = "3000" }
# restart_delay_ms = 100
"""


def _procfile(folder: str) -> list[tuple[str, str, str]]:
    try:
        with open(f"{folder}/Procfile", encoding="utf-8") as file:
            lines = file.read().splitlines()
    except (OSError, UnicodeDecodeError):
        return []
    split = [line.partition(":") for line in lines if not line.lstrip().startswith("#")]
    return [(name.strip(), command.strip(), "Procfile") for name, colon, command in split if colon and command.strip()]


def _package_json(folder: str) -> list[tuple[str, str, str]]:
    found = package(folder)
    name = str(found.get("name") or os.path.basename(os.path.abspath(folder)))
    scripts = found.get("scripts")
    if isinstance(scripts, dict) and isinstance(scripts.get("start"), str):
        start = scripts["start"]
        # npm in between costs 50 MB and swallows signals; where its script is one plain node command, that is run.
        plain = start.startswith("node ") and not set(start) & set("&|;<>$`")
        return [(name, start if plain else "npm start", "package.json, scripts.start")]
    main = found.get("main")
    for candidate in (main, "server.js", "index.js", "app.js"):
        if isinstance(candidate, str) and os.path.isfile(f"{folder}/{candidate}"):
            origin = "package.json, main" if candidate == main else candidate
            return [(name, f"node {candidate}", origin)]
    return []


def _python(folder: str) -> list[tuple[str, str, str]]:
    name = os.path.basename(os.path.abspath(folder))
    venv = next((path for path in (".venv/bin/", "venv/bin/") if os.path.isdir(f"{folder}/{path}")), "")
    needs = _requirements(folder)
    if os.path.isfile(f"{folder}/manage.py"):
        site = next((one for one in sorted(os.listdir(folder)) if os.path.isfile(f"{folder}/{one}/wsgi.py")), None)
        if site and "gunicorn" in needs:
            return [(name, f"{venv}gunicorn {site}.wsgi", "manage.py, gunicorn")]
        return [(name, f"{venv or ''}python{'' if venv else '3'} manage.py runserver --noreload", "manage.py")]
    for module in ("main", "app", "server"):
        if os.path.isfile(f"{folder}/{module}.py"):
            origin = f"{module}.py"
            if "uvicorn" in needs or "fastapi" in needs:
                return [(name, f"{venv}uvicorn {module}:app", f"{origin}, uvicorn")]
            if "gunicorn" in needs:
                return [(name, f"{venv}gunicorn {module}:app", f"{origin}, gunicorn")]
            return [(name, f"{venv or ''}python{'' if venv else '3'} {module}.py", origin)]
    return []


def _requirements(folder: str) -> str:
    """What a Python project names as its dependencies, as one text in small letters."""
    text = ""
    try:
        with open(f"{folder}/requirements.txt", encoding="utf-8") as file:
            text += file.read()
    except (OSError, UnicodeDecodeError):
        pass
    try:
        with open(f"{folder}/pyproject.toml", "rb") as binary:
            project = tomllib.load(binary).get("project", {})
            text += " ".join(map(str, project.get("dependencies", [])))
    except (OSError, tomllib.TOMLDecodeError, AttributeError):
        pass
    return text.lower()


def _key(name: str) -> str:
    return name if all(char.isalnum() or char in "_-" for char in name) else _string(name)


def _string(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(char if char >= " " else f"\\u{ord(char):04x}" for char in escaped) + '"'
