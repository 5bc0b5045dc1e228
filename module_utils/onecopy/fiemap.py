"""Where the data of files lie on their device, by the FIEMAP ioctl."""

from __future__ import annotations

import fcntl
import os
import struct
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

_FS_IOC_FIEMAP: Final = 0xC020660B
_SYNC: Final = 1
_HEADER: Final = struct.Struct("=QQLLLL")
_EXTENT: Final = struct.Struct("=QQQQQLLLL")
_EXTENTS_A_CALL: Final = 256
_LAST: Final = 0x1
# unknown place, delayed, encoded, inline, tail-packed: no byte range of the device holds the file's bytes
_ELSEWHERE: Final = 0x2 | 0x4 | 0x8 | 0x80 | 0x100 | 0x200


class Extent(NamedTuple):
    """Bytes of a file and of its device."""

    logical: int
    physical: int
    length: int
    flags: int


class UnmappedError(OSError):
    """A file's data lie nowhere that could be counted."""


def extents(path: str) -> Iterator[Extent]:
    """Yield the extents of a file. Raises UnmappedError where they have no place of their own on the device."""
    fd = os.open(path, os.O_RDONLY)
    try:
        start = 0
        while True:
            request = bytearray(_HEADER.size + _EXTENTS_A_CALL * _EXTENT.size)
            _HEADER.pack_into(request, 0, start, 2**64 - 1 - start, _SYNC, 0, _EXTENTS_A_CALL, 0)
            fcntl.ioctl(fd, _FS_IOC_FIEMAP, request)
            found = parse(bytes(request))
            for extent in found:
                if extent.flags & _ELSEWHERE:
                    raise UnmappedError(0, f"extent at {extent.logical} has flags {extent.flags:#x}", path)
                yield extent
            if not found or found[-1].flags & _LAST:
                return
            start = found[-1].logical + found[-1].length
    finally:
        os.close(fd)


def parse(answer: bytes) -> list[Extent]:
    """The extents in a ``struct fiemap``."""
    mapped = _HEADER.unpack_from(answer)[3]
    result = []
    for number in range(mapped):
        fields = _EXTENT.unpack_from(answer, _HEADER.size + number * _EXTENT.size)
        result.append(Extent(fields[0], fields[1], fields[2], fields[5]))
    return result


def merge(ranges: Iterable[tuple[int, int]]) -> list[tuple[int, int]]:
    """Sort (offset, length) pairs and join those that touch or overlap."""
    merged: list[tuple[int, int]] = []
    for offset, length in sorted(ranges):
        if merged and offset <= sum(merged[-1]):
            last_offset, last_length = merged[-1]
            merged[-1] = (last_offset, max(last_length, offset + length - last_offset))
        else:
            merged.append((offset, length))
    return merged
