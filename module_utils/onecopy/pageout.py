"""Make another process let go of file pages that it maps, so that the host's cache of the file can be evicted."""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterator
from mmap import mmap
from pathlib import Path
from typing import Final

from . import cachestat

_SYS_PROCESS_MADVISE: Final = 440
_MADV_PAGEOUT: Final = 21
# The kernel takes at most this much of one vector element; a larger one would be cut short without a word.
_CHUNK_BYTES: Final = 1 << 30
_BLOCK_BYTES: Final = 1 << 20
_PUNCH_HOLE: Final = 0x03  # with KEEP_SIZE


class _IoVec(ctypes.Structure):
    _fields_ = (("base", ctypes.c_void_p), ("length", ctypes.c_size_t))


def mapped_ranges(maps: str, path: str) -> Iterator[tuple[int, int]]:
    """Address and length in bytes of every mapping of ``path`` in the text of a /proc/PID/maps."""
    for line in maps.splitlines():
        words = line.split(maxsplit=5)
        if len(words) == 6 and words[5] == path:
            start, end = (int(word, 16) for word in words[0].split("-"))
            yield start, end - start


def page_out(pid: int, path: Path) -> int:
    """Reclaim the clean pages of ``path`` that ``pid`` maps; returns the bytes advised (which are not all freed: verify).

    Neither posix_fadvise(DONTNEED) nor drop_caches touches pages that a process maps. Needs root; raises OSError.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    maps = Path(f"/proc/{pid}/maps").read_text(encoding="utf-8", errors="surrogateescape")
    pidfd = os.pidfd_open(pid)
    advised = 0
    try:
        for start, length in mapped_ranges(maps, str(path)):
            for offset in range(0, length, _CHUNK_BYTES):
                vector = _IoVec(start + offset, min(_CHUNK_BYTES, length - offset))
                done = libc.syscall(
                    _SYS_PROCESS_MADVISE, pidfd, ctypes.byref(vector), ctypes.c_size_t(1), _MADV_PAGEOUT, 0
                )
                if done < 0:
                    raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(path))
                advised += done
    finally:
        os.close(pidfd)
    return advised


def take_back(path: Path) -> None:
    """Make every process let go of what is cached of ``path``, also of pages that several map, which page_out cannot free.

    What is cached is written over itself past the page cache, block by block, and the kernel takes such pages from everybody; a hole is
    punched again. The bytes stay the same, and no block is allocated. Dirty pages are written. A last page that is not full stays: nothing
    but whole pages goes past the page cache. Raises OSError.
    """
    fd = os.open(path, os.O_RDWR | os.O_DIRECT | os.O_CLOEXEC)
    try:
        size = os.fstat(fd).st_size // cachestat.PAGE_SIZE * cachestat.PAGE_SIZE
        # O_DIRECT wants whole pages of memory.
        buffer = mmap(-1, _BLOCK_BYTES)
        for start in range(0, size, _BLOCK_BYTES):
            length = min(_BLOCK_BYTES, size - start)
            if cachestat.cachestat(fd, start, length).resident:
                for offset, end, is_data in _segments(fd, start, start + length):
                    if is_data:
                        view = memoryview(buffer)[: end - offset]
                        os.preadv(fd, [view], offset)
                        os.pwritev(fd, [view], offset)
                    else:
                        _punch(fd, offset, end - offset)
    finally:
        os.close(fd)


def _segments(fd: int, start: int, end: int) -> Iterator[tuple[int, int, bool]]:
    """Data and holes between two offsets, in order."""
    while start < end:
        try:
            data = min(os.lseek(fd, start, os.SEEK_DATA), end)
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            data = end  # a hole up to the end of the file
        if data > start:
            yield start, data, False
        if data < end:
            start = min(os.lseek(fd, data, os.SEEK_HOLE), end)
            yield data, start, True
        else:
            start = end


def _punch(fd: int, offset: int, length: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.fallocate(fd, _PUNCH_HOLE, ctypes.c_int64(offset), ctypes.c_int64(length)):
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
