"""The guest's memory: regions that QEMU shares by descriptor, mapped here and addressed by guest or by QEMU address."""

import mmap
import os
from collections.abc import Callable

from hostfsd.vhost_user import MEMORY_REGION, U32_PAIR, ProtocolError

MAX_REGIONS = 8


class BadAddress(Exception):
    """The guest named an address that is none of its memory."""


class Region:
    """One mapped region; the mapping lives as long as somebody holds a view of it."""

    __slots__ = ("guest", "identity", "size", "user", "view")

    def __init__(self, guest: int, size: int, user: int, view: memoryview, identity: tuple[int, int, int, int]) -> None:
        self.guest, self.size, self.user, self.view, self.identity = guest, size, user, view, identity


class GuestMemory:
    """All regions of one guest. It is replaced as a whole, never changed, so that readers need no lock."""

    def __init__(self, regions: list[Region]) -> None:
        self.regions = regions
        # Nearly every buffer lies in the largest region: its view, and the guest addresses of its start and end.
        largest = max(regions, key=lambda region: region.size, default=None)
        self.likely = (
            (largest.view, largest.guest, largest.guest + largest.size) if largest else (memoryview(b""), 0, 0)
        )

    @classmethod
    def from_message(
        cls, payload: bytes, fds: list[int], before: "GuestMemory", skip: Callable[[int, int], bool]
    ) -> "GuestMemory":
        """Map the regions of a SET_MEM_TABLE message; those that did not change keep their mapping.

        `skip(device, inode)` names files that must not be mapped here: those behind the DAX window, where a
        truncation on the host would kill this process.
        """
        if len(payload) < U32_PAIR.size:
            raise ProtocolError("memory table too short")
        count = U32_PAIR.unpack_from(payload)[0]
        if count > MAX_REGIONS or count != len(fds) or len(payload) < U32_PAIR.size + count * MEMORY_REGION.size:
            raise ProtocolError(f"memory table of {count} regions with {len(fds)} descriptors in {len(payload)} bytes")
        known = {region.identity: region for region in before.regions}
        regions = []
        for index, fd in enumerate(fds):
            guest, size, user, offset = MEMORY_REGION.unpack_from(payload, U32_PAIR.size + index * MEMORY_REGION.size)
            status = os.fstat(fd)
            if skip(status.st_dev, status.st_ino):
                continue
            if not size or offset + size > status.st_size:
                raise ProtocolError(f"memory region {guest:#x}+{size:#x} lies outside its {status.st_size} bytes")
            identity = (status.st_dev, status.st_ino, offset, size)
            old = known.get(identity)
            regions.append(Region(guest, size, user, old.view if old else _map(fd, offset, size), identity))
        return cls(regions)

    def slices(self, address: int, length: int) -> list[memoryview]:
        """Return writable views of a guest physical range; adjacent regions join. Raises BadAddress."""
        found = []
        while length:
            for region in self.regions:
                start = address - region.guest
                if 0 <= start < region.size:
                    part = region.view[start : start + length]
                    break
            else:
                raise BadAddress(f"{address:#x}+{length:#x}")
            found.append(part)
            address += len(part)
            length -= len(part)
        return found

    def at_user_address(self, address: int, length: int) -> memoryview:
        """Return a view of a range named by QEMU's own address (rings). Raises ProtocolError."""
        for region in self.regions:
            start = address - region.user
            if start >= 0 and start + length <= region.size:
                return region.view[start : start + length]
        raise ProtocolError(f"ring at {address:#x}+{length:#x} lies outside the guest's memory")


def _map(fd: int, offset: int, size: int) -> memoryview:
    lead = offset % mmap.ALLOCATIONGRANULARITY
    area = mmap.mmap(fd, size + lead, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=offset - lead)
    return memoryview(area)[lead:]
