"""What one party sees of a file that another one changes: the cases, and what each cache mode promises of them, stated before any run.

The promises are those of virtiofsd's cache modes: *never* keeps nothing in the guest; *auto* keeps names and attributes for a second, and data
while a file is open (close-to-open consistency); *always* keeps everything for a day. A file that is mapped through a DAX window has no copy in
the guest, whatever the mode: its bytes are seen at once, its size and its name as the mode says.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from .systems import System

Case = tuple[str, str]  # a change and who observes it
CASES: Final[tuple[Case, ...]] = (
    ("overwrite", "descriptor"),
    ("overwrite", "open"),
    ("overwrite", "stat"),
    ("overwrite", "mapped"),
    ("overwrite_end", "descriptor"),
    ("overwrite_end", "open"),
    ("overwrite_end", "mapped"),
    ("append", "descriptor"),
    ("append", "open"),
    ("append", "stat"),
    ("replace", "open"),
    ("replace", "stat"),
    ("create", "open"),
    ("create", "stat"),
    ("create", "listing"),
    ("remove", "open"),
    ("remove", "stat"),
    ("remove", "listing"),
)
CHANGES: Final = {
    "overwrite": "first bytes overwritten in place",
    "overwrite_end": "last bytes overwritten in place",
    "append": "bytes appended",
    "replace": "replaced by rename",
    "create": "created",
    "remove": "removed",
}
OBSERVERS: Final = {
    "descriptor": "read by an open descriptor",
    "open": "opened anew and read",
    "stat": "stat",
    "listing": "directory listing",
    "mapped": "mapped page",
}
# A look takes some 10 ms, more in an emulated guest, and the change before it as long: a time-out may show that much later.
SLACK_SECONDS: Final = 1.0
# virtiofsd's time-out of names and attributes in mode auto.
_AUTO_SECONDS: Final = 1.0
# What the daemon does once a second at the latest with the part of a file that cannot be mapped: its last page.
_TAIL_SECONDS: Final = 1.0
_OPENED_ANEW: Final = (("overwrite", "open"), ("overwrite_end", "open"))
_WHILE_OPEN: Final = frozenset((change, observer) for change, observer in CASES if observer in ("descriptor", "mapped"))
_AUTO: Final[Mapping[Case, float | None]] = {
    case: None if case in _WHILE_OPEN else 0.0 if case in _OPENED_ANEW else _AUTO_SECONDS for case in CASES
}
_DAX: Final[Mapping[Case, float]] = {
    case: 0.0 if case[0] == "overwrite" else _TAIL_SECONDS
    for case in CASES
    if case[0].startswith("overwrite") and case[1] != "stat"
}


def promised(mode: str, is_mapped: bool, is_host: bool, change: str, observer: str) -> float | None:
    """Seconds after which the change must be seen; 0: by whoever looks next; None: nothing is promised.

    ``mode``: never, auto, always; ``is_mapped``: through a DAX window; ``is_host``: the host looks, which has what guests have written.
    """
    case = (change, observer)
    if is_host:
        return _TAIL_SECONDS if is_mapped and change == "overwrite_end" else 0.0
    if is_mapped and case in _DAX:
        return _DAX[case]
    return {"never": 0.0, "auto": _AUTO[case], "always": None}[mode]


def is_kept(promise: float | None, stale_seconds: float) -> bool:
    """Whether a change that still did not show ``stale_seconds`` after it was made is within the promise."""
    if promise is None:
        return True
    return stale_seconds <= (promise + SLACK_SECONDS if promise else 0.0)


def metric_name(change: str, observer: str) -> str:
    """What the staleness of a case is called in records."""
    return f"{change}_{observer}_stale_seconds"


def mode_of(system: System, options: Mapping[str, object]) -> str:
    """The cache mode that a boot's daemon runs in."""
    return str(options.get("cache") or system.virtiofs_cache)


def is_mapped(system: System, options: Mapping[str, object], file_bytes: int) -> bool:
    """Whether a file of this size reaches the guest through a DAX window."""
    least = options.get("inode_dax_kib", 1024)
    assert isinstance(least, int)
    return system.dax and (bool(options.get("dax_always")) or file_bytes >= least << 10)
