"""Physical copies of a data set's pages over host, guests and daemons."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any

from . import cachestat, dataset, page_frames
from .page_frames import PageFramesError, Source


def wanted_pages(manifest: Path, parts: Collection[str]) -> set[bytes]:
    """Digests of the pages of these parts (large, small) of one tree. Raises PageFramesError."""
    document = dataset.read_manifest(manifest)
    if document is None:
        raise PageFramesError(f"{manifest}: is missing or broken: make the data set (role dataset) first")
    try:
        pages = dataset.file_pages(manifest, document)
        return {digest for path, digests in pages if path.partition("/")[0] in parts for digest in digests}
    except FileNotFoundError as error:
        raise PageFramesError(f"{error.filename}: is missing: make the data set (role dataset) again") from error


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
