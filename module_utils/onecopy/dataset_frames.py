"""Physical copies of a data set's pages over host, guests and daemons."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from . import cachestat, dataset, page_frames
from .host_data import HostData, ImageData, ImagesData
from .page_frames import PageFramesError, Source
from .paths import HostPaths
from .systems import System
from .testbed import Boot

_PARTS: Final = ("a/large", "a/small")


def wanted_pages(manifest: Path, parts: Collection[str]) -> set[bytes]:
    """Digests of the pages of these parts (large, small), or files, of one tree. Raises PageFramesError."""
    document = dataset.read_manifest(manifest)
    if document is None:
        raise PageFramesError(f"{manifest}: is missing or broken: make the data set (role dataset) first")
    try:
        pages = dataset.file_pages(manifest, document)
        named = (digests for path, digests in pages if path in parts or path.partition("/")[0] in parts)
        return {digest for digests in named for digest in digests}
    except FileNotFoundError as error:
        raise PageFramesError(f"{error.filename}: is missing: make the data set (role dataset) again") from error


def around(
    paths: HostPaths, dataset_name: str, system: System, data: HostData, boots: Sequence[Boot]
) -> dict[str, Any]:
    """page_frames.summary() of tree a: the host's cache of ``data``, these boots' guests and daemons. The twin has the same content.

    A guest's free pages hold what it once cached, so this says how often data are cached only before they were read for the first time.
    Raises PageFramesError, OSError.
    """
    share = [str(paths.share(dataset_name) / "data" / "a")] if system.storage == "share" else []
    images = [
        (image.image, [piece for part in _PARTS for piece in image.ranges.get(part, ())]) for image in images_of(data)
    ]
    qemus = qemu_pids(boots)
    return count(
        paths.dataset_manifest(dataset_name),
        ("large", "small"),
        paths=share,
        images=images,
        guests=qemus,
        daemons=[boot.daemon_pid for boot in boots if boot.daemon_pid is not None],
        mapped=[(pid, image) for image, _ in images for pid in qemus] if system.path == "pmem" else [],
    )


def qemu_pids(boots: Sequence[Boot]) -> list[int]:
    """Process ids of these boots' QEMUs."""
    return [boot.qemu_pid for boot in boots if boot.qemu_pid is not None]


def images_of(data: HostData) -> Sequence[ImageData]:
    """The images that hold the data; none where a share does."""
    match data:
        case ImagesData(images):
            return images
        case ImageData() as image:
            return [image]
    return []


def count(
    manifest: Path,
    parts: Collection[str],
    paths: Iterable[str] = (),
    images: Iterable[tuple[Path, Sequence[tuple[int, int]] | None]] = (),
    guests: Iterable[int] = (),
    daemons: Iterable[int] = (),
    mapped: Iterable[tuple[int, Path]] = (),
) -> dict[str, Any]:
    """page_frames.summary() of the parties ``host``, ``guest PID`` and ``daemon PID``; ``mapped``: QEMUs with the image that they map.

    Raises PageFramesError, OSError.
    """
    wanted = wanted_pages(manifest, parts)
    sources = [Source("host", Path(file)) for top in paths for file in cachestat.walk_part(top)]
    sources += [Source("host", path, ranges) for path, ranges in images]
    private = []
    for pid in guests:
        backing = page_frames.memfds(pid, is_guest_memory=True)
        sources += [Source(f"guest {pid}", path) for path in backing]
        if not backing:
            private.append((f"guest {pid}", pid))
    sources += [
        Source(f"daemon {pid}", path) for pid in daemons for path in page_frames.memfds(pid, is_guest_memory=False)
    ]
    mappings = [(f"mapping {pid}", pid, path) for pid, path in mapped]
    return page_frames.summary(page_frames.scan(sources, private, wanted, mappings), wanted)
