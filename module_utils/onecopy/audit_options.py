"""The grammar of QEMU's command line: ``-option key=value,…`` with ``,,`` for a comma, or a JSON object. Pure."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final

Options = dict[str, str]

_FLAGS: Final = {
    "S", "daemonize", "enable-kvm", "full-screen", "mem-prealloc", "no-acpi", "no-fd-bootchk", "no-hpet", "no-quit",
    "no-reboot", "no-shutdown", "no-user-config", "nodefaults", "nographic", "only-migratable", "s", "semihosting",
    "singlestep", "snapshot", "usb", "xen-attach", "xen-domid-restrict",
}  # fmt: skip


def key_values(text: str, implied: str = "") -> Options:
    """``a,b=c,d`` → {implied: a, b: c, d: on}; a JSON object is flattened to dotted keys with on/off for booleans."""
    if text.startswith("{"):
        return _flatten(json.loads(text))
    options: Options = {}
    for number, part in enumerate(part.replace("\0", ",") for part in text.replace(",,", "\0").split(",")):
        key, equals, value = part.partition("=")
        if equals:
            options[key] = value
        elif number == 0 and implied:
            options[implied] = part
        elif part:
            options[part] = "on"
    return options


def size_bytes(text: str, unit: str = "M") -> int:
    """QEMU's sizes: ``512``, ``512M``, ``4G``, ``1.5G``; a bare number counts in ``unit`` (B for -object, M for -m)."""
    found = (
        re.fullmatch(r"(\d+(?:\.\d+)?)([bBkKmMgGtTpP]?)i?[bB]?", text.strip())
        if not text.lower().startswith("0x")
        else None
    )
    if text.lower().startswith("0x"):
        return int(text, 16)
    if not found:
        raise ValueError(f"'{text}' is no size")
    return int(float(found[1]) * 1024 ** "BKMGTP".index((found[2] or unit).upper()))


def options_of(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(option, value) pairs; the value is empty where none follows. Image paths without an option come as ``hda``."""
    position = 1
    while position < len(argv):
        word = argv[position]
        position += 1
        if not word.startswith("-") or word == "-":
            yield "hda", word
            continue
        value = ""
        name = word.lstrip("-")
        if name not in _FLAGS and position < len(argv) and not re.match(r"--?[A-Za-z]", argv[position]):
            value = argv[position]
            position += 1
        yield name, value


def is_on(options: Options, key: str, default: bool = False) -> bool:
    """A boolean of QEMU's: on, yes, true or y."""
    return options[key] in ("on", "yes", "true", "y") if key in options else default


def _flatten(value: Any, prefix: str = "") -> Options:
    if isinstance(value, dict):
        return {key: text for name, item in value.items() for key, text in _flatten(item, f"{prefix}{name}.").items()}
    if isinstance(value, list):
        return {
            key: text for number, item in enumerate(value) for key, text in _flatten(item, f"{prefix}{number}.").items()
        }
    text = {True: "on", False: "off"}[value] if isinstance(value, bool) else "" if value is None else str(value)
    return {prefix.removesuffix("."): text}
