"""The data set as file-system images: one copy per system, the same bytes in each, and where in them the parts' data lie."""

from __future__ import annotations

import json
import os
import pwd
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import dataset, fiemap, image
from .cachestat import walk_part
from .commands import run
from .paths import HostPaths
from .systems import SYSTEMS

Ranges = dict[str, list[tuple[int, int]]]


def image_systems() -> list[str]:
    """The systems that read an image."""
    return [system.name for system in SYSTEMS.values() if system.storage == "image"]


def missing(name: str, systems: Collection[str], paths: HostPaths) -> list[str]:
    """Those of ``systems`` whose image of the data set ``name`` is not there, or is of other data. Raises ValueError without a data set."""
    source = _source_digest(name, paths)
    known = read_manifest(paths.image_manifest(name))
    return [
        system
        for system in systems
        if known.get(system, {}).get("source") != source
        or not _has_size(paths.image(name, system), known[system]["size"])
    ]


def make(name: str, systems: Sequence[str], paths: HostPaths, owner: str) -> list[str]:
    """Make what is missing; return the systems whose image was made. Raises CommandError, NoSpaceError, ValueError, OSError.

    ``owner``: the user that QEMU runs as; virtio-pmem opens its image for writing.
    """
    wanted = missing(name, systems, paths)
    if not wanted:
        return []
    manifest = paths.image_manifest(name)
    known = read_manifest(manifest)
    tree = paths.share(name) / "data"
    first = paths.image(name, wanted[0])
    document = dataset.read_manifest(paths.dataset_manifest(name))
    assert document is not None
    count = sum(len(names) + 1 for _, _, names in os.walk(tree))
    image.make(image.data_spec(f"data {name}", image.tree_bytes(tree), count), first, tree)
    user = pwd.getpwnam(owner)
    entry = {
        "source": _source_digest(name, paths),
        "sha256": image.digest(first),
        "size": first.stat().st_size,
        "ranges": find_ranges(first),
    }
    for system in wanted:
        path = paths.image(name, system)
        if path != first:
            image.copy(first, path)
        os.chown(path, user.pw_uid, user.pw_gid)
        known[system] = entry
    partial = manifest.with_name(f"{manifest.name}.partial")
    partial.write_text(json.dumps(known) + "\n", encoding="ascii")
    partial.rename(manifest)
    return wanted


def read_manifest(manifest: Path) -> dict[str, Any]:
    """System → ``source`` (digest of the data set's manifest), ``sha256``, ``size``, ``ranges`` (part → offset and length in bytes)."""
    try:
        document = json.loads(manifest.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def find_ranges(path: Path) -> Ranges:
    """Where in the image the data of each part lie, asked of the file system inside."""
    with mounted(path) as top:
        return {
            part: fiemap.merge(
                (extent.physical, extent.length)
                for file in walk_part(str(top / part))
                for extent in fiemap.extents(file)
            )
            for part in dataset.PARTS
        }


def file_extents(path: Path, part: str) -> dict[str, list[fiemap.Extent]]:
    """Where in the image the data of each file of a part lie, by its name from the top of the image."""
    with mounted(path) as top:
        return {os.path.relpath(file, top): list(fiemap.extents(file)) for file in walk_part(str(top / part))}


@contextmanager
def mounted(path: Path) -> Iterator[Path]:
    """Mount an image for looking, changing nothing in it."""
    with tempfile.TemporaryDirectory(prefix="onecopy-image-") as top:
        device = run(["losetup", "--find", "--show", "--read-only", str(path)]).strip()
        try:
            run(["mount", "-t", "ext4", "-o", "ro,noload", device, top])
        finally:
            run(["losetup", "-d", device])
        try:
            yield Path(top)
        finally:
            run(["umount", top])


def _source_digest(name: str, paths: HostPaths) -> str:
    manifest = paths.dataset_manifest(name)
    if not manifest.exists():
        raise ValueError(f"{manifest} is missing: make the data set (role dataset) first")
    return image.digest(manifest)


def _has_size(path: Path, size: int) -> bool:
    return path.exists() and path.stat().st_size == size


def total_pages(ranges: Mapping[str, Sequence[tuple[int, int]]]) -> int:
    """Pages of all ranges."""
    return sum(length for pieces in ranges.values() for _, length in pieces) // image.BLOCK_BYTES
