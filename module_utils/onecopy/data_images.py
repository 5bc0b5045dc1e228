"""The data set as file-system images: one copy per system, the same bytes in each, and where in them the parts' data lie."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from . import dataset, fiemap, image
from .cachestat import walk_part
from .commands import CommandError, run
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
    count = sum(len(names) + 1 for _, _, names in os.walk(tree))
    spec = image.data_spec(f"data {name}", image.tree_bytes(tree), count)
    user = pwd.getpwnam(owner)
    made: dict[str, tuple[Path, dict[str, Any]]] = {}
    for system in wanted:
        path, filesystem = paths.image(name, system), SYSTEMS[system].filesystem
        if filesystem in made:
            image.copy(made[filesystem][0], path)
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            (image.make_erofs if filesystem == "erofs" else image.make)(spec, path, tree)
            made[filesystem] = (
                path,
                {
                    "source": _source_digest(name, paths),
                    "sha256": image.digest(path),
                    "size": path.stat().st_size,
                    "ranges": find_ranges(path, filesystem),
                },
            )
        os.chown(path, user.pw_uid, user.pw_gid)
        known[system] = made[filesystem][1]
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


def find_ranges(path: Path, filesystem: str = "ext4") -> Ranges:
    """Where in the image the data of each part lie, asked of the file system inside."""
    with mounted(path, filesystem) as top:
        return {
            part: fiemap.merge(
                (extent.physical, extent.length)
                for file in walk_part(str(top / part))
                for extent in fiemap.extents(file)
            )
            for part in dataset.existing_parts(top)
        }


def file_extents(path: Path, part: str) -> dict[str, list[fiemap.Extent]]:
    """Where in the image the data of each file of a part lie, by its name from the top of the image."""
    with mounted(path) as top:
        return {os.path.relpath(file, top): list(fiemap.extents(file)) for file in walk_part(str(top / part))}


@contextmanager
def mounted(path: Path, filesystem: str = "ext4") -> Iterator[Path]:
    """Mount an image for looking, changing nothing in it."""
    options = "ro,noload" if filesystem == "ext4" else "ro"
    with tempfile.TemporaryDirectory(prefix="onecopy-image-") as top:
        device = run(["losetup", "--find", "--show", "--read-only", str(path)]).strip()
        try:
            run(["mount", "-t", filesystem, "-o", options, device, top])
        finally:
            run(["losetup", "-d", device])
        try:
            yield Path(top)
        finally:
            run(["umount", top])


def why_no_mkfs_erofs() -> str:
    """Why this host cannot make EROFS images, as far as can be told without making one; empty where it may."""
    return "" if shutil.which(image.MKFS_EROFS) else f"{image.MKFS_EROFS} is not installed (package erofs-utils)"


def why_no_erofs() -> str:
    """Why this host cannot make EROFS images and look into them, found out by trying; empty where it can."""
    missing = why_no_mkfs_erofs()
    if missing:
        return missing
    with tempfile.TemporaryDirectory(prefix="onecopy-erofs-") as top:
        tree, made = Path(top) / "tree", Path(top) / "tried.img"
        tree.mkdir()
        (tree / "file").write_bytes(b"tried")
        try:
            image.make_erofs(image.ImageSpec("tried", 4, 16), made, tree)
            with mounted(made, "erofs") as found:
                return "" if (found / "file").read_bytes() == b"tried" else "its images do not hold what was put in"
        except (CommandError, OSError) as error:
            return " ".join(str(error).split())


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
