"""Resident pages of files, by cachestat(2) or, where the kernel has none, mincore(2); evict and prefetch.

Light on purpose: it is shipped into guests, where start-up time counts. Pages are of 4,096 bytes.
"""

from __future__ import annotations

import ctypes
import errno
import functools
import os
import re
import stat
from collections.abc import Callable, Iterator
from typing import Final, Literal, NamedTuple

PAGE_SIZE: Final = 4096
# A data set's tree that came from a user as it is, and the size from which its files are large ones.
OWN_TREE: Final = "tree"
LARGE_BYTES: Final = 1 << 20
_SYS_CACHESTAT: Final = 451
_AT_EMPTY_PATH: Final = 0x1000
_AT_STATX_DONT_SYNC: Final = 0x4000
_STATX_BASIC: Final = 0x7FF
_STATX_ATTR_DAX: Final = 0x00200000
_MAP_FAILED: Final = ctypes.c_void_p(-1).value
_MINCORE_WINDOW: Final = 1 << 30
_READ_CHUNK: Final = 4 << 20
_RUN: Final = re.compile(b"\x01+")

_libc = ctypes.CDLL(None, use_errno=True)
_libc.mmap.restype = ctypes.c_void_p
_libc.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_int64)
_libc.munmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t)
_libc.madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)
_libc.mincore.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_char_p)


class CacheStat(NamedTuple):
    """Pages of one range of a file. What the kernel does not tell (mincore knows residency alone) is None, never 0.

    ``pages`` counts the pages of the range that lie inside the file; ``evicted`` those whose eviction the kernel
    remembers, ``recently_evicted`` those whose return would count as a refault.
    """

    pages: int
    resident: int
    dirty: int | None
    writeback: int | None
    evicted: int | None
    recently_evicted: int | None


class DaxFileError(OSError):
    """The file is on DAX: it has no page cache of its own here, and asking for it oopses a 6.12 kernel."""


class _Range(ctypes.Structure):
    _fields_ = (("offset", ctypes.c_uint64), ("length", ctypes.c_uint64))


class _Answer(ctypes.Structure):
    _fields_ = (
        ("resident", ctypes.c_uint64),
        ("dirty", ctypes.c_uint64),
        ("writeback", ctypes.c_uint64),
        ("evicted", ctypes.c_uint64),
        ("recently_evicted", ctypes.c_uint64),
    )


class _Statx(ctypes.Structure):
    _fields_ = (
        ("mask_blksize", ctypes.c_uint64),
        ("attributes", ctypes.c_uint64),
        ("nlink_uid_gid", ctypes.c_uint32 * 3),
        ("mode", ctypes.c_uint16),
        ("inode", ctypes.c_uint64),
        ("size", ctypes.c_uint64),
        ("rest", ctypes.c_uint8 * 208),
    )


@functools.cache
def method() -> Literal["cachestat", "mincore"]:
    """Which call counts pages here: asked once, of an empty memfd, so that EPERM by a seccomp filter is told from EPERM by a file."""
    probe = os.memfd_create("onecopy-cachestat")
    try:
        _system_call(probe, 0, PAGE_SIZE)
    except OSError as error:
        if error.errno in (errno.ENOSYS, errno.EPERM):
            return "mincore"
        raise
    finally:
        os.close(probe)
    return "cachestat"


def cachestat(fd: int, offset: int = 0, length: int = 0) -> CacheStat:
    """Count the cached pages of ``length`` bytes (0: to the end) from ``offset`` of an open regular file or block device.

    Raises DaxFileError on DAX files and OSError otherwise; PermissionError where the caller neither owns nor may write the file.
    """
    first, pages = _page_range(fd, offset, length)
    if pages == 0:
        return CacheStat(0, 0, 0, 0, 0, 0)
    if method() == "mincore":
        return CacheStat(pages, _mincore(fd, first, pages), None, None, None, None)
    answer = _system_call(fd, first * PAGE_SIZE, pages * PAGE_SIZE)
    return CacheStat(pages, answer.resident, answer.dirty, answer.writeback, answer.evicted, answer.recently_evicted)


def mincore(fd: int, offset: int = 0, length: int = 0) -> CacheStat:
    """The same question put to mincore(2): residency alone, and 15 times slower; the descriptor must be readable."""
    first, pages = _page_range(fd, offset, length)
    return CacheStat(pages, _mincore(fd, first, pages), None, None, None, None)


