"""The data set as the host stores it: files of a share, or data ranges of an image. Evict, prefetch, and count what is resident."""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

from . import cachestat, pageout
from .dataset import PARTS, existing_parts
from .paths import HostPaths
from .systems import System
from .workloads import SAMPLE_FILES, Reads

READ_PARTS: Final[Mapping[str, tuple[str, ...]]] = {
    "all": ("a/large", "a/small"),
    "large": ("a/large",),
    "small": ("a/small",),
    "both": PARTS,
    "sample": ("a/small",),
    "some": ("a/large", "a/small"),
    "none": (),
}


class DataMissingError(Exception):
    """The data set, or what is known about its image, is not on this host; one line with the cure."""


@dataclass(frozen=True, slots=True)
class Residency:
    """Pages of 4,096 bytes."""

    pages: int
    resident_pages: int
    dirty_pages: int = 0

    def as_dict(self) -> dict[str, int]:
        """The form of the record schema."""
        return {"pages": self.pages, "resident_pages": self.resident_pages, "dirty_pages": self.dirty_pages}


@dataclass(frozen=True, slots=True)
class DataSet:
    """Names (relative to ``a``'s parent) and sizes of every file, by each part that there is; read from the share, which holds the same bytes."""

    files: Mapping[str, Sequence[tuple[str, int]]]

    @classmethod
    def of_share(cls, root: Path) -> DataSet:
        """Look at the tree below ``root``; raises DataMissingError."""
        files: dict[str, list[tuple[str, int]]] = {}
        for part in existing_parts(root):
            try:
                paths = list(cachestat.walk_part(str(root / part)))
            except OSError as error:
                raise DataMissingError(
                    f"{error.filename}: {error.strerror}: make the data set (role dataset) first"
                ) from error
            files[part] = [(os.path.relpath(path, root), os.stat(path).st_size) for path in paths]
            if not files[part] and not (root / "a" / cachestat.OWN_TREE).is_dir():
                raise DataMissingError(f"{root / part}: holds no file: make the data set (role dataset) first")
        return cls(files)

    def pages(self, parts: Collection[str]) -> int:
        """Distinct file pages of ``parts``."""
        return sum(-(-size // cachestat.PAGE_SIZE) for part in parts for _, size in self.files[part])

    def wanted_bytes(self, reads: Reads) -> int:
        """Bytes of the data set that a workload is defined to read."""
        if reads.bytes is not None:
            return reads.bytes
        if reads.part == "sample":
            sizes = dict(self.files["a/small"])
            return sum(sizes[name] for name in self.sample())
        return sum(size for part in READ_PARTS[reads.part] for _, size in self.files[part])

    def sample(self) -> list[str]:
        """Small files of tree a, evenly spread."""
        small = [name for name, _ in self.files["a/small"]]
        count = min(SAMPLE_FILES, len(small))
        return [small[position * len(small) // count] for position in range(count)]

    def large_file(self) -> str:
        """The first big file of tree a; a small one where there is no other."""
        return (self.files["a/large"] or self.files["a/small"])[0][0]


class HostData(Protocol):
    """One storage of the data set on the host."""

    def evict(self, qemu_pids: Sequence[int]) -> None:
        """Ask the kernel to drop every page of it, those that these QEMUs map too."""

    def prefetch(self) -> None:
        """Bring every page of it into the host's page cache."""

    def residency(self) -> Residency:
        """All of it: what a cache state is verified by."""

    def resident_pages(self, parts: Collection[str]) -> int:
        """Resident pages that hold data of ``parts``."""

    def reclaimed_pages(self, parts: Collection[str]) -> int:
        """Pages of ``parts`` that this host cached and reclaimed, as far as its kernel remembers."""

    def overhead_pages(self) -> int:
        """Resident pages that hold no file's data."""


@dataclass(frozen=True, slots=True)
class ShareData:
    """Files of a tree. The host's own file system keeps no page of them but theirs."""

    root: Path

    def evict(self, qemu_pids: Sequence[int]) -> None:
        del qemu_pids  # what a DAX window maps, the guest's unmounting has unmapped
        for fd in _open_all(self.root, existing_parts(self.root)):
            cachestat.evict(fd)

    def prefetch(self) -> None:
        for fd in _open_all(self.root, existing_parts(self.root)):
            cachestat.prefetch(fd)

    def residency(self) -> Residency:
        return self._count(existing_parts(self.root))

    def resident_pages(self, parts: Collection[str]) -> int:
        return self._count(parts).resident_pages

    def reclaimed_pages(self, parts: Collection[str]) -> int:
        return sum(cachestat.cachestat(fd).evicted or 0 for fd in _open_all(self.root, parts))

    def overhead_pages(self) -> int:
        return 0

    def _count(self, parts: Collection[str]) -> Residency:
        pages = resident = dirty = 0
        for fd in _open_all(self.root, parts):
            counted = cachestat.cachestat(fd)
            pages, resident, dirty = pages + counted.pages, resident + counted.resident, dirty + (counted.dirty or 0)
        return Residency(pages, resident, dirty)


@dataclass(frozen=True, slots=True)
class ImageData:
    """One file with a file system in it; ``ranges`` (offset, length in bytes) say where the data of each part lie."""

    image: Path
    ranges: Mapping[str, Sequence[tuple[int, int]]]

    def evict(self, qemu_pids: Sequence[int]) -> None:
        for qemu_pid in qemu_pids:
            pageout.page_out(qemu_pid, self.image)
        with _opened(str(self.image)) as fd:
            cachestat.evict(fd)
            if len(qemu_pids) > 1 and cachestat.cachestat(fd).resident:
                pageout.take_back(self.image)

    def prefetch(self) -> None:
        with _opened(str(self.image)) as fd:
            cachestat.prefetch(fd)

    def residency(self) -> Residency:
        with _opened(str(self.image)) as fd:
            counted = cachestat.cachestat(fd)
        return Residency(counted.pages, counted.resident, counted.dirty or 0)

    def resident_pages(self, parts: Collection[str]) -> int:
        return sum(counted.resident for counted in self._counts(parts))

    def reclaimed_pages(self, parts: Collection[str]) -> int:
        return sum(counted.evicted or 0 for counted in self._counts(parts))

    def overhead_pages(self) -> int:
        return self.residency().resident_pages - self.resident_pages(tuple(self.ranges))

    def _counts(self, parts: Collection[str]) -> Iterator[cachestat.CacheStat]:
        with _opened(str(self.image)) as fd:
            for part in parts:
                for offset, length in self.ranges.get(part, ()):
                    yield cachestat.cachestat(fd, offset, length)


@dataclass(frozen=True, slots=True)
class ImagesData:
    """Several images at once: guests' own ones, and the one that these may lie upon."""

    images: Sequence[ImageData]

    def evict(self, qemu_pids: Sequence[int]) -> None:
        for image in self.images:
            image.evict(qemu_pids)

    def prefetch(self) -> None:
        for image in self.images:
            image.prefetch()

    def residency(self) -> Residency:
        found = [image.residency() for image in self.images]
        return Residency(
            sum(one.pages for one in found),
            sum(one.resident_pages for one in found),
            sum(one.dirty_pages for one in found),
        )

    def resident_pages(self, parts: Collection[str]) -> int:
        return sum(image.resident_pages(parts) for image in self.images)

    def reclaimed_pages(self, parts: Collection[str]) -> int:
        return sum(image.reclaimed_pages(parts) for image in self.images)

    def overhead_pages(self) -> int:
        return sum(image.overhead_pages() for image in self.images)


def host_data(system: System, dataset: str, paths: HostPaths, guests: Sequence[str] = ()) -> HostData:
    """The storage that ``system`` uses; ``guests``: names of those that have images of their own. Raises DataMissingError."""
    if system.storage == "share":
        return ShareData(paths.share(dataset) / "data")
    manifest = paths.image_manifest(dataset)
    image = paths.image(dataset, system.name)
    try:
        images: dict[str, Any] = json.loads(manifest.read_text(encoding="utf-8"))
        known = images[system.name]["ranges"]
    except (OSError, ValueError, KeyError) as error:
        raise DataMissingError(
            f"{manifest}: knows no image of {system.name}: make the images (role guest_image) first"
        ) from error
    if not image.is_file():
        raise DataMissingError(f"{image}: is not there: make the images (role guest_image) first")
    ranges = {part: [(offset, length) for offset, length in pieces] for part, pieces in known.items()}
    if system.own_image is None:
        return ImageData(image, ranges)
    own = [paths.own_image(guest, system.own_image) for guest in guests]
    if system.own_image == "copy":
        return ImagesData([ImageData(path, ranges) for path in own])
    # What lies in an overlay is what its guest has written.
    return ImagesData([ImageData(image, ranges), *(ImageData(path, {}) for path in own)])


@contextmanager
def _opened(path: str) -> Iterator[int]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        yield fd
    finally:
        os.close(fd)


def _open_all(root: Path, parts: Collection[str]) -> Iterator[int]:
    for part in parts:
        for path in cachestat.walk_part(str(root / part)):
            with _opened(path) as fd:
                yield fd
