"""msgspec's core, and the only place that imports it.

`import msgspec` loads typing, re, uuid, decimal, inspect and forty more modules, for annotations and types
that no Struct of oxmgr uses. On CPython 3.11 that is 44 ms and 3 MB, of a 30 ms budget for `oxmgr list` and a
13 MB one for the daemon. So where a program has not loaded `typing` yet (our own command and daemon), the
compiled core is loaded alone (3 ms), with stand-ins for the modules it looks names up in. In every other
program (a test run, an editor, somebody's script) this is plain msgspec. A test holds the two against each other.

What follows for the Structs of oxmgr: annotations are built-in types, `X | None`, `list[X]`, `dict[K, V]`
and other Structs, as real objects, never as strings and never from `typing`.
"""

import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import Any

    from msgspec import DecodeError, Raw, Struct, ValidationError, convert, field, to_builtins
    from msgspec.json import decode as decode_json
    from msgspec.json import encode as encode_json
    from msgspec.json import format as format_json
    from msgspec.msgpack import Decoder, decode, encode
    from msgspec.structs import asdict, force_setattr, replace

__all__ = [
    "DecodeError",
    "Decoder",
    "Raw",
    "UNREADABLE",
    "Struct",
    "ValidationError",
    "asdict",
    "convert",
    "decode",
    "decode_json",
    "encode",
    "encode_json",
    "field",
    "force_setattr",
    "format_json",
    "replace",
    "to_builtins",
]


def _annotations(cls: type) -> "dict[str, Any]":
    hints: dict[str, Any] = {}
    for base in cls.__mro__:
        for name, hint in base.__dict__.get("__annotations__", {}).items():
            hints.setdefault(name, type(None) if hint is None else hint)
    return hints


class _StandIn(type(sys)):  # type: ignore[misc]
    """A module that has every name that is asked of it, each an empty class."""

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        made = type(name, (), {})
        setattr(self, name, made)
        return made


def _bare_core() -> "Any":
    """Import msgspec._core without msgspec/__init__.py and what that loads."""
    specs = (finder.find_spec("msgspec", None) for finder in sys.meta_path)
    found = next(filter(None, specs), None)
    if found is None or not found.submodule_search_locations:
        raise ImportError("msgspec is not installed: pip install msgspec")
    import _datetime

    def stand_in(name: str, **names: object) -> "Any":
        made = _StandIn(name)
        made.__dict__.update(names)
        return made

    package = type(sys)("msgspec")
    package.__path__ = list(found.submodule_search_locations)
    utils = stand_in(
        "msgspec._utils",
        _CONCRETE_TYPES={kind: kind for kind in (list, tuple, set, frozenset, dict)},
        get_class_annotations=_annotations,
    )
    replaced = {name: stand_in(name) for name in ("decimal", "enum", "re", "typing")}
    # The C API of datetime is taken from a capsule that the C module carries as well.
    replaced["datetime"] = _datetime
    replaced["uuid"] = stand_in("uuid", SafeUUID=type("SafeUUID", (), {"unknown": None}))
    before = {name: sys.modules.get(name) for name in replaced}
    sys.modules.update(replaced)
    sys.modules.update({"msgspec": package, "msgspec._utils": utils})
    try:
        __import__("msgspec._core")
    finally:
        del sys.modules["msgspec._utils"]
        for name, old in before.items():
            if old is None:
                del sys.modules[name]
            else:
                sys.modules[name] = old
    core = sys.modules["msgspec._core"]
    _prove(core)
    return core


def _prove(core: "Any") -> None:
    """One round trip through what oxmgr uses, so that a core which does not fit is found at once."""
    probe = core.StructMeta(
        "Probe",
        (core.Struct,),
        {"__module__": __name__, "__annotations__": {"a": int, "b": dict[str, list[int]] | None}, "b": None},
    )
    value = probe(1, {"x": [2]})
    if core.MsgpackDecoder(probe).decode(core.msgpack_encode(value)) != value:
        raise ImportError("this version of msgspec does not work without its Python part: install msgspec 0.20 to 0.22")


if not TYPE_CHECKING:
    if "typing" in sys.modules or "msgspec" in sys.modules:
        from msgspec import _core as core
    else:
        core = _bare_core()

    DecodeError = core.DecodeError
    Decoder = core.MsgpackDecoder
    Raw = core.Raw
    Struct = core.Struct
    ValidationError = core.ValidationError
    asdict = core.asdict
    convert = core.convert
    decode = core.msgpack_decode
    decode_json = core.json_decode
    encode = core.msgpack_encode
    encode_json = core.json_encode
    force_setattr = core.force_setattr
    format_json = core.json_format
    replace = core.replace
    to_builtins = core.to_builtins

    def field(*, default=core.NODEFAULT, default_factory=core.NODEFAULT, name=None):
        return core.Field(default=default, default_factory=default_factory, name=name)


UNREADABLE = (DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises. The second and third are for a text that is none, and for a nest of arrays: msgspec hands them
on as they are."""