def resident_runs(fd: int) -> list[tuple[int, int]]:
    """Which pages of a regular file are cached: runs of (first page, pages), in order. By mincore(2); see mincore().

    Raises DaxFileError on DAX files and OSError otherwise.
    """
    _, pages = _page_range(fd, 0, 0)
    runs: list[tuple[int, int]] = []
    for offset in range(0, pages * PAGE_SIZE, _MINCORE_WINDOW):
        length = min(_MINCORE_WINDOW, pages * PAGE_SIZE - offset)
        address = map_file(fd, offset, length)
        try:
            vector = resident_vector(address, length)
        finally:
            unmap(address, length)
        runs += [(offset // PAGE_SIZE + run.start(), run.end() - run.start()) for run in _RUN.finditer(vector)]
    return runs


def evict(fd: int) -> None:
    """Ask the kernel to drop every cached page of the file, dirty ones after writing them; pages that somebody maps stay.

    The caller verifies by cachestat().
    """
    counted = None if is_dax(fd) else cachestat(fd)
    if counted is None or counted.dirty is None or counted.dirty or counted.writeback:
        os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)


def prefetch(fd: int) -> int:
    """Read the file through the page cache and return the bytes read. The caller verifies by cachestat().

    WILLNEED first: where readahead is switched off, read() alone would fetch page by page.
    """
    buffer = bytearray(_READ_CHUNK)
    offset = 0
    while True:
        os.posix_fadvise(fd, offset, _READ_CHUNK, os.POSIX_FADV_WILLNEED)
        got = os.preadv(fd, (buffer,), offset)
        if not got:
            return offset
        offset += got


def is_dax(fd: int) -> bool:
    """Whether reads and mappings of the file bypass this kernel's page cache (statx's STATX_ATTR_DAX)."""
    return bool(_statx(fd).attributes & _STATX_ATTR_DAX)


def walk_files(top: str, on_error: Callable[[OSError], None] | None = None) -> Iterator[str]:
    """Yield the regular files at or below ``top``, sorted within each directory, one at a time.

    ``top`` itself may be a symbolic link; none below it is followed. A directory that cannot be read raises, or is
    given to ``on_error`` and left out.
    """
    if stat.S_ISREG(os.stat(top).st_mode):
        yield top
        return
    pending = [top]
    while pending:
        path = pending.pop()
        try:
            with os.scandir(path) as listing:
                entries = sorted(listing, key=lambda entry: entry.name)
        except OSError as error:
            if on_error is None:
                raise
            on_error(error)
            continue
        yield from (entry.path for entry in entries if entry.is_file(follow_symlinks=False))
        pending.extend(entry.path for entry in reversed(entries) if entry.is_dir(follow_symlinks=False))


def walk_part(part: str) -> Iterator[str]:
    """Yield the files of one part of a data set, such as ``…/a/large``: a directory; or, of a user's own ``…/a/tree`` beside it, by size.

    Any other file or directory gives what walk_files() gives.
    """
    parent, name = os.path.split(part)
    own = os.path.join(parent, OWN_TREE)
    if name not in ("large", "small") or not os.path.isdir(own):
        yield from walk_files(part)
        return
    for path in walk_files(own):
        if (os.lstat(path).st_size >= LARGE_BYTES) == (name == "large"):
            yield path


def _page_range(fd: int, offset: int, length: int) -> tuple[int, int]:
    """First page and number of pages of the range, cut off at the end of the file."""
    if offset < 0 or length < 0:
        raise ValueError(f"offset {offset} and length {length} must not be negative")
    status = _statx(fd)
    if status.attributes & _STATX_ATTR_DAX:
        raise DaxFileError(errno.EOPNOTSUPP, "is a DAX file: it has no page cache of its own", _name(fd))
    if stat.S_ISREG(status.mode):
        size = int(status.size)
    elif stat.S_ISBLK(status.mode):
        size = os.lseek(fd, 0, os.SEEK_END)
    else:
        raise OSError(errno.EINVAL, "is neither a regular file nor a block device", _name(fd))
    end = min(size, offset + length) if length else size
    first = offset // PAGE_SIZE
    return first, max(0, -(-end // PAGE_SIZE) - first) if end > offset else 0


def _statx(fd: int) -> _Statx:
    # One call answers type, size and DAX; os.fstat() knows nothing of DAX. What this kernel knows will do: it is this kernel's cache that is
    # counted, and on a FUSE mount every file would cost a question to the server.
    answer = _Statx()
    if _libc.statx(fd, b"", _AT_EMPTY_PATH | _AT_STATX_DONT_SYNC, _STATX_BASIC, ctypes.byref(answer)):
        raise _os_error(fd)
    return answer


def _system_call(fd: int, offset: int, length: int) -> _Answer:
    answer = _Answer()
    if _libc.syscall(_SYS_CACHESTAT, fd, ctypes.byref(_Range(offset, length)), ctypes.byref(answer), 0):
        raise _os_error(fd)
    return answer


def _mincore(fd: int, first: int, pages: int) -> int:
    # The kernel calls every page of somebody else's file resident rather than refuse: so refuse here.
    if os.fstat(fd).st_uid != os.geteuid() and not os.access(f"/proc/self/fd/{fd}", os.W_OK, effective_ids=True):
        raise PermissionError(errno.EPERM, "mincore answers only the owner or a writer of a file", _name(fd))
    resident = 0
    end = (first + pages) * PAGE_SIZE
    for offset in range(first * PAGE_SIZE, end, _MINCORE_WINDOW):
        length = min(_MINCORE_WINDOW, end - offset)
        address = map_file(fd, offset, length)
        try:
            resident += resident_vector(address, length).count(1)
        finally:
            unmap(address, length)
    return resident


def map_file(fd: int, offset: int, length: int) -> int:
    """Map a range of a file for reading, shared with the page cache, and return the address. Give it back by unmap()."""
    address = _libc.mmap(None, length, 1, 1, fd, offset)  # PROT_READ, MAP_SHARED
    if address == _MAP_FAILED:
        raise _os_error(fd)
    # Touching a page must not read others in.
    _libc.madvise(address, length, 1)  # MADV_RANDOM
    return int(address)


def unmap(address: int, length: int) -> None:
    """Take back what map_file() mapped."""
    _libc.munmap(address, length)


def resident_vector(address: int, length: int) -> bytes:
    """One byte a page of a mapping: 1 for resident. Raises OSError."""
    vector = ctypes.create_string_buffer(-(-length // PAGE_SIZE))
    if _libc.mincore(address, length, vector):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return vector.raw


def _os_error(fd: int) -> OSError:
    number = ctypes.get_errno()
    return OSError(number, os.strerror(number), _name(fd))


def _name(fd: int) -> str:
    try:
        return os.readlink(f"/proc/self/fd/{fd}")
    except OSError:
        return f"descriptor {fd}"
