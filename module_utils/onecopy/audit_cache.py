"""Resident bytes of images and shares on a running host, without changing any cache.

Files are reached through the descriptors of the processes that hold them (``/proc/PID/fd``), opened read-only with
O_NOATIME and never read. A share's tree is walked only where the kernel's name cache already knows the names (openat2
with RESOLVE_CACHED): no inode is loaded; the listings of directories already known are all that is read.
"""

from __future__ import annotations

import ctypes
import errno
import os
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Final, Literal

from . import cachestat
from .audit_processes import PROC, FileKey, OpenFile

_SYS_OPENAT2: Final = 437
_RESOLVE_CACHED: Final = 0x20
_RESOLVE_NO_SYMLINKS: Final = 0x04
_READ: Final = os.O_RDONLY | os.O_NOATIME | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
WalkMode = Literal["known_names", "everything", "none"]

_libc = ctypes.CDLL(None, use_errno=True)


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


@dataclass(slots=True)
class Residency:
    """What was counted of one image or of a set of files; bytes. ``skipped`` names were not in the name cache."""

    bytes: int = 0
    size: int = 0
    files: int = 0
    dax_files: int = 0
    skipped: int = 0
    unreadable: int = 0
    complete: bool = True
    why_incomplete: str | None = None


@dataclass(slots=True)
class Deadline:
    """A time budget in seconds, shared by all that spend from it."""

    seconds: float
    clock: Callable[[], float] = time.monotonic
    end: float = field(init=False)

    def __post_init__(self) -> None:
        self.end = self.clock() + self.seconds

    @property
    def over(self) -> bool:
        return self.clock() >= self.end


def resident_bytes(fd: int) -> int:
    """Memory that this host's page cache holds for an open file: whole pages, the last one too."""
    return cachestat.cachestat(fd).resident * cachestat.PAGE_SIZE


def of_open_file(pid: int, found: OpenFile) -> Residency:
    """Residency of a file through the descriptor that a process holds, be it deleted or in another mount namespace.

    Raises OSError where it cannot be opened; DaxFileError for a file that lies on DAX itself.
    """
    fd = os.open(PROC / str(pid) / "fd" / str(found.fd), _READ)
    try:
        size = os.lseek(fd, 0, os.SEEK_END) if found.is_block else found.size
        return Residency(resident_bytes(fd), size, 1)
    finally:
        os.close(fd)


def of_held_files(pid: int, files: Iterable[OpenFile], deadline: Deadline) -> Residency:
    """Residency of all files that a daemon keeps open for its guest, each inode once."""
    total = Residency()
    seen: set[FileKey] = set()
    for found in files:
        if found.key in seen or found.size == 0:
            continue
        if deadline.over:
            return _cut(total, deadline)
        seen.add(found.key)
        try:
            one = of_open_file(pid, found)
        except cachestat.DaxFileError:
            total.dax_files += 1
        except OSError:
            total.unreadable += 1
        else:
            total.bytes, total.size, total.files = total.bytes + one.bytes, total.size + one.size, total.files + 1
    return total


def of_tree(root: int, mode: WalkMode, deadline: Deadline) -> Residency:
    """Residency of the regular files below the directory ``root`` (a descriptor, not consumed), hard links once, one
    file system.
    """
    total = Residency()
    if mode == "none":
        return total
    opener = _open_known if mode == "known_names" else _open_any
    seen: set[int] = set()
    top = os.open(".", _READ | os.O_DIRECTORY, dir_fd=root)
    try:
        for fd in _walk(top, os.fstat(root).st_dev, opener, total, deadline):
            status = os.fstat(fd)
            if status.st_ino in seen:
                continue
            seen.add(status.st_ino)
            try:
                total.bytes += resident_bytes(fd)
            except cachestat.DaxFileError:
                total.dax_files += 1
            except OSError:
                total.unreadable += 1
            else:
                total.size += status.st_size
                total.files += 1
    finally:
        os.close(top)
    return _cut(total, deadline) if deadline.over else total


def _walk(
    directory: int, device: int, opener: Callable[[int, str, int], int], total: Residency, deadline: Deadline
) -> Iterator[int]:
    """Descriptors of the regular files below ``directory``, each open while it is looked at."""
    with os.scandir(directory) as listing:
        for entry in listing:
            if deadline.over:
                return
            is_directory = entry.is_dir(follow_symlinks=False)
            if not is_directory and not entry.is_file(follow_symlinks=False):
                continue
            try:
                fd = opener(directory, entry.name, os.O_DIRECTORY if is_directory else 0)
            except OSError as error:
                if error.errno == errno.EAGAIN:
                    total.skipped += 1
                elif error.errno != errno.ENOENT:
                    total.unreadable += 1
                continue
            try:
                if os.fstat(fd).st_dev != device:
                    continue
                if is_directory:
                    yield from _walk(fd, device, opener, total, deadline)
                else:
                    yield fd
            finally:
                os.close(fd)


def _open_any(directory: int, name: str, flags: int) -> int:
    return os.open(name, _READ | os.O_NOFOLLOW | flags, dir_fd=directory)


def _open_known(directory: int, name: str, flags: int) -> int:
    """Open a name that the kernel has in its name cache; EAGAIN where it has not."""
    how = _How(_READ | os.O_NOFOLLOW | flags, 0, _RESOLVE_CACHED | _RESOLVE_NO_SYMLINKS)
    fd = _libc.syscall(_SYS_OPENAT2, directory, os.fsencode(name), ctypes.byref(how), ctypes.sizeof(how))
    if fd < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), name)
    return int(fd)


def known_names_supported() -> bool:
    """Whether this kernel can open only what its name cache knows (openat2 with RESOLVE_CACHED, Linux 5.12)."""
    root = os.open("/", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.close(_open_known(root, "proc", os.O_DIRECTORY))
    except OSError as error:
        return error.errno == errno.EAGAIN
    finally:
        os.close(root)
    return True


def _cut(total: Residency, deadline: Deadline) -> Residency:
    total.complete, total.why_incomplete = False, f"cut short after {deadline.seconds:g} s"
    return total
