"""ext4 and EROFS images from a directory tree: the same tree gives the same bytes, whenever and wherever it is made."""

from __future__ import annotations

import hashlib
import os
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from .commands import run

MKFS_EROFS = "mkfs.erofs"
BLOCK_BYTES = 4096  # DAX maps whole pages: smaller blocks would refuse it
EPOCH = 1_300_000_000  # 2011-03-13: any fixed time will do
_MIB = 1 << 20
_NAMESPACE = uuid.UUID("6f6e6563-6f70-5921-8000-000000000000")


class NoSpaceError(Exception):
    """The file system cannot hold what is to be made."""


@dataclass(frozen=True, slots=True)
class ImageSpec:
    """One image. ``name`` fixes its UUIDs; ``size_mib`` is the size of the file, a multiple of 2 for the sake of pmem."""

    name: str
    size_mib: int
    inodes: int
    journal: bool = True
    label: str = "onecopy"
    epoch: int = EPOCH  # later times of files are set back to it


def mke2fs_argv(spec: ImageSpec, image: Path, tree: Path | None) -> list[str]:
    """The exact command; ``tree`` None makes an empty file system."""
    identity = uuid.uuid5(_NAMESPACE, spec.name)
    extended = (
        f"hash_seed={uuid.uuid5(identity, 'hash')},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    )
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(BLOCK_BYTES), "-m", "0", "-N", str(spec.inodes)]
    argv += ["-U", str(identity), "-L", spec.label, "-E", extended]
    if not spec.journal:
        argv += ["-O", "^has_journal"]
    if tree is not None:
        argv += ["-d", str(tree)]
    return [*argv, str(image), f"{spec.size_mib}M"]


def mke2fs_env(spec: ImageSpec, environ: Mapping[str, str]) -> dict[str, str]:
    """The environment that fixes every time stamp (the tool's own, and of the inodes it copies)."""
    return {
        **environ,
        "SOURCE_DATE_EPOCH": str(spec.epoch),
        "E2FSPROGS_FAKE_TIME": str(spec.epoch),
        "LC_ALL": "C",
        "TZ": "UTC",
    }


def mkfs_erofs_argv(spec: ImageSpec, image: Path, tree: Path) -> list[str]:
    """The exact command: uncompressed, and every file's data in blocks of its own, since DAX maps no tail that lies in an inode."""
    identity = uuid.uuid5(_NAMESPACE, f"{spec.name} erofs")
    argv = [MKFS_EROFS, "--quiet", f"-b{BLOCK_BYTES}", "-x-1", f"-T{spec.epoch}", f"-U{identity}"]
    return [*argv, "-Enoinline_data,force-inode-extended", str(image), str(tree)]


def make_erofs(spec: ImageSpec, image: Path, tree: Path) -> None:
    """The tree as EROFS, at least as large as ``spec`` says; as make() otherwise."""
    require_space(image.parent, tree_bytes(tree))
    partial = image.with_name(f"{image.name}.partial")
    partial.unlink(missing_ok=True)
    run(mkfs_erofs_argv(spec, partial, tree))
    # mkfs.erofs makes the file as small as it goes.
    os.truncate(partial, max(spec.size_mib * _MIB, -(-partial.stat().st_size // (2 * _MIB)) * 2 * _MIB))
    sync(partial)
    partial.rename(image)


def make(spec: ImageSpec, image: Path, tree: Path | None) -> None:
    """Make the image; a broken-off run leaves nothing under its name. Raises CommandError, NoSpaceError."""
    image.parent.mkdir(parents=True, exist_ok=True)
    require_space(image.parent, tree_bytes(tree) if tree is not None else 0)
    with _partial(image) as partial:
        with open(partial, "wb") as file:
            file.truncate(spec.size_mib * _MIB)
        run(mke2fs_argv(spec, partial, tree), env=mke2fs_env(spec, os.environ))


def copy(source: Path, target: Path) -> None:
    """Copy an image byte by byte, holes kept; a copy of its own in the page cache and on the disk is the point."""
    require_space(target.parent, source.stat().st_blocks * 512)
    with _partial(target) as partial:
        run(["cp", "--sparse=always", "--reflink=never", str(source), str(partial)])


@contextmanager
def _partial(target: Path) -> Iterator[Path]:
    """The place where ``target`` is made: it gets its name when it is whole and on the disk, and is removed when it cannot be made."""
    partial = target.with_name(f"{target.name}.partial")
    partial.unlink(missing_ok=True)
    try:
        yield partial
        sync(partial)
        partial.rename(target)
    except BaseException:
        partial.unlink(missing_ok=True)
        raise


def tree_bytes(tree: Path) -> int:
    """Bytes of a tree in whole blocks, directories included."""
    total = 0
    for directory, _, names in os.walk(tree):
        total += BLOCK_BYTES
        for name in names:
            total += -(-os.lstat(os.path.join(directory, name)).st_size // BLOCK_BYTES) * BLOCK_BYTES
    return total


def data_spec(name: str, data_bytes: int, files: int) -> ImageSpec:
    """The image for ``data_bytes`` of file blocks in ``files`` files and directories: room for inode tables, journal and extents on top."""
    inodes = files + files // 8 + 64
    need = data_bytes * 33 // 32 + inodes * 256 + 12 * _MIB
    return ImageSpec(name, -(-need // (4 * _MIB)) * 4, inodes)


def require_space(directory: Path, need_bytes: int) -> None:
    """Raise NoSpaceError where fewer than ``need_bytes`` are free."""
    directory.mkdir(parents=True, exist_ok=True)
    status = os.statvfs(directory)
    free = status.f_bavail * status.f_frsize
    if free < need_bytes:
        raise NoSpaceError(
            f"{directory}: {need_bytes / _MIB:.0f} MiB are needed, {free / _MIB:.0f} MiB are free: give the store more room"
        )


def remove(path: Path) -> None:
    """Remove a file, or a directory with all that is in it; one that is not there is fine."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def sync(path: Path) -> None:
    """Write a file's dirty pages."""
    fd = os.open(path, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def digest(path: Path) -> str:
    """sha256 of a file."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
