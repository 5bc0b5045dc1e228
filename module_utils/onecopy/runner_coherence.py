"""Small changes of files, and ways of looking at them: each case has one observer alone, since one way of looking refreshes what another one sees.

Imports little: it is shipped into guests, where start-up time counts.
"""

from __future__ import annotations

import contextlib
import errno
import mmap
import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

PIECE = 64
OLD, NEW = b"o", b"n"
ABSENT, UNMAPPABLE = "absent", "cannot be mapped"

Look = Callable[[], str]


class Onlooker:
    """Watches files. A *case* is ``{path, observer, offset}``: offset says which PIECE bytes are looked at."""

    def __init__(self) -> None:
        self._held = contextlib.ExitStack()
        self._looks: list[Look] = []

    def watch(self, cases: Sequence[Mapping[str, Any]]) -> list[str]:
        """Begin to watch ``cases``, and no others any more; return what is seen first. No cases: nothing is held any more."""
        self._held.close()
        self._held = contextlib.ExitStack()
        self._looks = [
            _OBSERVERS[case["observer"]](str(case["path"]), int(case["offset"]), self._held) for case in cases
        ]
        return self.look()

    def look(self) -> list[str]:
        """What every case's observer sees now, as text that can be compared."""
        return [_seen(look) for look in self._looks]


def alter(changes: Sequence[Mapping[str, str]]) -> None:
    """Make every change (``{path, change}``), one after the other."""
    for one in changes:
        _CHANGES[one["change"]](one["path"])


def _seen(look: Look) -> str:
    try:
        return look()
    except FileNotFoundError:
        return ABSENT
    except OSError as error:
        return errno.errorcode.get(error.errno or 0, str(error))


def _descriptor(path: str, offset: int, held: contextlib.ExitStack) -> Look:
    """Reads through a descriptor that stays open."""
    fd = os.open(path, os.O_RDONLY)
    held.callback(os.close, fd)
    return lambda: os.pread(fd, PIECE, offset).hex()


def _open(path: str, offset: int, held: contextlib.ExitStack) -> Look:
    """Opens the file anew and reads."""

    def look() -> str:
        fd = os.open(path, os.O_RDONLY)
        try:
            return os.pread(fd, PIECE, offset).hex()
        finally:
            os.close(fd)

    return look


def _stat(path: str, offset: int, held: contextlib.ExitStack) -> Look:
    """Asks for size, time and identity."""

    def look() -> str:
        status = os.stat(path)
        return f"{status.st_size} {status.st_mtime_ns} {status.st_ino}"

    return look


def _listing(path: str, offset: int, held: contextlib.ExitStack) -> Look:
    """Lists the directory."""
    directory, name = os.path.split(path)
    return lambda: "present" if name in os.listdir(directory) else ABSENT


def _mapped(path: str, offset: int, held: contextlib.ExitStack) -> Look:
    """Looks at a page that stays mapped, shared."""
    fd = os.open(path, os.O_RDONLY)
    try:
        mapping = held.enter_context(mmap.mmap(fd, 0, mmap.MAP_SHARED, mmap.PROT_READ))
    except OSError as error:
        if error.errno != errno.ENODEV:
            raise
        return lambda: UNMAPPABLE
    finally:
        os.close(fd)

    def look() -> str:
        return mapping[offset : offset + PIECE].hex()

    return look


def _overwrite(path: str) -> None:
    _write_at(path, 0)


def _overwrite_end(path: str) -> None:
    _write_at(path, os.stat(path).st_size - PIECE)


def _append(path: str) -> None:
    _write_at(path, os.stat(path).st_size)


def _write_at(path: str, offset: int) -> None:
    fd = os.open(path, os.O_WRONLY)
    try:
        os.pwrite(fd, NEW * PIECE, offset)
    finally:
        os.close(fd)


def _replace(path: str) -> None:
    _create(f"{path}.new")
    os.rename(f"{path}.new", path)


def _create(path: str) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o644)
    try:
        os.write(fd, NEW * PIECE)
    finally:
        os.close(fd)


_OBSERVERS: dict[str, Callable[[str, int, contextlib.ExitStack], Look]] = {
    "descriptor": _descriptor,
    "open": _open,
    "stat": _stat,
    "listing": _listing,
    "mapped": _mapped,
}
_CHANGES: dict[str, Callable[[str], None]] = {
    "overwrite": _overwrite,
    "overwrite_end": _overwrite_end,
    "append": _append,
    "replace": _replace,
    "create": _create,
    "remove": os.unlink,
}
