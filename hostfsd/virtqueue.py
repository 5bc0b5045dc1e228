"""A split virtqueue (VIRTIO 1.2, 2.7): descriptor chains in, used ones back, and when to interrupt.

Everything in the rings is the guest's and may change at any time: each field is read once and checked before use.
"""

import threading

from hostfsd.memory import BadAddress, GuestMemory
from hostfsd.vhost_user import ProtocolError

MAX_SIZE = 1024
_NEXT, _WRITE, _INDIRECT = 1, 2, 4
_NO_INTERRUPT = 1


class BadChain(Exception):
    """A descriptor chain breaks a rule; the request cannot be answered."""


class Chain:
    """One request: what the guest wrote and where the answer goes, as views of guest memory."""

    __slots__ = ("head", "readable", "writable")

    def __init__(self, head: int) -> None:
        self.head = head
        self.readable: list[memoryview] = []
        self.writable: list[memoryview] = []


class Virtqueue:
    """One ring in use, by one thread. `next_available` and `next_used` are the running indices (16 bits)."""

    def __init__(
        self, memory: GuestMemory, size: int, addresses: tuple[int, int, int], next_available: int, event_index: bool
    ) -> None:
        if not 0 < size <= MAX_SIZE or size & (size - 1):
            raise ProtocolError(f"queue size {size} is no power of two up to {MAX_SIZE}")
        descriptors, used, available = addresses
        self.memory, self.size, self.mask = memory, size, size - 1
        # Casts give whole loads and stores: neither side must ever see half an index.
        self._descriptors = memory.at_user_address(descriptors, 16 * size).cast("Q")
        self._available = memory.at_user_address(available, 6 + 2 * size).cast("H")
        used_ring = memory.at_user_address(used, 6 + 8 * size)
        self._used_header = used_ring[:4].cast("H")
        self._used_ring = used_ring[4 : 4 + 8 * size].cast("I")
        self._available_event = used_ring[4 + 8 * size :].cast("H")
        self._fence = threading.Lock()
        self.event_index = event_index
        self.next_available = next_available & 0xFFFF
        self.next_used = self._used_header[1]
        self._signalled = self.next_used

    def _barrier(self) -> None:
        # A store must be seen before the following load: taking a lock is a full barrier on x86.
        self._fence.acquire()
        self._fence.release()

    def pending(self) -> bool:
        """Say whether the guest has made another chain available."""
        return self._available[1] != self.next_available

    def watch(self) -> bool:
        """Ask for a kick at the next chain; True when one has come in the meantime."""
        if self.event_index:
            self._available_event[0] = self.next_available
        self._barrier()
        return self.pending()

    def peek(self) -> int:
        """Return the head of the next chain without taking it."""
        waiting = (self._available[1] - self.next_available) & 0xFFFF
        if waiting > self.size:
            raise BadChain(f"{waiting} chains claimed in a queue of {self.size}")
        return self._available[2 + (self.next_available & self.mask)]

    def chain(self, head: int) -> Chain:
        """Walk a chain. Raises BadChain."""
        chain = Chain(head)
        readable, writable = chain.readable, chain.writable
        table, index, count = self._descriptors, head, self.size
        memory = self.memory
        view, base, end = memory.likely
        for _ in range(MAX_SIZE):
            if index >= count:
                raise BadChain("descriptor out of the table")
            address, rest = table[2 * index], table[2 * index + 1]
            length, flags = rest & 0xFFFFFFFF, rest >> 32 & 0xFFFF
            try:
                if flags & _INDIRECT:
                    if table is not self._descriptors or flags & _NEXT or not length or length % 16:
                        raise BadChain("bad indirect table")
                    # Copied once, so that the walk sees one version of it.
                    copy = b"".join(memory.slices(address, min(length, 16 * MAX_SIZE)))
                    table, index, count = memoryview(copy).cast("Q"), 0, len(copy) // 16
                    continue
                if flags & _WRITE:
                    target = writable
                elif writable:
                    raise BadChain("readable descriptor after a writable one")
                else:
                    target = readable
                if base <= address and address + length <= end:
                    target.append(view[address - base : address - base + length])
                else:
                    target += memory.slices(address, length)
            except BadAddress as error:
                raise BadChain(str(error)) from None
            if not flags & _NEXT:
                return chain
            index = rest >> 48
        raise BadChain("a loop of descriptors")

    def complete(self, head: int, written: int) -> None:
        """Return the chain last peeked at as used, with `written` bytes."""
        self.next_available = (self.next_available + 1) & 0xFFFF
        used = self.next_used
        slot = 2 * (used & self.mask)
        self._used_ring[slot] = head
        self._used_ring[slot + 1] = written
        self.next_used = self._used_header[1] = (used + 1) & 0xFFFF

    def wants_signal(self) -> bool:
        """Say whether the guest wants an interrupt for what was completed since this was last asked."""
        self._barrier()
        if not self.event_index:
            return not self._available[0] & _NO_INTERRUPT
        wanted = self._available[2 + self.size]
        old, self._signalled = self._signalled, self.next_used
        return ((self.next_used - wanted - 1) & 0xFFFF) < ((self.next_used - old) & 0xFFFF)
