"""The data set: the same bytes from the same numbers, on every machine. Text, so that every utility has something to do.

Layout: ``a/large`` (few big files), ``a/small`` (many small ones, 64 a directory), and, unless it is to have no twin, ``b``, an equal tree with
pages of its own on the disk.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from . import image

PAGE_BYTES: Final = 4096
DIGEST_BYTES: Final = 8  # of one page: enough to tell pages of a data set apart
PARTS: Final = ("a/large", "a/small", "b/large", "b/small")
FORMAT: Final = 1  # of the bytes: raise it when the same inputs would give others
_MIB = 1 << 20
_FILES_A_DIRECTORY = 64
_SLICE_BYTES = 1 << 20
# Shares of 256: lines of about 60 letters; no digit and no capital ever occurs, so a search for one finds nothing.
_LETTERS = "e" * 26 + "taoinsrh" * 15 + "dlucmfwygpb" * 5 + "vkxqjz" + " " * 40 + "\n" * 4
_TABLE = (_LETTERS + "a" * (256 - len(_LETTERS))).encode()


@dataclass(frozen=True, slots=True)
class DatasetSpec:
    """Sizes of the parts of one tree; the ``twin`` doubles them. Raises ValueError where no such data set can be."""

    name: str
    large_mib: int
    large_files: int
    small_mib: int
    small_files: int
    seed: int
    twin: bool = True

    def __post_init__(self) -> None:
        if not self.name or "/" in self.name or self.name.startswith("."):
            raise ValueError(f"dataset name {self.name!r}: must be a plain file name")
        for part in ("large", "small"):
            mib, files = getattr(self, f"{part}_mib"), getattr(self, f"{part}_files")
            if mib < 1 or files < 1:
                raise ValueError(f"dataset {self.name}: {part}_mib and {part}_files must be at least 1")
            if mib * _MIB // files < 2:
                raise ValueError(f"dataset {self.name}: {files} files do not fit {mib} MiB ({part})")

    @property
    def trees(self) -> str:
        """Names of the equal trees."""
        return "ab" if self.twin else "a"

    def as_dict(self) -> dict[str, Any]:
        """The form of the manifest, by which it is known again. A twin goes without saying: manifests from before it was a choice stay valid."""
        return {key: value for key, value in asdict(self).items() if (key, value) != ("twin", True)}


@dataclass(frozen=True, slots=True)
class File:
    """One file of the plan of a data set; ``path`` is relative to a tree."""

    path: str
    size: int


def files(spec: DatasetSpec) -> Iterator[File]:
    """Yield the files of one tree, in order; the sizes of a part add up to it exactly."""
    for number, size in enumerate(_sizes(spec.large_mib * _MIB, spec.large_files, spec.seed, spread=0.0)):
        yield File(f"large/file-{number:03}.txt", size)
    for number, size in enumerate(_sizes(spec.small_mib * _MIB, spec.small_files, spec.seed, spread=0.75)):
        yield File(f"small/{number // _FILES_A_DIRECTORY:03}/file-{number:05}.txt", size)


def _sizes(total: int, count: int, seed: int, spread: float) -> list[int]:
    # Sizes around the mean, not multiples of a page: partly filled last pages belong to real data.
    numbers = random.Random(f"{seed}:{total}:{count}")
    weights = [1 + spread * (2 * numbers.random() - 1) for _ in range(count)]
    whole = sum(weights)
    sizes = [max(1, int(total * weight / whole)) for weight in weights]
    sizes[-1] += total - sum(sizes)
    return sizes


def content(spec: DatasetSpec, file: File) -> Iterator[bytes]:
    """Yield a file's bytes in slices: a stream of SHAKE-128 of seed, path and position, as letters."""
    for offset in range(0, file.size, _SLICE_BYTES):
        length = min(_SLICE_BYTES, file.size - offset)
        stream = hashlib.shake_128(f"onecopy {FORMAT} {spec.seed} {file.path} {offset}".encode()).digest(length)
        yield stream.translate(_TABLE)


def page_digests(data: bytes) -> bytes:
    """The digests of the pages of ``data``, one after another; the last page is filled up with zeros, as in a page cache."""
    pages = (data[offset : offset + PAGE_BYTES].ljust(PAGE_BYTES, b"\0") for offset in range(0, len(data), PAGE_BYTES))
    return b"".join(hashlib.blake2b(page, digest_size=DIGEST_BYTES).digest() for page in pages)


