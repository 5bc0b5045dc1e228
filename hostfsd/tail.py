"""The part of a DAX range that cannot be mapped from the file: QEMU maps no page that reaches past the file's end.

It is a memory file that the guest maps instead, kept equal to the file by a three-way merge: what the guest changed
goes to the file, what changed in the file goes to the guest. It reaches to the end of the range, so that a file that grows
while it is in use needs no new mapping: what a guest's thread stores between two mappings would be lost.
"""

import os
from collections.abc import Iterator

from hostfsd.inodes import Descriptor

_CHUNK = 256


def differences(one: bytes, other: bytes) -> Iterator[tuple[int, int]]:
    """Yield (start, end) of the runs where two strings of equal length differ."""
    if one == other:
        return
    start = -1
    for base in range(0, len(one), _CHUNK):
        a, b = one[base : base + _CHUNK], other[base : base + _CHUNK]
        if a == b:
            if start >= 0:
                yield start, base
                start = -1
            continue
        for index, (x, y) in enumerate(zip(a, b, strict=True), base):
            if x != y and start < 0:
                start = index
            elif x == y and start >= 0:
                yield start, index
                start = -1
    if start >= 0:
        yield start, len(one)


def write_all(fd: int, data: bytes, offset: int) -> None:
    view = memoryview(data)
    while view:
        count = os.pwrite(fd, view, offset)
        view, offset = view[count:], offset + count


class Tail(Descriptor):
    """`span` bytes of memory that stand for the file from `start` on. `_agreed` is what both last had in common."""

    __slots__ = ("_agreed", "identity", "span", "start")

    def __init__(self, start: int, span: int) -> None:
        super().__init__(os.memfd_create("hostfsd-tail", os.MFD_CLOEXEC))
        self.start, self.span = start, span
        self._agreed = b""
        os.ftruncate(self.fd, span)
        status = os.fstat(self.fd)
        self.identity = (status.st_dev, status.st_ino)

    def merge(self, file: int, writable: bool) -> int:
        """Make memory and file equal, return how many bytes of the guest went to the file.

        Where both changed a byte the guest's wins. Raises OSError (ENOSPC, …) when the file takes nothing; nothing is
        lost then, and the next merge tries again.
        """
        content = self._read_file(file)
        size, before = len(content), len(self._agreed)
        common = min(size, before)
        memory = os.pread(self.fd, common, 0)
        stored = 0
        if writable:
            merged = bytearray(content)
            for start, end in differences(memory, self._agreed[:common]):
                write_all(file, memory[start:end], self.start + start)
                merged[start:end] = memory[start:end]
                stored += end - start
            if stored:
                content = bytes(merged)
        for start, end in differences(content[:common], memory):
            os.pwrite(self.fd, content[start:end], start)
        if size > common:
            os.pwrite(self.fd, content[common:], common)
        elif before > size:
            os.pwrite(self.fd, bytes(before - size), size)
        if content != self._agreed:
            # Else the old object stays: new ones at every tick would scatter small pieces over the heap.
            self._agreed = content
        return stored

    def _read_file(self, file: int) -> bytes:
        content = os.pread(file, self.span, self.start)
        while 0 < len(content) < self.span:
            more = os.pread(file, self.span - len(content), self.start + len(content))
            if not more:
                break
            content += more
        return content

    @property
    def resident_pages(self) -> int:
        return os.fstat(self.fd).st_blocks // 8
