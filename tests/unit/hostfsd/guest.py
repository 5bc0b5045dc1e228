"""The guest's kernel for tests: FUSE requests over a queue, as Linux lays them out."""

import itertools
import os
import struct
import threading
from typing import NamedTuple

from frontend import GUEST_BASE, RING_AREA, Frontend, Ring

BUFFERS = 8 * RING_AREA
SLOT = 0x180000
RANGE = 2 << 20


class FuseError(OSError):
    pass


class Attributes(NamedTuple):
    ino: int
    size: int
    blocks: int
    atime: int
    mtime: int
    ctime: int
    atime_ns: int
    mtime_ns: int
    ctime_ns: int
    mode: int
    nlink: int
    uid: int
    gid: int
    rdev: int
    blksize: int
    flags: int


class Entry(NamedTuple):
    node: int
    entry_valid: int
    attr_valid: int
    attr: Attributes


def parse_attributes(data: bytes) -> Attributes:
    return Attributes(*struct.unpack_from("<6Q10I", data))


def parse_entry(data: bytes) -> Entry:
    node, _generation, entry_valid, attr_valid = struct.unpack_from("<4Q", data)
    return Entry(node, entry_valid, attr_valid, parse_attributes(data[40:]))


class Guest:
    """Synchronous requests. `queue` counts from 1; each queue has its own buffer in guest memory."""

    def __init__(self, frontend: Frontend, uid: int = 0, gid: int = 0) -> None:
        self.frontend = frontend
        self.unique = itertools.count(2, 2)
        self.uid, self.gid = uid, gid
        self.locks = [threading.Lock() for _ in frontend.rings]

    def call(
        self, op: int, node: int, arguments: bytes = b"", data: bytes = b"", space: int = 4096,
        queue: int = 1, answered: bool = True, indirect: bool = False,
    ) -> bytes:  # fmt: skip
        """Send one request and return the answer's data. Raises FuseError."""
        frontend = self.frontend
        ring: Ring = frontend.rings[queue]
        unique = next(self.unique)
        total = 40 + len(arguments) + len(data)
        header = struct.pack("<IIQQIIIHH", total, op, unique, node, self.uid, self.gid, 1, 0, 0)
        with self.locks[queue]:
            base = BUFFERS + queue * SLOT
            chain = []
            position = base + 0x1000
            for part in (header, arguments, data):
                if part:
                    frontend.ram[position : position + len(part)] = part
                    chain.append((GUEST_BASE + position, len(part), 0))
                    position += len(part)
            answer = position
            if answered:
                chain.append((GUEST_BASE + position, 16, 2))
                if space:
                    chain.append((GUEST_BASE + position + 16, space, 2))
            if indirect:
                table = b"".join(
                    struct.pack("<QIHH", a, n, f | (1 if i < len(chain) - 1 else 0), i + 1)
                    for i, (a, n, f) in enumerate(chain)
                )
                frontend.ram[base : base + len(table)] = table
                chain = [(GUEST_BASE + base, len(table), 4)]
            ring.put(chain)
            written = ring.wait()[1]
            if not answered:
                return b""
            if not written:
                raise FuseError(71, "dropped")
            length, error, echoed = struct.unpack_from("<IiQ", frontend.ram, answer)
            assert length == written and echoed == unique
            if error:
                assert length == 16
                raise FuseError(-error, os.strerror(-error))
            return bytes(frontend.ram[answer + 16 : answer + length])

    # -- requests

    def init(self, flags: int = 0xFFFFFFFF, flags2: int = 0xFFFFFFFF) -> tuple[int, int]:
        data = self.call(26, 0, struct.pack("<IIII", 7, 38, 131072, flags) + struct.pack("<I", flags2) + bytes(44))
        fields = struct.unpack_from("<IIIIHHIIHHII", data)
        assert fields[:2] == (7, 38)
        return fields[3], fields[10]

    def lookup(self, name: bytes, node: int = 1, **more: object) -> Entry:
        return parse_entry(self.call(1, node, name + b"\0", **more))  # type: ignore[arg-type]

    def walk(self, path: str) -> Entry:
        node = 1
        entry = None
        for name in path.split("/"):
            entry = self.lookup(name.encode(), node)
            node = entry.node
        assert entry
        return entry

    def forget(self, node: int, count: int = 1, queue: int = 0) -> None:
        self.call(2, node, struct.pack("<Q", count), queue=queue, answered=False)

    def getattr(self, node: int) -> Attributes:
        return parse_attributes(self.call(3, node, bytes(16))[16:])

    def setattr(self, node: int, valid: int, handle: int = 0, size: int = 0, times: tuple[int, ...] = (0,) * 6,
                mode: int = 0, uid: int = 0, gid: int = 0) -> Attributes:  # fmt: skip
        body = struct.pack("<IIQQQ", valid, 0, handle, size, 0) + struct.pack("<3Q3I", *times)
        body += struct.pack("<IIIII", mode, 0, uid, gid, 0)
        return parse_attributes(self.call(4, node, body)[16:])

    def open(self, node: int, flags: int = os.O_RDWR) -> int:
        return struct.unpack_from("<Q", self.call(14, node, struct.pack("<II", flags, 0)))[0]

    def create(self, name: bytes, flags: int = os.O_RDWR, mode: int = 0o644, umask: int = 0o022, node: int = 1):
        data = self.call(35, node, struct.pack("<IIII", flags | os.O_CREAT, mode, umask, 0) + name + b"\0")
        return parse_entry(data), struct.unpack_from("<Q", data, 128)[0]

    def read(self, handle: int, offset: int, size: int, node: int = 0, queue: int = 1) -> bytes:
        return self.call(15, node, struct.pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0), space=size, queue=queue)

    def write(self, handle: int, offset: int, data: bytes, node: int = 0) -> int:
        body = struct.pack("<QQIIQII", handle, offset, len(data), 0, 0, 0, 0)
        return struct.unpack_from("<I", self.call(16, node, body, data))[0]

    def release(self, handle: int, node: int = 0) -> None:
        self.call(18, node, struct.pack("<QIIQ", handle, 0, 0, 0))

    def flush(self, handle: int) -> None:
        self.call(25, 0, struct.pack("<QIIQ", handle, 0, 0, 0))

    def fsync(self, handle: int, data_only: bool = False) -> None:
        self.call(20, 0, struct.pack("<QII", handle, int(data_only), 0))

    def mkdir(self, name: bytes, mode: int = 0o755, umask: int = 0, node: int = 1) -> Entry:
        return parse_entry(self.call(9, node, struct.pack("<II", mode, umask) + name + b"\0"))

    def opendir(self, node: int) -> int:
        return struct.unpack_from("<Q", self.call(27, node, bytes(8)))[0]

    def readdir(self, handle: int, offset: int = 0, size: int = 4096, plus: bool = False):
        """Return [(entry or None, inode, offset, type, name)] of one request."""
        data = self.call(44 if plus else 28, 0, struct.pack("<QQIIQII", handle, offset, size, 0, 0, 0, 0), space=size)
        found = []
        position = 0
        while position < len(data):
            entry = None
            if plus:
                entry = parse_entry(data[position:])
                position += 128
            number, following, length, kind = struct.unpack_from("<QQII", data, position)
            name = data[position + 24 : position + 24 + length]
            position += (24 + length + 7) // 8 * 8
            found.append((entry, number, following, kind, name))
        return found

    def list(self, node: int, plus: bool = False, size: int = 4096):
        handle = self.opendir(node)
        found, offset = [], 0
        while part := self.readdir(handle, offset, size, plus):
            found += part
            offset = part[-1][2]
        self.releasedir(handle)
        return found

    def releasedir(self, handle: int) -> None:
        self.call(29, 0, struct.pack("<QIIQ", handle, 0, 0, 0))

    def map(self, node: int, offset: int = 0, position: int = 0, write: bool = False, length: int = RANGE) -> None:
        self.call(48, node, struct.pack("<QQQQQ", 2**64 - 1, offset, length, 3 if write else 2, position), space=0)

    def unmap(self, *positions: int) -> None:
        body = struct.pack("<I", len(positions)) + b"".join(struct.pack("<QQ", p, RANGE) for p in positions)
        self.call(49, 0, body, space=0)
