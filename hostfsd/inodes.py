"""Descriptors, inodes with their lookup counts, and open files.

A descriptor is closed when the last reference to its object goes: a request that still uses a file which another one
forgets or releases can never meet a reused descriptor number.
"""

import itertools
import os
import stat
import threading
from typing import TYPE_CHECKING

from hostfsd.fuse import ROOT

if TYPE_CHECKING:
    from hostfsd.window import Mapped

_O_PATH = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_REOPENED = {stat.S_IFREG, stat.S_IFDIR}
_NOT_AT_REOPEN = os.O_NOFOLLOW | os.O_CREAT | os.O_EXCL


class Descriptor:
    """Owns one file descriptor."""

    __slots__ = ("fd",)

    def __init__(self, fd: int) -> None:
        self.fd = fd

    def __del__(self) -> None:
        if (fd := getattr(self, "fd", -1)) >= 0:  # a constructor that failed to open one leaves none
            os.close(fd)


class Inode(Descriptor):
    """A file that the guest knows by `node`, held by an O_PATH descriptor. `opens` counts its open files."""

    __slots__ = ("key", "kind", "lookups", "mapped", "node", "opens")

    def __init__(self, fd: int, node: int, status: os.stat_result) -> None:
        self.fd = fd
        self.node = node
        self.key = (status.st_dev, status.st_ino)
        self.kind = stat.S_IFMT(status.st_mode)
        self.lookups = 1
        self.opens = 0
        self.mapped: Mapped | None = None

    def reopen(self, flags: int) -> int:
        """Return a new descriptor of this very inode, whatever its names are now: regular files and directories only.

        The working directory is /proc/self/fd (sandbox.py), so that a descriptor's number is a path to it.
        """
        if self.kind in _REOPENED:
            return os.open(self.path, flags & ~_NOT_AT_REOPEN | os.O_CLOEXEC | os.O_NOCTTY)
        raise OSError(6, "no regular file or directory")

    def require_shared(self) -> None:
        """Raise ESTALE when the host has moved this directory, or one above it, out of the share.

        A directory's descriptor goes with the directory. The kernel resolves `..` only to what lies below the root of
        the mount, which is the share (sandbox.py): one call for the whole way up, however deep.
        """
        if self.node != ROOT and not os.access(b"..", os.F_OK, dir_fd=self.fd):
            raise OSError(116, "no directory of the share any more")

    @property
    def path(self) -> str:
        return str(self.fd)


class File(Descriptor):
    """An open file of the guest."""

    __slots__ = ("inode", "writable")

    def __init__(self, fd: int, inode: Inode, writable: bool) -> None:
        super().__init__(fd)
        self.inode = inode
        self.writable = writable


class InodeTable:
    """All inodes that the guest holds, by node number and by (device, inode)."""

    def __init__(self, root: str) -> None:
        fd = os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        self.root = Inode(fd, ROOT, os.fstat(fd))
        self._lock = threading.Lock()
        self._next = itertools.count(ROOT + 1)
        self._nodes: dict[int, Inode] = {ROOT: self.root}
        self._keys: dict[tuple[int, int], Inode] = {self.root.key: self.root}

    def __len__(self) -> int:
        return len(self._nodes)

    def get(self, node: int) -> Inode:
        """Return an inode. Raises ESTALE when the guest does not hold it."""
        try:
            return self._nodes[node]
        except KeyError:
            raise OSError(116, "stale node") from None

    def directory(self, node: int) -> Inode:
        """Return a directory in which names are to be made, changed or listed. Raises ESTALE, ENOTDIR."""
        inode = self.get(node)
        if inode.kind != stat.S_IFDIR:
            raise OSError(20, "no directory")
        inode.require_shared()
        return inode

    def look_up(self, parent: Inode, name: bytes) -> tuple[Inode, os.stat_result]:
        """Find a name in a directory and count one lookup. A symbolic link is found itself, never followed."""
        fd = os.open(name, _O_PATH, dir_fd=parent.fd)
        try:
            parent.require_shared()  # afterwards: so it was in the share when the name was found
            status = os.fstat(fd)
            if status.st_dev != self.root.key[0]:
                raise OSError(18, "another file system is mounted here")
            key = (status.st_dev, status.st_ino)
            with self._lock:
                inode = self._keys.get(key)
                if inode is None:
                    inode = Inode(fd, next(self._next), status)
                    fd = -1
                    self._nodes[inode.node] = self._keys[key] = inode
                else:
                    inode.lookups += 1
        finally:
            if fd >= 0:
                os.close(fd)
        return inode, status

    def forget(self, node: int, count: int) -> Inode | None:
        """Take `count` lookups back; return the inode when none is left. Root and unknown nodes are left alone."""
        with self._lock:
            inode = self._nodes.get(node)
            if inode is None or inode is self.root:
                return None
            inode.lookups -= count
            if inode.lookups > 0:
                return None
            del self._nodes[node], self._keys[inode.key]
            return inode

    def clear(self) -> None:
        """Forget everything but the root (a new session, or its end)."""
        with self._lock:
            self._nodes = {ROOT: self.root}
            self._keys = {self.root.key: self.root}
            self.root.opens = 0


class FileTable:
    """Open files and directories by handle."""

    def __init__(self) -> None:
        self._next = itertools.count(1)
        self._files: dict[int, File] = {}

    def __len__(self) -> int:
        return len(self._files)

    def add(self, file: File) -> int:
        handle = next(self._next)
        self._files[handle] = file
        return handle

    def get(self, handle: int) -> File:
        """Return an open file. Raises EBADF."""
        try:
            return self._files[handle]
        except KeyError:
            raise OSError(9, "no such open file") from None

    def pop(self, handle: int) -> File:
        file = self._files.pop(handle, None)
        if file is None:
            raise OSError(9, "no such open file")
        return file

    def clear(self) -> None:
        self._files = {}