def make(spec: DatasetSpec, share: Path, manifest: Path) -> dict[str, Any]:
    """Make ``share``/data and ``share``/scratch, write the manifest and its sidecar of page digests; return the manifest.

    A broken-off run leaves no manifest, so the next one starts again. Raises NoSpaceError, OSError.
    """
    data = start(share, manifest)
    plan = list(files(spec))
    tree_bytes = sum(-(-file.size // PAGE_BYTES) * PAGE_BYTES for file in plan)
    image.require_space(share, len(spec.trees) * tree_bytes + 16 * _MIB)
    listed, digests = [], []
    for file in plan:
        pieces = list(content(spec, file))
        for tree in spec.trees:
            _write(data / tree / file.path, pieces)
        whole = hashlib.sha256()
        for piece in pieces:
            whole.update(piece)
            digests.append(page_digests(piece))
        listed.append({"path": file.path, "size": file.size, "sha256": whole.hexdigest()})
    return finish(spec.as_dict(), list(spec.trees), listed, digests, data, manifest)


def start(share: Path, manifest: Path) -> Path:
    """Remove the data set that was there, manifest first; return where its data go. The scratch is there then, too."""
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.unlink(missing_ok=True)
    data = share / "data"
    if data.exists():
        shutil.rmtree(data)
    (share / "scratch").mkdir(parents=True, exist_ok=True)
    return data


def finish(
    spec: Mapping[str, Any],
    trees: Sequence[str],
    listed: Sequence[Mapping[str, Any]],
    digests: Iterable[bytes],
    data: Path,
    manifest: Path,
) -> dict[str, Any]:
    """Set the data's times, write the sidecar of page ``digests`` and, last, the manifest; return it. ``listed``: path, size, sha256."""
    _set_times(data)
    os.sync()
    sidecar = pages_path(manifest)
    sidecar.write_bytes(b"".join(digests))
    document = {
        "format": FORMAT,
        "spec": dict(spec),
        "trees": list(trees),
        "files": list(listed),
        "pages": {
            "file": sidecar.name,
            "digest_bytes": DIGEST_BYTES,
            "algorithm": "blake2b",
            "sha256": image.digest(sidecar),
        },
    }
    partial = manifest.with_name(f"{manifest.name}.partial")
    partial.write_text(json.dumps(document, indent=0) + "\n", encoding="ascii")
    partial.rename(manifest)
    return document


def existing_parts(data: Path) -> tuple[str, ...]:
    """The PARTS that there are below ``data``; a data set without a twin has those of tree ``a`` alone."""
    return tuple(part for part in PARTS if part.startswith("a/") or (data / "b").is_dir())


def pages_path(manifest: Path) -> Path:
    """The sidecar: digests of every page of one tree, in the order of the manifest's files."""
    return manifest.with_suffix(".pages")


def read_manifest(manifest: Path) -> dict[str, Any] | None:
    """The manifest; None where there is none that can be read."""
    try:
        document = json.loads(manifest.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return None
    return document if isinstance(document, dict) else None


def file_pages(manifest: Path, document: Mapping[str, Any]) -> Iterator[tuple[str, list[bytes]]]:
    """Yield path and page digests of every file of one tree."""
    digests = pages_path(manifest).read_bytes()
    start = 0
    for file in document["files"]:
        end = start + -(-file["size"] // PAGE_BYTES) * DIGEST_BYTES
        yield file["path"], [digests[at : at + DIGEST_BYTES] for at in range(start, end, DIGEST_BYTES)]
        start = end


def find_difference(spec: DatasetSpec, share: Path, manifest: Path, is_thorough: bool = False) -> str | None:
    """Why the data set has to be made (again): one line; None when it is there. ``is_thorough`` reads every byte."""
    return find_stored_difference(spec.as_dict(), share, manifest, is_thorough)


def find_stored_difference(
    spec: Mapping[str, Any], share: Path, manifest: Path, is_thorough: bool = False
) -> str | None:
    """The same for a data set of any kind, whose manifest holds ``spec``."""
    document = read_manifest(manifest)
    if document is None:
        return f"{manifest} is missing"
    if document.get("format") != FORMAT or document.get("spec") != spec:
        return f"{manifest} is of another data set"
    for path in (pages_path(manifest), share / "scratch"):
        if not path.exists():
            return f"{path} is missing"
    return _find_damage(document, share, is_thorough)


def _find_damage(document: Mapping[str, Any], share: Path, is_thorough: bool) -> str | None:
    for tree in document["trees"]:
        for file in document["files"]:
            path = share / "data" / tree / file["path"]
            try:
                size = os.lstat(path).st_size
            except FileNotFoundError:
                return f"{path} is missing"
            if size != file["size"] or (is_thorough and image.digest(path) != file["sha256"]):
                return f"{path} was changed"
    return None


def _write(path: Path, pieces: list[bytes]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with open(path, "wb") as file:
        file.writelines(pieces)


def _set_times(top: Path) -> None:
    # Owners, modes and times go into the images, which are to be equal wherever they are made.
    for directory, directories, names in os.walk(top, topdown=False):
        links = [name for name in directories if os.path.islink(os.path.join(directory, name))]
        for name in (*names, *links):
            path = os.path.join(directory, name)
            if not os.path.islink(path):
                os.chmod(path, 0o755 if os.stat(path).st_mode & 0o100 else 0o644)
            os.utime(path, (image.EPOCH, image.EPOCH), follow_symlinks=False)
        os.chmod(directory, 0o755)
        os.utime(directory, (image.EPOCH, image.EPOCH))
