"""Operations on names in directories, and reading directories. A name is never used as a path."""

import os
import threading

from hostfsd import fuse, libc
from hostfsd.counters import Counters
from hostfsd.export import Export
from hostfsd.fuse import Op, checked, name_of, names_of
from hostfsd.inodes import File, Inode
from hostfsd.request import Request

_ENTRY_SIZE = fuse.ENTRY.size + fuse.ATTR.size
_NO_ENTRY = bytes(_ENTRY_SIZE)
_DOTS = {b".", b".."}


def lookup(export: Export, request: Request, _: Counters) -> bytes:
    return export.entry(export.inodes.get(request.node), name_of(request.arguments))[1]


def mknod(export: Export, request: Request, _: Counters) -> bytes:
    mode, device, umask, _pad = fuse.MKNOD_IN.unpack_from(request.arguments)
    name = name_of(request.arguments[fuse.MKNOD_IN.size :])
    parent = export.inodes.directory(request.node)
    with export.credentials.of(request.uid, request.gid):
        os.mknod(name, mode & ~(umask & 0o777), fuse.device_from_wire(device), dir_fd=parent.fd)
    return export.entry(parent, name)[1]


def mkdir(export: Export, request: Request, _: Counters) -> bytes:
    mode, umask = fuse.PAIR32.unpack_from(request.arguments)
    name = name_of(request.arguments[fuse.PAIR32.size :])
    parent = export.inodes.directory(request.node)
    with export.credentials.of(request.uid, request.gid):
        os.mkdir(name, mode & 0o7777 & ~(umask & 0o777), dir_fd=parent.fd)
    return export.entry(parent, name)[1]


def symlink(export: Export, request: Request, _: Counters) -> bytes:
    name, target = names_of(request.arguments)
    checked(name)
    parent = export.inodes.directory(request.node)
    with export.credentials.of(request.uid, request.gid):
        os.symlink(target, name, dir_fd=parent.fd)
    return export.entry(parent, name)[1]


def link(export: Export, request: Request, _: Counters) -> bytes:
    inode = export.inodes.get(fuse.HANDLE.unpack_from(request.arguments)[0])
    name = name_of(request.arguments[fuse.HANDLE.size :])
    parent = export.inodes.directory(request.node)
    os.link(inode.path, name, dst_dir_fd=parent.fd, follow_symlinks=True)
    return export.entry(parent, name)[1]


def unlink(export: Export, request: Request, _: Counters) -> bytes:
    os.unlink(name_of(request.arguments), dir_fd=export.inodes.directory(request.node).fd)
    return b""


def rmdir(export: Export, request: Request, _: Counters) -> bytes:
    os.rmdir(name_of(request.arguments), dir_fd=export.inodes.directory(request.node).fd)
    return b""


def rename(export: Export, request: Request, _: Counters) -> bytes:
    _rename(export, request, fuse.HANDLE.unpack_from(request.arguments)[0], fuse.HANDLE.size, 0)
    return b""


def rename2(export: Export, request: Request, _: Counters) -> bytes:
    target, flags, _pad = fuse.RENAME2_IN.unpack_from(request.arguments)
    _rename(export, request, target, fuse.RENAME2_IN.size, flags)
    return b""


def _rename(export: Export, request: Request, target: int, skip: int, flags: int) -> None:
    old, new = names_of(request.arguments[skip:])
    source, destination = export.inodes.directory(request.node), export.inodes.directory(target)
    libc.renameat2(source.fd, checked(old), destination.fd, checked(new), flags)


class Directory(File):
    """An open directory, and the entries read from the host but not yet taken by the guest."""

    __slots__ = ("entries", "lock", "position", "reader")

    def __init__(self, fd: int, inode: Inode) -> None:
        super().__init__(fd, inode, False)
        self.lock = threading.Lock()
        self.reader = libc.DirectoryReader()
        self.position = 0  # the offset that follows the last entry given out
        self.entries: list[tuple[int, int, int, bytes]] = []

    def seek(self, offset: int) -> None:
        if offset != self.position:
            os.lseek(self.fd, offset, os.SEEK_SET)
            self.entries, self.position = [], offset

    def next(self) -> tuple[int, int, int, bytes] | None:
        """Return (inode, offset behind it, type, name) of the next entry without taking it; None at the end."""
        if not self.entries:
            data = self.reader.read(self.fd)
            position = 0
            while position < len(data):
                inode, offset, length, kind = fuse.HOST_DIRENT.unpack_from(data, position)
                name = data[position + fuse.HOST_DIRENT.size : data.index(b"\0", position + fuse.HOST_DIRENT.size)]
                self.entries.append((inode, offset, kind, name))
                position += length
            self.entries.reverse()
        return self.entries[-1] if self.entries else None

    def take(self) -> None:
        self.position = self.entries.pop()[1]


def opendir(export: Export, request: Request, _: Counters) -> bytes:
    inode = export.inodes.directory(request.node)
    return export.opened(Directory(inode.reopen(os.O_RDONLY | os.O_DIRECTORY), inode))


def readdir(export: Export, request: Request, _: Counters) -> bytes:
    return _read(export, request, False)


def readdirplus(export: Export, request: Request, _: Counters) -> bytes:
    return _read(export, request, True)


def _read(export: Export, request: Request, plus: bool) -> bytes:
    handle, offset, size = fuse.READ_IN.unpack_from(request.arguments)[:3]
    directory = export.files.get(handle)
    if not isinstance(directory, Directory):
        raise OSError(20, "no directory")
    room = min(size, fuse.MAX_WRITE)
    parent, root = directory.inode, export.inodes.root
    parent.require_shared()
    found_out = plus and export.has_descriptors
    parts: list[bytes] = []
    with directory.lock:
        directory.seek(offset)
        while found := directory.next():
            number, following, kind, name = found
            need = -(-(fuse.DIRENT.size + len(name)) // 8) * 8 + (_ENTRY_SIZE if plus else 0)
            if need > room:
                break
            if parent is root and name == b"..":
                number = root.key[1]  # what lies above the share is no business of the guest
            if plus:
                parts.append(_entry(export, parent, name) if found_out and name not in _DOTS else _NO_ENTRY)
            parts.append(fuse.dirent(number, following & 0xFFFFFFFFFFFFFFFF, kind, name))
            room -= need
            directory.take()
    return b"".join(parts)


def _entry(export: Export, parent: Inode, name: bytes) -> bytes:
    try:
        return export.entry(parent, name)[1]
    except OSError:
        return _NO_ENTRY  # gone since, or not to be shown: the guest asks by itself when it wants to know


def releasedir(export: Export, request: Request, _: Counters) -> bytes:
    export.released(fuse.HANDLE.unpack_from(request.arguments)[0])
    return b""


def fsyncdir(export: Export, request: Request, _: Counters) -> bytes:
    os.fsync(export.files.get(fuse.HANDLE.unpack_from(request.arguments)[0]).fd)
    return b""


HANDLERS = {
    Op.LOOKUP: lookup,
    Op.MKNOD: mknod,
    Op.MKDIR: mkdir,
    Op.SYMLINK: symlink,
    Op.LINK: link,
    Op.UNLINK: unlink,
    Op.RMDIR: rmdir,
    Op.RENAME: rename,
    Op.RENAME2: rename2,
    Op.OPENDIR: opendir,
    Op.READDIR: readdir,
    Op.READDIRPLUS: readdirplus,
    Op.RELEASEDIR: releasedir,
    Op.FSYNCDIR: fsyncdir,
}
