"""Watches mapped files for changes made on the host, and wakes the window once a second."""

import contextlib
import os
import select
import struct
import threading
import time
from collections.abc import Callable

from hostfsd import libc
from hostfsd.inodes import Inode

_EVENT = struct.Struct("<iIII")
_PERIOD = 1.0


class Watcher:
    """One thread on inotify: a truncation must be seen before the guest touches what is gone."""

    def __init__(self, changed: Callable[[Inode], None], tick: Callable[[], None]) -> None:
        self._changed, self._tick = changed, tick
        self._fd = libc.inotify_init()
        self._inodes: dict[int, Inode] = {}

    def start(self) -> None:
        threading.Thread(target=self._run, name="watch", daemon=True).start()

    def add(self, inode: Inode) -> int:
        """Watch a file; -1 when the system's limit is reached (the periodic look still finds changes)."""
        try:
            watch = libc.inotify_add(self._fd, inode.path.encode(), libc.IN_MODIFY)
        except OSError:
            return -1
        self._inodes[watch] = inode
        return watch

    def remove(self, watch: int) -> None:
        if self._inodes.pop(watch, None) is not None:
            with contextlib.suppress(OSError):  # the kernel removes a watch by itself when the file is gone
                libc.inotify_remove(self._fd, watch)

    def _run(self) -> None:
        waiter = select.poll()
        waiter.register(self._fd, select.POLLIN)
        due = time.monotonic() + _PERIOD
        while True:
            if waiter.poll(max(0, due - time.monotonic()) * 1000):
                self._deliver()
            if time.monotonic() >= due:
                self._tick()
                due = time.monotonic() + _PERIOD

    def _deliver(self) -> None:
        # A method of its own, so that no variable of the waiting thread keeps a file open.
        for inode in self._read():
            self._changed(inode)

    def _read(self) -> set[Inode]:
        data = os.read(self._fd, 65536)
        found = set()
        position = 0
        while position < len(data):
            watch, _, _, length = _EVENT.unpack_from(data, position)
            position += _EVENT.size + length
            inode = self._inodes.get(watch)
            if inode:
                found.add(inode)
        return found
