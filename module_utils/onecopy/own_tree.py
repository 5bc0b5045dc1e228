"""A user's own directory as a data set: looked at and packed on the controller, unpacked on a KVM host. The original is only ever read.

The same files give the same bytes everywhere: owners, times and modes (but for the execute bit) are set to fixed values. Layout: ``a/tree``.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tarfile
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path, PurePosixPath
from typing import IO, Any, Final

from . import dataset, image
from .cachestat import LARGE_BYTES, OWN_TREE
from .ledger import read_meminfo

_PIECE_BYTES: Final = 1 << 20  # a multiple of the page size
_MARGIN_BYTES: Final = 16 << 20
# What a host and its guest need beside the data in both page caches.
_MEMORY_BYTES: Final = 1 << 30


class OwnTreeError(Exception):
    """A directory that cannot be a data set; one line: what, where, cure."""


@dataclass(frozen=True, slots=True)
class Survey:
    """What a directory holds; ``large`` are files from LARGE_BYTES up. ``others``: sockets, devices and the like, which are left out."""

    large_bytes: int
    large_files: int
    small_bytes: int
    small_files: int
    others: int

    @property
    def total_bytes(self) -> int:
        """Bytes of all regular files."""
        return self.large_bytes + self.small_bytes


@dataclass(frozen=True, slots=True)
class OwnSpec:
    """A data set from a user's directory; ``sha256`` is that of the archive that pack() makes of it."""

    name: str
    sha256: str


def survey(directory: Path) -> Survey:
    """Look at every entry below ``directory``. Raises OwnTreeError where it is missing, empty or not to be read."""
    counts = {"large_bytes": 0, "large_files": 0, "small_bytes": 0, "small_files": 0, "others": 0}
    for path, status in _entries(directory):
        if stat.S_ISREG(status.st_mode):
            part = "large" if status.st_size >= LARGE_BYTES else "small"
            counts[f"{part}_files"] += 1
            counts[f"{part}_bytes"] += status.st_size
            if not os.access(path, os.R_OK):
                raise OwnTreeError(f"{path}: may not be read: run as its owner or mend its rights")
        elif not (stat.S_ISDIR(status.st_mode) or stat.S_ISLNK(status.st_mode)):
            counts["others"] += 1
    found = Survey(**counts)
    if not found.total_bytes:
        raise OwnTreeError(f"{directory}: holds no byte in any file: name the directory with the data")
    return found


def pack(directory: Path, archive: Path) -> str:
    """Write every directory, file and symbolic link below ``directory`` into ``archive``; return its sha256. Raises OwnTreeError, NoSpaceError."""
    image.require_space(archive.parent, survey(directory).total_bytes + _MARGIN_BYTES)
    partial = archive.with_name(f"{archive.name}.partial")
    try:
        with open(partial, "wb") as file:
            hashing = _Hashing(file)
            with tarfile.open(fileobj=hashing, mode="w|", format=tarfile.GNU_FORMAT, bufsize=1 << 16) as tar:  # type: ignore[call-overload]
                for path, status in _entries(directory):
                    _add(tar, directory, path, status)
        partial.rename(archive)
    except OSError as error:
        raise OwnTreeError(
            f"{directory}: cannot be copied as it is now: {error}: is somebody writing there?"
        ) from error
    finally:
        partial.unlink(missing_ok=True)
    return hashing.digest.hexdigest()


def keep(directory: Path, archives: Path) -> Path:
    """Pack ``directory`` into ``archives``/SHA256.tar and return that; copies of other data are removed. Raises OwnTreeError, NoSpaceError."""
    archives.mkdir(mode=0o700, parents=True, exist_ok=True)
    fresh = archives / "fresh.tar"
    path = archives / f"{pack(directory, fresh)}.tar"
    fresh.rename(path)
    for other in archives.glob("*.tar"):
        if other != path:
            other.unlink()
    return path


def require_room(archive_bytes: int, share: Path, images: int, meminfo: str) -> None:
    """Raise NoSpaceError or OwnTreeError where the store or the memory of this KVM host is too small; ``images`` are made of the share."""
    image.require_space(share, archive_bytes * (1 + images) + _MARGIN_BYTES)
    needed, available = 2 * archive_bytes + _MEMORY_BYTES, read_meminfo(meminfo)["MemAvailable"]
    if available < needed:
        raise OwnTreeError(
            f"the data are too big for this host: {needed >> 20} MiB of memory are needed to hold them in the host's and a guest's page cache, "
            f"{available >> 20} MiB are available: choose a part of them"
        )


