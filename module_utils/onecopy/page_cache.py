"""Cached pages of files and trees: count them, bring them to a state, prove it."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from . import cachestat
from .cachestat import CacheStat

Method = Literal["cachestat", "mincore"]
State = Literal["resident", "evicted"]
TRIES: Final = 3
_SKIPPED_SHOWN: Final = 100
# ELOOP: a file that became a link since it was listed.
_VANISHED: Final = (errno.ENOENT, errno.ESTALE, errno.ELOOP)
_UNREADABLE: Final = (errno.EACCES, errno.EPERM)


class PageCacheError(Exception):
    """What was asked for cannot be counted or reached; one line."""


@dataclass(slots=True)
class Total:
    """Pages of 4,096 bytes, summed over files. What mincore cannot tell is None.

    ``skipped`` names at most a hundred of the ``skipped_files`` inside trees, each with ``reason``: dax, unreadable or vanished.
    """

    files: int = 0
    pages: int = 0
    resident_pages: int = 0
    dirty_pages: int | None = 0
    writeback_pages: int | None = 0
    evicted_pages: int | None = 0
    recently_evicted_pages: int | None = 0
    skipped_files: int = 0
    skipped: list[dict[str, str]] = field(default_factory=list)

    def add(self, counted: CacheStat) -> None:
        """Add one file."""
        self.files += 1
        self.pages += counted.pages
        self.resident_pages += counted.resident
        self.dirty_pages = _sum(self.dirty_pages, counted.dirty)
        self.writeback_pages = _sum(self.writeback_pages, counted.writeback)
        self.evicted_pages = _sum(self.evicted_pages, counted.evicted)
        self.recently_evicted_pages = _sum(self.recently_evicted_pages, counted.recently_evicted)

    def skip(self, path: str, reason: str) -> None:
        """Note a file inside a tree that could not be counted."""
        self.skipped_files += 1
        if len(self.skipped) < _SKIPPED_SHOWN:
            self.skipped.append({"path": printable(path), "reason": reason})

    def as_dict(self) -> dict[str, Any]:
        """For a module's result: what is None is left out."""
        return {name: value for name, value in asdict(self).items() if value is not None}


def count(
    paths: Iterable[str], method: Method | None = None, on_file: Callable[[str, CacheStat], None] | None = None
) -> Total:
    """Count the cached pages of files, block devices and all regular files of trees; a file with several names once.

    ``method`` None takes cachestat where the kernel has it. Raises PageCacheError when a path that was named cannot be counted.
    """
    ask = cachestat.mincore if method == "mincore" else cachestat.cachestat
    total = Total()

    def visit(path: str, fd: int) -> None:
        counted = ask(fd)
        total.add(counted)
        if on_file is not None:
            on_file(path, counted)

    _each(paths, total, visit)
    return total


def collector(files: dict[str, Any]) -> Callable[[str, CacheStat], None]:
    """For count()'s ``on_file``: gather every file's figures in ``files`` by its printable path."""

    def collect(path: str, counted: CacheStat) -> None:
        one = Total()
        one.add(counted)
        figures = one.as_dict()
        files[printable(path)] = {name: figures[name] for name in figures if name.endswith("_pages") or name == "pages"}

    return collect


def bring(paths: Iterable[str], state: State, dry: bool = False) -> tuple[Total, Total]:
    """Bring every file to ``state`` and count again; returns the pages before and after (``dry``: before twice, nothing is done).

    Raises PageCacheError when pages are still missing, or still there, after three tries: mapped by somebody, or reclaimed.
    """
    wanted = list(paths)
    before = _pass(wanted, state, act=not dry)
    if dry or is_reached(before, state):
        return before, before
    for _ in range(TRIES):
        after = count(wanted)
        if is_reached(after, state):
            return before, after
        _pass(wanted, state, act=True)
    raise PageCacheError(_not_reached(wanted, state))


def is_reached(total: Total, state: State) -> bool:
    """Whether all pages are in the cache, or none."""
    return total.resident_pages == (total.pages if state == "resident" else 0)


def printable(path: str) -> str:
    """A path that JSON can carry: bytes that are not UTF-8 as escapes."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def _pass(paths: list[str], state: State, act: bool) -> Total:
    """Count each file, and act on it unless it is in the state already."""
    total = Total()
    change = cachestat.prefetch if state == "resident" else cachestat.evict

    def visit(path: str, fd: int) -> None:
        counted = cachestat.cachestat(fd)
        total.add(counted)
        if act and counted.resident != (counted.pages if state == "resident" else 0):
            change(fd)

    _each(paths, total, visit)
    return total


def _not_reached(paths: list[str], state: State) -> str:
    worst: dict[str, int] = {}

    def look(path: str, counted: CacheStat) -> None:
        off = counted.pages - counted.resident if state == "resident" else counted.resident
        if off > max(worst.values(), default=0):
            worst.clear()
            worst[path] = off

    total = count(paths, on_file=look)
    cause = "is memory too small for them?" if state == "resident" else "who maps them? pages in use cannot be evicted"
    example = "".join(f" ({off} of these in {printable(path)})" for path, off in worst.items())
    off = total.pages - total.resident_pages if state == "resident" else total.resident_pages
    return f"{off} of {total.pages} pages are not {state} after {TRIES} tries{example}: {cause}"


def _each(paths: Iterable[str], total: Total, visit: Callable[[str, int], None]) -> None:
    """Open one file after the other for ``visit``. A file in a tree may fail, and is skipped in ``total``; a named one may not."""
    seen: set[tuple[int, int]] = set()
    for top in paths:
        for path in _files(top, total):
            try:
                # O_NONBLOCK, since a name may have become a FIFO. Only what was named may be a link.
                fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | (0 if path == top else os.O_NOFOLLOW))
                try:
                    if not _is_seen(fd, seen):
                        visit(path, fd)
                finally:
                    os.close(fd)
            except OSError as error:
                if path == top or not _skip(total, path, error):
                    raise PageCacheError(f"{printable(path)}: {error.strerror}") from error


def _files(top: str, total: Total) -> Iterator[str]:
    def unlisted(error: OSError) -> None:
        if error.filename == top or not _skip(total, str(error.filename), error):
            raise error

    try:
        mode = os.stat(top).st_mode
        if stat.S_ISBLK(mode):
            yield top
        elif stat.S_ISREG(mode) or stat.S_ISDIR(mode):
            yield from cachestat.walk_files(top, unlisted)
        else:
            raise PageCacheError(f"{printable(top)}: is no regular file, directory or block device")
    except OSError as error:
        raise PageCacheError(f"{printable(str(error.filename or top))}: {error.strerror}") from error


def _is_seen(fd: int, seen: set[tuple[int, int]]) -> bool:
    """Whether the file was visited by another of its names; only files with several are remembered."""
    status = os.fstat(fd)
    if status.st_nlink < 2:
        return False
    known = len(seen)
    seen.add((status.st_dev, status.st_ino))
    return len(seen) == known


def _skip(total: Total, path: str, error: OSError) -> bool:
    """Note why a file in a tree is left out; False when it is none of the reasons that trees have by nature."""
    if isinstance(error, cachestat.DaxFileError):
        total.skip(path, "dax")
    elif error.errno in _VANISHED:
        total.skip(path, "vanished")
    elif error.errno in _UNREADABLE:
        total.skip(path, "unreadable")
    else:
        return False
    return True


def _sum(total: int | None, value: int | None) -> int | None:
    return None if total is None or value is None else total + value
