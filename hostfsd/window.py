"""The DAX window: which of its ranges shows which part of which file, and how that stays right when files change."""

import contextlib
import errno
import os
import stat
import threading

from hostfsd import libc
from hostfsd.backend import Aborted, Backend
from hostfsd.inodes import Descriptor, Inode
from hostfsd.tail import Tail
from hostfsd.watch import Watcher

PAGE = 4096
RANGE = 2 << 20  # what Linux guests ask for; the smallest unit that this daemon grants
MAX_WINDOW = 8 << 30
_CANNOT_WRITE = {errno.ETXTBSY, errno.EACCES, errno.EPERM, errno.EROFS}


class Range:
    """One range: the first `whole` bytes are mapped from the file, the rest (if any) is the tail's memory."""

    __slots__ = ("inode", "offset", "pieces", "position", "settled", "tail", "whole")

    def __init__(self, inode: Inode, position: int, offset: int) -> None:
        self.inode, self.position, self.offset = inode, position, offset
        self.whole = 0
        self.tail: Tail | None = None
        self.pieces: list[tuple[int, int]] = []
        self.settled = False


class Mapped:
    """What is kept for a file as long as a range shows it: a descriptor to map, its ranges, its watch."""

    __slots__ = ("descriptor", "ranges", "watch", "writable")

    def __init__(self, descriptor: Descriptor, writable: bool, watch: int) -> None:
        self.descriptor, self.writable, self.watch = descriptor, writable, watch
        self.ranges: dict[int, Range] = {}