def find_difference(spec: OwnSpec, share: Path, manifest: Path) -> str | None:
    """Why the data set has to be made (again): one line; None when it is there."""
    return dataset.find_stored_difference(asdict(spec), share, manifest)


def make(spec: OwnSpec, archive: Path, share: Path, manifest: Path) -> dict[str, Any]:
    """Make the data set of an ``archive`` that must be the one that ``spec`` names; return its manifest. Raises OwnTreeError, OSError."""
    found = image.digest(archive)
    if found != spec.sha256:
        raise OwnTreeError(
            f"{archive}: has sha256 {found[:12]}, not {spec.sha256[:12]}: it did not arrive whole, run the same command again"
        )
    return unpack(asdict(spec), archive, share, manifest)


def unpack(spec: Mapping[str, Any], archive: Path, share: Path, manifest: Path) -> dict[str, Any]:
    """Unpack ``archive`` as ``share``/data/a/tree, write the manifest and its page digests; return the manifest. Raises OwnTreeError, OSError."""
    data = dataset.start(share, manifest)
    (data / "a" / OWN_TREE).mkdir(parents=True)
    listed: list[dict[str, Any]] = []
    digests: list[bytes] = []
    with tarfile.open(archive, "r:") as tar:
        for entry in tar:
            path = data / "a" / OWN_TREE / _inside(entry.name)
            if entry.isdir():
                path.mkdir(parents=True, exist_ok=True)
            elif entry.issym():
                path.symlink_to(entry.linkname)
            elif entry.isreg() and (source := tar.extractfile(entry)) is not None:
                sha256 = _write(path, source, digests)
                path.chmod(entry.mode)
                listed.append({"path": f"{OWN_TREE}/{entry.name}", "size": entry.size, "sha256": sha256})
    return dataset.finish(spec, ["a"], listed, digests, data, manifest)


class _Hashing:
    """A file to write to that keeps the digest of what was written."""

    def __init__(self, file: IO[bytes]) -> None:
        self.file = file
        self.digest = hashlib.sha256()

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        return self.file.write(data)


def _entries(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Everything below ``directory``, in an order that does not depend on the file system."""
    if not directory.exists():
        raise OwnTreeError(f"{directory}: is not there: --data needs the directory with your data")
    if not directory.is_dir():
        raise OwnTreeError(f"{directory}: is no directory: --data needs the directory with your data")

    def fail(error: OSError) -> None:
        raise OwnTreeError(f"{error.filename}: {error.strerror}: run as its owner or mend its rights") from error

    for top, directories, names in os.walk(directory, onerror=fail):
        directories.sort()
        for name in sorted([*directories, *names]):
            path = Path(top, name)
            yield path, path.lstat()


def _add(tar: tarfile.TarFile, directory: Path, path: Path, status: os.stat_result) -> None:
    entry = tarfile.TarInfo(str(path.relative_to(directory)))
    entry.mtime = image.EPOCH
    entry.mode = 0o755 if status.st_mode & 0o100 else 0o644
    if stat.S_ISDIR(status.st_mode):
        entry.type = tarfile.DIRTYPE
        tar.addfile(entry)
    elif stat.S_ISLNK(status.st_mode):
        entry.type, entry.linkname = tarfile.SYMTYPE, os.readlink(path)
        tar.addfile(entry)
    elif stat.S_ISREG(status.st_mode):
        entry.size = status.st_size
        with open(path, "rb") as file:
            tar.addfile(entry, file)


def _inside(name: str) -> PurePosixPath:
    path = PurePosixPath(name)
    if path.is_absolute() or ".." in path.parts:
        raise OwnTreeError(f"{name!r}: lies outside of the data: this archive was not made by the kit")
    return path


def _write(path: Path, source: IO[bytes], digests: list[bytes]) -> str:
    """Write one file; its pages' digests go to the end of ``digests``, its own is returned."""
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = hashlib.sha256()
    with open(path, "xb") as file:
        while piece := source.read(_PIECE_BYTES):
            file.write(piece)
            whole.update(piece)
            digests.append(dataset.page_digests(piece))
    return whole.hexdigest()
