"""Operations on open files."""

import os
import stat
from collections.abc import Callable

from hostfsd import fuse, libc
from hostfsd.counters import Counters
from hostfsd.export import Export
from hostfsd.fuse import Op, name_of
from hostfsd.inodes import File
from hostfsd.request import Request

_OPEN_FLAGS = os.O_ACCMODE | os.O_APPEND | os.O_TRUNC | os.O_SYNC | os.O_DSYNC
_LARGEST = (1 << 63) - 1


def _flags(export: Export, wanted: int) -> int:
    """Return the guest's open flags that mean something here. O_DIRECT is not passed on: the host's cache serves."""
    if export.policy.readonly and (wanted & os.O_ACCMODE != os.O_RDONLY or wanted & os.O_TRUNC):
        raise OSError(30, "read-only share")
    return wanted & _OPEN_FLAGS


def _file(export: Export, handle: int) -> File:
    file = export.files.get(handle)
    if file.inode.kind != stat.S_IFREG:
        raise OSError(21, "a directory")
    return file


def open_(export: Export, request: Request, _: Counters) -> bytes:
    flags = _flags(export, fuse.PAIR32.unpack_from(request.arguments)[0])
    inode = export.inodes.get(request.node)
    if inode.kind == stat.S_IFDIR:
        raise OSError(21, "a directory")
    if inode.mapped:
        export.window.store(inode)
    return export.opened(File(inode.reopen(flags), inode, flags & os.O_ACCMODE != os.O_RDONLY))


def create(export: Export, request: Request, _: Counters) -> bytes:
    wanted, mode, umask, _open_flags = fuse.CREATE_IN.unpack_from(request.arguments)
    name = name_of(request.arguments[fuse.CREATE_IN.size :])
    flags = _flags(export, wanted)
    parent = export.inodes.directory(request.node)
    fd = -1
    # Exclusive first: an existing name might be a link or a device, which must be looked at before it is opened.
    with export.credentials.of(request.uid, request.gid):
        try:
            fd = os.open(
                name,
                flags & ~os.O_TRUNC | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC,
                mode & 0o7777 & ~(umask & 0o777),
                dir_fd=parent.fd,
            )
        except FileExistsError:
            if wanted & os.O_EXCL:
                raise
    try:
        inode, entry = export.entry(parent, name)
    except OSError:
        if fd >= 0:
            os.close(fd)
        raise
    try:
        status = os.fstat(fd) if fd >= 0 else None
        if status is None or (status.st_dev, status.st_ino) != inode.key:
            if fd >= 0:
                os.close(fd)
            if inode.mapped:
                export.window.store(inode)
            if inode.kind == stat.S_IFDIR:
                raise OSError(21, "a directory")
            fd = inode.reopen(flags)
        return entry + export.opened(File(fd, inode, flags & os.O_ACCMODE != os.O_RDONLY))
    except OSError:
        export.forget(inode.node, 1)
        raise


def read(export: Export, request: Request, counters: Counters) -> int:
    """Read straight into the guest's memory and return the number of bytes."""
    handle, offset, size = fuse.READ_IN.unpack_from(request.arguments)[:3]
    file = _file(export, handle)
    if file.inode.mapped:
        export.window.store(file.inode)
    space = request.data_space(min(size, fuse.MAX_WRITE))
    if offset > _LARGEST:
        fuse.invalid()
    count = os.preadv(file.fd, space, offset) if space else 0
    counters.read_bytes += count
    return count


def write(export: Export, request: Request, counters: Counters) -> bytes:
    handle, offset, size = fuse.WRITE_IN.unpack_from(request.arguments)[:3]
    file = _file(export, handle)
    if size != sum(map(len, request.data)) or size > fuse.MAX_WRITE or offset > _LARGEST:
        fuse.invalid()
    if file.inode.mapped:
        export.window.store(file.inode)
    count = os.pwritev(file.fd, request.data, offset) if request.data else 0
    counters.write_bytes += count
    if file.inode.mapped:
        export.window.settle(file.inode)
    return fuse.PAIR32.pack(count, 0)


def flush(export: Export, request: Request, _: Counters) -> bytes:
    inode = _file(export, fuse.HANDLE.unpack_from(request.arguments)[0]).inode
    if inode.mapped:
        export.window.store(inode)
    return b""


def release(export: Export, request: Request, _: Counters) -> bytes:
    export.released(fuse.HANDLE.unpack_from(request.arguments)[0])
    return b""


def fsync(export: Export, request: Request, _: Counters) -> bytes:
    handle, flags, _pad = fuse.HANDLE_IN.unpack_from(request.arguments)
    file = _file(export, handle)
    if file.inode.mapped:
        export.window.store(file.inode)
    if flags & fuse.FSYNC_DATA:
        os.fdatasync(file.fd)
    else:
        os.fsync(file.fd)
    return b""


def fallocate(export: Export, request: Request, _: Counters) -> bytes:
    handle, offset, length, mode, _pad = fuse.FALLOCATE_IN.unpack_from(request.arguments)
    file = _file(export, handle)
    if mode & ~libc.FALLOC_MODES or offset > _LARGEST or length > _LARGEST:
        raise OSError(95, "no such mode")
    if file.inode.mapped:
        export.window.store(file.inode)
    libc.fallocate(file.fd, mode, offset, length)
    if file.inode.mapped:
        export.window.settle(file.inode)
    return b""


def lseek(export: Export, request: Request, _: Counters) -> bytes:
    handle, offset, whence, _pad = fuse.LSEEK_IN.unpack_from(request.arguments)
    if whence not in (os.SEEK_DATA, os.SEEK_HOLE):
        fuse.invalid()  # the guest's kernel does the others by itself
    file = _file(export, handle)
    if file.inode.mapped:
        export.window.store(file.inode)
    return fuse.HANDLE.pack(os.lseek(file.fd, offset, whence))


def copy_file_range(export: Export, request: Request, _: Counters) -> bytes:
    source_handle, source_offset, _node, handle, offset, length, flags = fuse.COPY_IN.unpack_from(request.arguments)
    source, file = _file(export, source_handle), _file(export, handle)
    if flags:
        fuse.invalid()
    for inode in (source.inode, file.inode):
        if inode.mapped:
            export.window.store(inode)
    count = os.copy_file_range(source.fd, file.fd, min(length, 1 << 30), source_offset, offset)
    if file.inode.mapped:
        export.window.settle(file.inode)
    return fuse.PAIR32.pack(count, 0)


HANDLERS: dict[Op, Callable[[Export, Request, Counters], bytes | int]] = {
    Op.OPEN: open_,
    Op.CREATE: create,
    Op.READ: read,
    Op.WRITE: write,
    Op.FLUSH: flush,
    Op.RELEASE: release,
    Op.FSYNC: fsync,
    Op.FALLOCATE: fallocate,
    Op.LSEEK: lseek,
    Op.COPY_FILE_RANGE: copy_file_range,
}
