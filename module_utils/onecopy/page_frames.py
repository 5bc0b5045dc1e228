"""Physical frames behind pages of known content, by PFN: merged and mapped pages count once. Needs CAP_SYS_ADMIN.

A page is known by the digest that the data set's manifest holds. Files, images and guest memory in memfds are all files with a page
cache; only private guest memory has to be read out of QEMU's address space.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from . import cachestat
from .cachestat import PAGE_SIZE
from .pageout import mapped_ranges

_WINDOW: Final = 64 << 20
_PRESENT: Final = 1 << 63
_PFN: Final = (1 << 55) - 1
_ENTRY_BYTES: Final = 8


class PageFramesError(Exception):
    """Frames cannot be told; one line."""


@dataclass(frozen=True, slots=True)
class Source:
    """Where pages may lie: a file (``ranges``: offset and length in bytes; None for all of it), shown as belonging to ``party``."""

    party: str
    path: Path
    ranges: Sequence[tuple[int, int]] | None = None


@dataclass(slots=True)
class Found:
    """What one party holds: places (page slots) and distinct frames with a wanted page, and which pages these are."""

    places: int = 0
    frames: set[int] = field(default_factory=set)
    pages: set[bytes] = field(default_factory=set)

    def add(self, frame: int, digest: bytes) -> None:
        """One place."""
        self.places += 1
        self.frames.add(frame)
        self.pages.add(digest)


def scan(
    sources: Iterable[Source],
    private: Iterable[tuple[str, int]],
    wanted: set[bytes],
    mapped: Iterable[tuple[str, int, Path]] = (),
) -> dict[str, Found]:
    """Look for pages whose digest is wanted: through ``sources``, private guest memory (party, pid of QEMU), and what a process has of a
    file that it maps (party, pid, file): the page cache's own frames, or private ones where it has written.

    Reads nothing into the cache. Raises PageFramesError, OSError.
    """
    size = digest_size(wanted)
    found: dict[str, Found] = {}
    for source in sources:
        party = found.setdefault(source.party, Found())
        for frame, page in file_frames(source):
            _judge(party, frame, page, wanted, size)
    for name, pid in private:
        party = found.setdefault(name, Found())
        for frame, page in private_frames(pid):
            _judge(party, frame, page, wanted, size)
    for name, pid, path in mapped:
        party = found.setdefault(name, Found())
        for frame, page in mapping_frames(pid, path):
            _judge(party, frame, page, wanted, size)
    return found


def summary(found: dict[str, Found], wanted: set[bytes]) -> dict[str, Any]:
    """``physical_pages``: distinct frames on the machine; ``logical_pages``: places; ``copies`` of each; figures of every party.

    ``merged_frames`` are those that more than one party uses.
    """
    every: set[int] = set()
    merged: set[int] = set()
    for party in found.values():
        merged |= every & party.frames
        every |= party.frames
    logical = sum(party.places for party in found.values())
    return {
        "wanted_pages": len(wanted),
        "physical_pages": len(every),
        "logical_pages": logical,
        "merged_frames": len(merged),
        "physical_copies": len(every) / len(wanted),
        "logical_copies": logical / len(wanted),
        "parties": {
            name: {"places": party.places, "frames": len(party.frames), "distinct_pages": len(party.pages)}
            for name, party in found.items()
        },
    }


def file_frames(source: Source) -> Iterator[tuple[int, memoryview]]:
    """Frame number and content of every resident page of a file or memfd."""
    fd = os.open(source.path, os.O_RDONLY)
    try:
        if cachestat.is_dax(fd):
            raise PageFramesError(f"{source.path}: is a DAX file: it has no page cache of its own")
        size = os.fstat(fd).st_size
        for start, length in source.ranges if source.ranges is not None else ((0, size),):
            first = start // PAGE_SIZE * PAGE_SIZE
            end = min(start + length, size)
            for offset in range(first, end, _WINDOW):
                yield from _window_frames(fd, offset, min(_WINDOW, end - offset))
    finally:
        os.close(fd)


def private_frames(pid: int) -> Iterator[tuple[int, memoryview]]:
    """Frame number and content of every present page of a process's largest mapping without a file: private guest memory."""
    yield from ((frame, page) for _, frame, page in mapped_pages(pid, *private_memory(pid)))


