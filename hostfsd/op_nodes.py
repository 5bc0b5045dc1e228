"""Operations on a session, on inodes and their attributes, and on the whole file system."""

import os
import stat

from hostfsd import fuse, libc
from hostfsd.counters import Counters
from hostfsd.export import Export
from hostfsd.fuse import Op
from hostfsd.inodes import Inode
from hostfsd.request import Request

_WANTED = (
    fuse.ASYNC_READ | fuse.ATOMIC_O_TRUNC | fuse.BIG_WRITES | fuse.AUTO_INVAL_DATA | fuse.DO_READDIRPLUS
    | fuse.ASYNC_DIO | fuse.PARALLEL_DIROPS | fuse.INIT_MAX_PAGES | fuse.INIT_EXT
)  # fmt: skip
_LARGEST = (1 << 63) - 1


def init(export: Export, request: Request, _: Counters) -> bytes:
    major, minor, readahead, offered = fuse.INIT_IN.unpack_from(request.arguments)
    if major != fuse.MAJOR or minor < 31:
        raise OSError(71, f"FUSE {major}.{minor} is too old")
    offered2 = fuse.WORD32.unpack_from(request.arguments, 16)[0] if len(request.arguments) >= 20 else 0
    export.clear()
    flags, flags2 = offered & _WANTED, 0
    if not export.seconds:
        # Attributes that are listed with the names are worthless at once: only where the guest's kernel expects to use them.
        # In other modes always: that kernel guesses too late, and then asks for every file of a tree that is walked.
        flags |= offered & fuse.READDIRPLUS_AUTO
    if export.window.size:
        flags |= offered & fuse.MAP_ALIGNMENT
        if flags & fuse.INIT_EXT:
            flags2 |= offered2 & fuse.HAS_INODE_DAX
    return fuse.INIT_OUT.pack(
        fuse.MAJOR, fuse.MINOR, readahead, flags, 64, 48, fuse.MAX_WRITE, 1, fuse.MAX_PAGES, fuse.PAGE_SHIFT,
        flags2, 0, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip


def destroy(export: Export, _request: Request, _: Counters) -> bytes:
    export.clear()
    return b""


def forget(export: Export, request: Request, _: Counters) -> bytes:
    export.forget(request.node, fuse.HANDLE.unpack_from(request.arguments)[0])
    return b""


def batch_forget(export: Export, request: Request, _: Counters) -> bytes:
    count = fuse.PAIR32.unpack_from(request.arguments)[0]
    last = (len(request.arguments) - fuse.PAIR32.size) // fuse.PAIR64.size
    for index in range(min(count, last)):
        export.forget(*fuse.PAIR64.unpack_from(request.arguments, fuse.PAIR32.size + index * fuse.PAIR64.size))
    return b""


def getattr_(export: Export, request: Request, _: Counters) -> bytes:
    return export.attr_out(export.inodes.get(request.node))


def setattr_(export: Export, request: Request, _: Counters) -> bytes:
    (valid, _pad, handle, size, _owner, atime, mtime, _ctime, atime_ns, mtime_ns, _ctime_ns,
     mode, _u4, uid, gid, _u5) = fuse.SETATTR_IN.unpack_from(request.arguments)  # fmt: skip
    inode = export.inodes.get(request.node)
    if valid & fuse.FATTR_MODE:
        if inode.kind == stat.S_IFLNK:
            raise OSError(95, "a symbolic link has no mode")
        os.chmod(inode.path, mode & 0o7777)
    if valid & (fuse.FATTR_UID | fuse.FATTR_GID):
        os.chown(
            inode.path,
            uid if valid & fuse.FATTR_UID else -1,
            gid if valid & fuse.FATTR_GID else -1,
        )
    if valid & fuse.FATTR_SIZE:
        _truncate(export, inode, handle if valid & fuse.FATTR_FH else None, size)
    if valid & (fuse.FATTR_ATIME | fuse.FATTR_MTIME):
        libc.utimensat(
            libc.AT_FDCWD,
            inode.path.encode(),
            _time(valid & fuse.FATTR_ATIME, valid & fuse.FATTR_ATIME_NOW, atime, atime_ns),
            _time(valid & fuse.FATTR_MTIME, valid & fuse.FATTR_MTIME_NOW, mtime, mtime_ns),
        )
    return export.attr_out(inode)


def _truncate(export: Export, inode: Inode, handle: int | None, size: int) -> None:
    if size > _LARGEST:
        raise OSError(27, "too large")
    export.window.store(inode)
    file = export.files.get(handle) if handle is not None else None
    if file and file.writable and file.inode is inode:
        os.ftruncate(file.fd, size)
        return
    fd = inode.reopen(os.O_WRONLY)
    try:
        os.ftruncate(fd, size)
    finally:
        os.close(fd)


def _time(wanted: int, now: int, seconds: int, nanoseconds: int) -> tuple[int, int]:
    if not wanted:
        return 0, libc.UTIME_OMIT
    if now:
        return 0, libc.UTIME_NOW
    if nanoseconds >= 10**9:
        fuse.invalid()
    return seconds - (1 << 64) if seconds >> 63 else seconds, nanoseconds


def readlink(export: Export, request: Request, _: Counters) -> bytes:
    return os.readlink(b"", dir_fd=export.inodes.get(request.node).fd)


def statfs(export: Export, request: Request, _: Counters) -> bytes:
    found = os.fstatvfs(export.inodes.get(request.node).fd)
    return fuse.STATFS_OUT.pack(
        found.f_blocks, found.f_bfree, found.f_bavail, found.f_files, found.f_ffree,
        found.f_bsize, found.f_namemax, found.f_frsize, 0, 0, 0, 0, 0, 0, 0,
    )  # fmt: skip


def syncfs(export: Export, _request: Request, _: Counters) -> bytes:
    export.window.store_all()
    fd = export.inodes.root.reopen(os.O_RDONLY)
    try:
        libc.syncfs(fd)
    finally:
        os.close(fd)
    return b""


def _attribute(export: Export, request: Request, skip: int) -> tuple[str, bytes, bytes]:
    """Return the path of the inode, the attribute's name, and what follows it."""
    if not export.policy.xattr:
        raise OSError(38, "extended attributes are off")
    inode = export.inodes.get(request.node)
    if inode.kind not in (stat.S_IFREG, stat.S_IFDIR):
        raise OSError(95, "extended attributes of files and directories only")
    name, end, rest = request.arguments[skip:].partition(b"\0")
    if not end or not name or len(name) > fuse.MAX_NAME:
        fuse.invalid()
    return inode.path, name, rest


def setxattr(export: Export, request: Request, _: Counters) -> bytes:
    size, flags = fuse.PAIR32.unpack_from(request.arguments)
    path, name, value = _attribute(export, request, fuse.PAIR32.size)
    if size > min(len(value), fuse.MAX_XATTR):
        fuse.invalid()
    os.setxattr(path, name, value[:size], flags)
    return b""


def getxattr(export: Export, request: Request, _: Counters) -> bytes:
    path, name, _rest = _attribute(export, request, fuse.PAIR32.size)
    return _sized(os.getxattr(path, name), fuse.PAIR32.unpack_from(request.arguments)[0])


def listxattr(export: Export, request: Request, _: Counters) -> bytes:
    size = fuse.PAIR32.unpack_from(request.arguments)[0]
    if not export.policy.xattr:
        raise OSError(38, "extended attributes are off")
    names = os.listxattr(export.inodes.get(request.node).path)
    return _sized(b"".join(os.fsencode(name) + b"\0" for name in names), size)


def removexattr(export: Export, request: Request, _: Counters) -> bytes:
    path, name, _rest = _attribute(export, request, 0)
    os.removexattr(path, name)
    return b""


def _sized(value: bytes, room: int) -> bytes:
    """Return a value, or its size when the guest gave no room for it."""
    if not room:
        return fuse.PAIR32.pack(len(value), 0)
    if len(value) > room:
        raise OSError(34, "value larger than the room for it")
    return value


HANDLERS = {
    Op.INIT: init,
    Op.DESTROY: destroy,
    Op.FORGET: forget,
    Op.BATCH_FORGET: batch_forget,
    Op.GETATTR: getattr_,
    Op.SETATTR: setattr_,
    Op.READLINK: readlink,
    Op.STATFS: statfs,
    Op.SYNCFS: syncfs,
    Op.SETXATTR: setxattr,
    Op.GETXATTR: getxattr,
    Op.LISTXATTR: listxattr,
    Op.REMOVEXATTR: removexattr,
}