class Window:
    """All ranges. Thread-safe: one lock, held while QEMU is asked."""

    def __init__(self, size: int, backend: Backend) -> None:
        self.size = size
        self.backend = backend
        self.watcher = Watcher(self.changed, self.tick) if size else None
        self._lock = threading.RLock()
        self._ranges: dict[int, Range] = {}
        self.upgrades = 0
        self.remaps = 0
        self.tail_bytes_stored = 0
        self.tail_failures = 0

    # -- what the guest asks for

    def set_up(self, inode: Inode, offset: int, length: int, position: int, write: bool) -> None:
        """Show file bytes [offset, offset + length) at `position` of the window. Raises OSError."""
        if not self.size:
            raise OSError(errno.ENOSYS, "no window")
        if length != RANGE or position % RANGE or position + RANGE > self.size or offset % RANGE or offset >> 62:
            raise OSError(errno.EINVAL, "no such range of the window")
        if inode.kind != stat.S_IFREG:
            raise OSError(errno.EINVAL, "no regular file")
        with self._lock:
            found = self._ranges.get(position)
            if found and (found.inode is not inode or found.offset != offset):
                self._drop(found)
                found = None
            mapped = self._mapped(inode, write)
            if found:
                if write:
                    _fill_holes(mapped.descriptor.fd, offset)
                self.upgrades += write
                if not found.settled:
                    self._fill(found, mapped)
                return
            new = Range(inode, position, offset)
            self._ranges[position] = mapped.ranges[position] = new
            try:
                if write:
                    _fill_holes(mapped.descriptor.fd, offset)
                self._fill(new, mapped)
            except OSError:
                self._drop(new)
                raise

    def remove(self, position: int) -> None:
        """Take a range away; one that is not there is no error."""
        with self._lock:
            found = self._ranges.get(position)
            if found:
                self._drop(found)

    # -- what happens to files

    def store(self, inode: Inode) -> None:
        """Bring what the guest stored in tails to the file. Raises OSError."""
        with self._lock:
            mapped = inode.mapped
            for found in mapped.ranges.values() if mapped else ():
                self._merge(found)

    def settle(self, inode: Inode, unused: bool = False) -> None:
        """Make the ranges of a file fit its present size, before the guest learns that size. Raises OSError.

        A file that shrank is mapped anew at once: touching a page beyond its end would kill QEMU. One that grew is
        served by its tails, and mapped anew only when `unused`: when the guest had nothing of it open, so that nobody
        can store into the gap between two mappings.
        """
        with self._lock:
            mapped = inode.mapped
            if not mapped:
                return
            size = os.fstat(mapped.descriptor.fd).st_size
            end = -(-size // PAGE) * PAGE
            for found in mapped.ranges.values():
                shrunk = found.whole and found.offset + found.whole > end
                if shrunk or not found.settled or (unused and _whole(found, size, mapped) != found.whole):
                    self.remaps += 1
                    with contextlib.suppress(Aborted):  # finished when the device goes on
                        self._fill(found, mapped)
                else:
                    self._merge(found)

    def changed(self, inode: Inode) -> None:
        """A file changed on the host (watcher)."""
        with contextlib.suppress(OSError):  # tried again at the next tick, or when the guest asks
            self.settle(inode)

    def tick(self) -> None:
        """Once a second: store tails of files in use, finish what a stop of the device left undone."""
        with self._lock:
            busy = {found.inode for found in self._ranges.values() if found.tail or not found.settled}
        for inode in busy:
            self.changed(inode)

    # -- ends

    def forget(self, inode: Inode) -> None:
        with self._lock:
            for found in list(inode.mapped.ranges.values()) if inode.mapped else ():
                with contextlib.suppress(Aborted):  # dropped when its place is used again
                    self._drop(found)

    def clear(self) -> None:
        """Take every range away. Harmless when QEMU has dropped them already (device reset)."""
        with self._lock:
            for found in list(self._ranges.values()):
                self._drop(found)

    def store_all(self) -> None:
        """Store every tail; the first error is raised after all have been tried."""
        failure: OSError | None = None
        with self._lock:
            for found in self._ranges.values():
                try:
                    self._merge(found)
                except OSError as error:
                    failure = failure or error
        if failure:
            raise failure

    def shows(self, device: int, number: int) -> bool:
        """Say whether a file is shown in the window (its mappings come back in QEMU's memory tables).

        Takes no lock: QEMU waits for this answer, and whoever holds the lock may be waiting for QEMU.
        """
        for found in list(self._ranges.values()):
            tail = found.tail
            if found.inode.key == (device, number) or (tail and tail.identity == (device, number)):
                return True
        return False

    def numbers(self) -> dict[str, object]:
        """Return the window's counters, for the statistics."""
        ranges = list(self._ranges.values())
        tails = [found.tail for found in ranges if found.tail]
        shown: dict[str, list[int]] = {}
        for found in ranges:
            shown.setdefault("{}:{}".format(*found.inode.key), []).append(found.offset)
        return {
            "window_bytes": self.size,
            "ranges_live": len(ranges),
            "maps_live": sum(len(found.pieces) for found in ranges),
            "mapped_bytes": sum(found.whole for found in ranges),
            "maps_total": self.backend.maps,
            "unmaps_total": self.backend.unmaps,
            "map_failures": self.backend.failed,
            "unmaps_refused": self.backend.refused_unmaps,
            "map_seconds": round(self.backend.map_seconds, 6),
            "upgrades_total": self.upgrades,
            "remaps_total": self.remaps,
            "tails_live": len(tails),
            "tail_pages": sum(tail.resident_pages for tail in tails),
            "tail_bytes_stored": self.tail_bytes_stored,
            "tail_failures": self.tail_failures,
            "range_bytes": RANGE,
            "shown": shown,
        }

    # -- under the lock

    def _mapped(self, inode: Inode, write: bool) -> Mapped:
        mapped = inode.mapped
        if mapped and (mapped.writable or not write):
            return mapped
        try:
            descriptor, writable = Descriptor(inode.reopen(os.O_RDWR)), True
        except OSError as error:
            if write or error.errno not in _CANNOT_WRITE:
                raise
            descriptor, writable = Descriptor(inode.reopen(os.O_RDONLY)), False
        if mapped:
            mapped.descriptor, mapped.writable = descriptor, writable
        else:
            mapped = inode.mapped = Mapped(descriptor, writable, self.watcher.add(inode) if self.watcher else -1)
        return mapped

    def _fill(self, found: Range, mapped: Mapped) -> None:
        """(Re)build the mappings of a range for the file's present size."""
        self._merge(found)
        found.settled = False
        self._unmap(found)
        fd = mapped.descriptor.fd
        found.whole = _whole(found, os.fstat(fd).st_size, mapped)
        found.tail = None
        if found.whole:
            found.pieces.append((found.position, found.whole))
            self.backend.map(fd, found.offset, found.position, found.whole)
        if found.whole < RANGE:
            tail = Tail(found.offset + found.whole, RANGE - found.whole)
            tail.merge(fd, False)
            found.tail = tail
            found.pieces.append((found.position + found.whole, tail.span))
            self.backend.map(tail.fd, 0, found.position + found.whole, tail.span)
        found.settled = True

    def _merge(self, found: Range) -> None:
        mapped = found.inode.mapped
        if found.tail and mapped:
            try:
                self.tail_bytes_stored += found.tail.merge(mapped.descriptor.fd, mapped.writable)
            except OSError:
                self.tail_failures += 1
                raise

    def _unmap(self, found: Range) -> None:
        while found.pieces:
            self.backend.unmap(*found.pieces[-1])
            found.pieces.pop()

    def _drop(self, found: Range) -> None:
        inode = found.inode
        failure: OSError | None = None
        try:
            self._merge(found)
        except OSError as error:
            failure = error
        try:
            self._unmap(found)
        except OSError as error:
            failure = failure or error
        self._ranges.pop(found.position, None)
        mapped = inode.mapped
        if mapped:
            mapped.ranges.pop(found.position, None)
            if not mapped.ranges:
                inode.mapped = None
                if self.watcher:
                    self.watcher.remove(mapped.watch)
        if failure:
            raise failure


def _fill_holes(fd: int, offset: int) -> None:
    """Give the holes of a range their blocks before the guest stores into them: on a full disk such a store would kill QEMU. Raises ENOSPC."""
    end = min(offset + RANGE, os.fstat(fd).st_size)
    if offset < end and os.lseek(fd, offset, os.SEEK_HOLE) < end:
        try:
            libc.fallocate(fd, libc.FALLOC_KEEP_SIZE, offset, end - offset)
        except OSError as error:
            if error.errno != errno.EOPNOTSUPP:
                raise


def _whole(found: Range, size: int, mapped: Mapped) -> int:
    """How much of a range can be mapped from the file: its whole pages; nothing of a file that cannot be written."""
    return min(max(size - found.offset, 0), RANGE) // PAGE * PAGE if mapped.writable else 0
