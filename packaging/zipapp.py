"""Writes oxmgr as one file, for the Python that runs this: python packaging/zipapp.py [--python PATH] [TARGET]

Native code cannot be loaded out of an archive. So the file holds a second archive with all that there is to unpack
(payload.zip), and what unpacks it at its first start (zipapp_start.py), into a folder named after what is in it.
"""

import argparse
import hashlib
import io
import os
import sys
import tempfile
import zipfile
from importlib.metadata import distribution
from pathlib import Path
from py_compile import PycInvalidationMode, compile

HERE = Path(__file__).resolve().parent
REPOSITORY = HERE.parent
LINE_LIMIT = 255  # of a `#!` line, execve(2)
# What the package imports of others, all of them or, of cffi, what an extension needs that was built.
DEPENDENCIES = {"msgspec": "", "cffi": "_cffi_backend", "python-prctl": "", "cronsim": "", "pyroute2": ""}
LEFT_OUT = (".pyc", ".pyi", ".c", ".h")
MAIN = """import sys
if sys.implementation.cache_tag != {tag!r}:
    sys.exit("oxmgr: this file is made for {python}: run it by that, or make another with `make zipapp`")
from zipapp_start import main
sys.exit(main({name!r}))
"""

Files = dict[str, tuple[bytes, int]]
"""What is in each, and its mode."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", default=base_python(), help="the interpreter of the file's first line")
    parser.add_argument("--package", type=Path, default=REPOSITORY / "oxmgr", help="the package, built in place")
    parser.add_argument("target", type=Path, nargs="?", default=REPOSITORY / "build" / "oxmgr.pyz")
    args = parser.parse_args()
    first = f"#!{args.python} -IS\n".encode()
    if b" " in args.python.encode() or len(first) > LINE_LIMIT:
        sys.exit(f"{args.python} cannot be in the first line of a program: name another one with --python")
    files = {**package_files(args.package), **dependency_files()}
    name = digest(files)
    python = "{} {}.{}".format(sys.implementation.name, *sys.version_info[:2])
    text = MAIN.format(tag=sys.implementation.cache_tag, python=python, name=name)
    start = {
        "__main__.py": (text.encode(), 0o644),
        "zipapp_start.pyc": (compiled(HERE / "zipapp_start.py", "zipapp_start.py"), 0o644),
        "payload.zip": (archive(with_compiled(files), zipfile.ZIP_DEFLATED), 0o644),
    }
    args.target.parent.mkdir(parents=True, exist_ok=True)
    aside = args.target.with_name(f"{args.target.name}.new")
    # Not compressed: what is needed at each start is small, and zlib takes longer to load than it saves.
    aside.write_bytes(first + archive(start, zipfile.ZIP_STORED))
    aside.chmod(0o755)
    aside.rename(args.target)
    print(f"{args.target}: {args.target.stat().st_size >> 10} KB, {name}, for {args.python}")


def base_python() -> str:
    """The one that this environment was made of, by a name with its version, which another one does not take over."""
    found = Path(sys.base_prefix) / "bin" / "python{}.{}".format(*sys.version_info[:2])
    return str(found) if found.exists() else sys.executable


def package_files(package: Path) -> Files:
    native = [*package.glob("_native*.so"), package / "oxmgr-guard", package / "oxmgr-shim.so"]
    if len(native) != 3:
        sys.exit(f"{package} has not been built: python setup.py build_ext --inplace")
    found = sorted(path for path in package.rglob("*") if path.is_file())
    return {f"oxmgr/{path.relative_to(package)}": content(path) for path in found if path.suffix not in LEFT_OUT}


def dependency_files() -> Files:
    """With their licenses, for this file is handed on."""
    files: Files = {}
    for name, needed in DEPENDENCIES.items():
        for file in distribution(name).files or []:
            wanted = ".dist-info/" in str(file) or (str(file).startswith(needed) and file.suffix not in LEFT_OUT)
            if wanted and not str(file).startswith(".."):
                files[str(file)] = content(Path(str(file.locate())))
    return files


def content(path: Path) -> tuple[bytes, int]:
    return path.read_bytes(), 0o700 if os.access(path, os.X_OK) else 0o600


def digest(files: Files) -> str:
    """Of what is unpacked. Not of what Python makes of it, which is not the same each time."""
    whole = hashlib.sha256(sys.version.encode())
    for name, (data, mode) in sorted(files.items()):
        whole.update(f"{name}\0{mode}\0{len(data)}\0".encode() + data)
    return whole.hexdigest()[:20]


def with_compiled(files: Files) -> Files:
    made: Files = {}
    with tempfile.TemporaryDirectory() as folder:
        for name, (data, _) in files.items():
            if name.endswith(".py"):
                source = Path(folder) / "source.py"
                source.write_bytes(data)
                parent, _, stem = name.removesuffix(".py").rpartition("/")
                made[f"{parent}/__pycache__/{stem}.{sys.implementation.cache_tag}.pyc".lstrip("/")] = (
                    compiled(source, name),
                    0o600,
                )
    return files | made


def compiled(source: Path, name: str) -> bytes:
    """For good: Python does not look whether the source is a later one."""
    with tempfile.NamedTemporaryFile() as target:
        compile(str(source), target.name, name, doraise=True, invalidation_mode=PycInvalidationMode.UNCHECKED_HASH)
        return Path(target.name).read_bytes()


def archive(files: Files, how: int) -> bytes:
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w", how) as made:
        for name, (content, mode) in sorted(files.items()):
            info = zipfile.ZipInfo(name)
            info.external_attr = mode << 16
            info.compress_type = how
            made.writestr(info, content)
    return data.getvalue()


if __name__ == "__main__":
    main()
