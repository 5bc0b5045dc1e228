"""One request of the guest: its header, its arguments, its data."""

from hostfsd import fuse
from hostfsd.virtqueue import BadChain, Chain

_HEADER = fuse.IN_HEADER.size
_WRITE_HEAD = _HEADER + fuse.WRITE_IN.size


class Request:
    """`arguments` is a copy that the guest cannot change; `data` (WRITE) and `space` are views of its memory."""

    __slots__ = ("arguments", "data", "gid", "node", "op", "space", "uid", "unique")

    def __init__(self, chain: Chain) -> None:
        readable = chain.readable
        if len(readable) == 2 and len(readable[0]) == _HEADER and len(readable[1]) <= fuse.MAX_ARGUMENTS:
            message = b"".join(readable)  # nearly every request: header and arguments
            total = len(message)
        else:
            message = b""
            total = sum(map(len, readable))
            if total < _HEADER:
                raise BadChain(f"request of {total} bytes")
        first = message or _head(readable, _HEADER)
        length, self.op, self.unique, self.node, self.uid, self.gid, _, _, _ = fuse.IN_HEADER.unpack_from(first)
        if length != total:
            raise BadChain(f"request says {length} bytes and has {total}")
        self.space = chain.writable
        self.data: list[memoryview] = []
        if self.op == fuse.Op.WRITE:
            self.arguments = _head(readable, _WRITE_HEAD)[_HEADER:]
            self.data = _skip(readable, _WRITE_HEAD)
        elif total == _HEADER:
            self.arguments = b""
        elif total > fuse.MAX_ARGUMENTS:
            raise BadChain(f"request of {total} bytes")
        elif message:
            self.arguments = message[_HEADER:]
        else:
            self.arguments = b"".join(readable)[_HEADER:]

    def answer(self, error: int, data: bytes) -> int:
        """Write the answer and return its length; data that does not fit becomes an error."""
        total = fuse.OUT_HEADER.size + len(data)
        space = self.space
        if len(space) == 2 and len(space[0]) == 16 and total - 16 <= len(space[1]):
            space[0][:] = fuse.OUT_HEADER.pack(total, error, self.unique)
            space[1][: total - 16] = data
            return total
        room = sum(map(len, space))
        if room < total:
            if room < fuse.OUT_HEADER.size:
                return 0
            total, error, data = fuse.OUT_HEADER.size, -34, b""
        message = fuse.OUT_HEADER.pack(total, error, self.unique) + data
        position = 0
        for view in space:
            part = message[position : position + len(view)]
            view[: len(part)] = part
            position += len(part)
            if position >= total:
                break
        return total

    def data_space(self, size: int) -> list[memoryview]:
        """Return at most `size` bytes of the space behind the answer's header."""
        space = self.space
        if len(space) == 2 and len(space[0]) == fuse.OUT_HEADER.size and len(space[1]) <= size:
            return [space[1]]
        return _clip(_skip(space, fuse.OUT_HEADER.size), size)

    def answer_placed(self, size: int) -> int:
        """Answer with `size` bytes that are in place already."""
        total = fuse.OUT_HEADER.size + size
        header = fuse.OUT_HEADER.pack(total, 0, self.unique)
        if sum(map(len, self.space)) < len(header):
            return 0
        position = 0
        for view in self.space:
            part = header[position : position + len(view)]
            view[: len(part)] = part
            position += len(part)
            if position == len(header):
                return total
        return 0


def _head(views: list[memoryview], size: int) -> bytes:
    parts = []
    for view in views:
        parts.append(bytes(view[:size]))
        size -= len(parts[-1])
        if size <= 0:
            break
    return b"".join(parts)


def _skip(views: list[memoryview], size: int) -> list[memoryview]:
    for index, view in enumerate(views):
        if len(view) > size:
            return [view[size:] if size else view, *views[index + 1 :]]
        size -= len(view)
    return []


def _clip(views: list[memoryview], size: int) -> list[memoryview]:
    kept = []
    for view in views:
        if size <= 0:
            break
        kept.append(view if len(view) <= size else view[:size])
        size -= len(view)
    return kept