def mapping_frames(pid: int, path: Path) -> Iterator[tuple[int, memoryview]]:
    """Frame number and content of every page of ``path`` that a process maps at this moment."""
    maps = Path(f"/proc/{pid}/maps").read_text("utf-8", "surrogateescape")
    for start, length in mapped_ranges(maps, str(path)):
        yield from ((frame, page) for _, frame, page in mapped_pages(pid, start, start + length))


def mapped_pages(pid: int, start: int, end: int) -> Iterator[tuple[int, int, memoryview]]:
    """Number (0: the page at ``start``), frame number and content of every page that is present between two addresses of a process."""
    memory = os.open(f"/proc/{pid}/mem", os.O_RDONLY)
    try:
        for address in range(start, end, _WINDOW):
            entries = frames(str(pid), address, min(_WINDOW, end - address) // PAGE_SIZE)
            for number, frame in enumerate(entries, (address - start) // PAGE_SIZE):
                if frame:
                    yield number, frame, memoryview(os.pread(memory, PAGE_SIZE, start + number * PAGE_SIZE))
    finally:
        os.close(memory)


def private_memory(pid: int) -> tuple[int, int]:
    """Start and end address of QEMU's private guest memory."""
    return largest_private(Path(f"/proc/{pid}/maps").read_text("utf-8", "replace"))


def largest_private(maps: str) -> tuple[int, int]:
    """Start and end address of the largest writable private mapping without a file."""
    largest = (0, 0)
    for line in maps.splitlines():
        words = line.split(maxsplit=5)
        if not words[1].startswith("rw-p") or (len(words) > 5 and not words[5].startswith("[anon")):
            continue
        start, end = (int(word, 16) for word in words[0].split("-"))
        if end - start > largest[1] - largest[0]:
            largest = (start, end)
    return largest


def frames(process: str, address: int, pages: int) -> array[int]:
    """Frame numbers behind mapped pages of a process (``self`` or a pid); 0 where no page is present."""
    with open(f"/proc/{process}/pagemap", "rb", buffering=0) as file:
        entries = array("Q", os.pread(file.fileno(), pages * _ENTRY_BYTES, address // PAGE_SIZE * _ENTRY_BYTES))
    numbers = array("Q", ((entry & _PFN) if entry & _PRESENT else 0 for entry in entries))
    if not any(numbers) and any(entry & _PRESENT for entry in entries):
        raise PageFramesError("the kernel hides frame numbers from this process: CAP_SYS_ADMIN is needed (run as root)")
    return numbers


def memfds(pid: int, is_guest_memory: bool) -> list[Path]:
    """The memfds that a process holds, each once: QEMU's guest memory, or any other."""
    directory = Path(f"/proc/{pid}/fd")
    known: dict[int, Path] = {}
    for name in sorted(os.listdir(directory), key=int):
        try:
            target = os.readlink(directory / name)
            if target.startswith("/memfd:") and target.startswith("/memfd:memory-backend") == is_guest_memory:
                known.setdefault(os.stat(directory / name).st_ino, directory / name)
        except FileNotFoundError:
            continue
    return list(known.values())


def _window_frames(fd: int, offset: int, length: int) -> Iterator[tuple[int, memoryview]]:
    address = cachestat.map_file(fd, offset, length)
    try:
        pages = -(-length // PAGE_SIZE)
        content = memoryview((ctypes.c_char * (pages * PAGE_SIZE)).from_address(address)).cast("B")
        resident = cachestat.resident_vector(address, length)
        for index in range(pages):
            if resident[index]:
                content[index * PAGE_SIZE]  # maps the page, so that the kernel tells its frame
        for index, frame in enumerate(frames("self", address, pages)):
            if frame and resident[index]:
                yield frame, content[index * PAGE_SIZE : (index + 1) * PAGE_SIZE]
        content.release()
    finally:
        cachestat.unmap(address, length)


def _judge(party: Found, frame: int, page: memoryview, wanted: set[bytes], size: int) -> None:
    digest = page_digest(page, size)
    if digest in wanted:
        party.add(frame, digest)


def page_digest(page: memoryview, size: int) -> bytes:
    """A page's digest, as the manifest has it."""
    return hashlib.blake2b(page, digest_size=size).digest()


def digest_size(wanted: set[bytes]) -> int:
    """Bytes of each digest. Raises PageFramesError where they differ, or there are none."""
    sizes = {len(digest) for digest in wanted}
    if len(sizes) != 1:
        raise PageFramesError(
            "the manifest names no pages to look for" if not sizes else f"digests of several lengths: {sorted(sizes)}"
        )
    return sizes.pop()
