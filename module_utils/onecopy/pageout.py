"""Make another process let go of file pages that it maps, so that the host's cache of the file can be evicted."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

_SYS_PROCESS_MADVISE: Final = 440
_MADV_PAGEOUT: Final = 21
# The kernel takes at most this much of one vector element; a larger one would be cut short without a word.
_CHUNK_BYTES: Final = 1 << 30


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
