"""What a session serves and shares between its queues: the exported tree, its policy, the window."""

import os
import resource
import stat
import threading
from dataclasses import dataclass

from hostfsd import fuse
from hostfsd.credentials import Credentials
from hostfsd.inodes import File, FileTable, Inode, InodeTable
from hostfsd.window import Window

_DAY = 86400
CACHE_SECONDS = {"never": 0, "auto": 1, "always": _DAY}


@dataclass(frozen=True)
class Policy:
    """The choices of the command line that shape answers. `dax_threshold` in bytes."""

    cache: str = "auto"
    dax_threshold: int = fuse.NO_DAX
    readonly: bool = False
    xattr: bool = False


class Export:
    """The exported tree. Every method may be called from any queue's thread."""

    def __init__(self, root: str, policy: Policy, window: Window, credentials: Credentials) -> None:
        self.policy = policy
        self.window = window
        self.credentials = credentials
        self.inodes = InodeTable(root)
        self.files = FileTable()
        self.seconds = CACHE_SECONDS[policy.cache]
        self._opens = threading.Lock()
        self._file_flags = {"never": fuse.FOPEN_DIRECT_IO, "auto": 0, "always": fuse.FOPEN_KEEP_CACHE}[policy.cache]
        self._dir_flags = fuse.FOPEN_KEEP_CACHE | fuse.FOPEN_CACHE_DIR if policy.cache == "always" else 0

    @property
    def has_descriptors(self) -> bool:
        """Say whether files may be held that the guest has only seen in a directory: half of all are for what it asks for by name."""
        return len(self.inodes) < resource.getrlimit(resource.RLIMIT_NOFILE)[0] // 2

    def attr_out(self, inode: Inode) -> bytes:
        """Return struct fuse_attr_out of an inode as it is now."""
        status = os.fstat(inode.fd)
        if inode.mapped:
            self.window.settle(inode)
        return fuse.ATTR_OUT.pack(self.seconds, 0, 0) + fuse.attributes(status, self.policy.dax_threshold)

    def entry(self, parent: Inode, name: bytes) -> tuple[Inode, bytes]:
        """Look a name up, count it, and return struct fuse_entry_out."""
        inode, status = self.inodes.look_up(parent, name)
        if inode.mapped:
            self.window.settle(inode)
        seconds = self.seconds
        head = fuse.ENTRY.pack(inode.node, 0, seconds, seconds, 0, 0)
        return inode, head + fuse.attributes(status, self.policy.dax_threshold)

    def opened(self, file: File) -> bytes:
        """Take over an open file and return struct fuse_open_out."""
        inode = file.inode
        with self._opens:
            first = inode.opens == 0
            inode.opens += 1
        if inode.mapped:
            try:
                self.window.settle(inode, unused=first)
            except OSError:
                self._closed(inode)
                raise
        answer = self._dir_flags if inode.kind == stat.S_IFDIR else self._file_flags
        if not file.writable:
            answer |= fuse.FOPEN_NOFLUSH  # saves one request of four when a small file is read
        return fuse.OPEN_OUT.pack(self.files.add(file), answer, 0)

    def released(self, handle: int) -> None:
        inode = self.files.pop(handle).inode
        self._closed(inode)
        if inode.mapped:
            self.window.store(inode)

    def _closed(self, inode: Inode) -> None:
        with self._opens:
            inode.opens -= 1

    def forget(self, node: int, count: int) -> None:
        gone = self.inodes.forget(node, count)
        if gone and gone.mapped:
            self.window.forget(gone)

    def clear(self) -> None:
        """Return to the state before any request: a guest starts a session, or ends it."""
        self.window.clear()
        self.files.clear()
        self.inodes.clear()
