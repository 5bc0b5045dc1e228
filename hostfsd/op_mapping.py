"""Operations on the DAX window."""

from hostfsd import fuse
from hostfsd.counters import Counters
from hostfsd.export import Export
from hostfsd.fuse import Op
from hostfsd.request import Request


def set_up(export: Export, request: Request, _: Counters) -> bytes:
    _handle, offset, length, flags, position = fuse.SETUPMAPPING_IN.unpack_from(request.arguments)
    inode = export.inodes.get(request.node)
    export.window.set_up(inode, offset, length, position, bool(flags & fuse.SETUPMAPPING_WRITE))
    return b""


def remove(export: Export, request: Request, _: Counters) -> bytes:
    arguments = request.arguments
    count = fuse.WORD32.unpack_from(arguments)[0]
    if len(arguments) != fuse.WORD32.size + count * fuse.PAIR64.size:
        fuse.invalid()
    for index in range(count):
        export.window.remove(fuse.PAIR64.unpack_from(arguments, fuse.WORD32.size + index * fuse.PAIR64.size)[0])
    return b""


HANDLERS = {Op.SETUPMAPPING: set_up, Op.REMOVEMAPPING: remove}
