"""A sealed archive of files: the same files give the same bytes, and every altered byte is found and named.

The archive is a plain tar (ustar, not compressed: a compressor's version would change the bytes) with one top
directory. Its entries are regular files in this order: ``SHA256SUMS.sha256`` (the seal: digest of the list),
``SHA256SUMS`` (digest of every other file), then the files, sorted by name. A header follows from name and content
alone, so a reader can compare every byte with what must stand there.
``sha256sum --check`` in the unpacked directory checks both lists without this kit.
"""

from __future__ import annotations

import hashlib
import os
import re
import tarfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

SUMS = "SHA256SUMS"
SEAL = "SHA256SUMS.sha256"
_BLOCK = 512
_END = bytes(2 * _BLOCK)
_UNKNOWN = "the next entry"
_LINE = re.compile(rb"([0-9a-f]{64})  ([^\n]+)\n")
_NAME = re.compile(r"[ -.0-\[\]-~]+(?:/[ -.0-\[\]-~]+)*")


class ArchiveError(Exception):
    """One line: what is wrong, where, and the cure."""


@dataclass(frozen=True, slots=True)
class Archive:
    """What an undamaged archive holds. ``digest`` is the SHA-256 of the archive file itself, in hexadecimal."""

    top: str
    files: Mapping[str, bytes]
    digest: str


def digest(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def checked_name(name: str) -> str:
    """``name`` when it is a plain relative path below the archive's top directory; raises ArchiveError for anything
    else.
    """
    if not _NAME.fullmatch(name) or any(part in (".", "..") for part in name.split("/")):
        raise ArchiveError(f"entry name {name!r} is not a plain relative path of printable ASCII without backslash")
    return name


def seal(files: Mapping[str, bytes]) -> dict[str, bytes]:
    """``files`` with the two check lists in front, in the archive's order. Raises ArchiveError for names that cannot be
    stored.
    """
    names = sorted(checked_name(name) for name in files)
    for reserved in {SUMS, SEAL} & set(names):
        raise ArchiveError(f"{reserved} is made by the archive itself: rename that file")
    folders = {name[:cut] for name in names for cut, letter in enumerate(name) if letter == "/"}
    for clash in sorted(folders & set(names)):
        raise ArchiveError(f"{clash} is both a file and a directory")
    sums = b"".join(f"{digest(files[name])}  {name}\n".encode() for name in names)
    return {SEAL: f"{digest(sums)}  {SUMS}\n".encode(), SUMS: sums} | {name: files[name] for name in names}


def pack(top: str, files: Mapping[str, bytes]) -> bytes:
    """The archive's bytes. Raises ArchiveError for names that cannot be stored."""
    checked_name(top)
    parts = []
    for name, data in seal(files).items():
        parts += [_header(top, name, data), data, _padding(len(data))]
    return b"".join([*parts, _END])


def write(path: Path, top: str, files: Mapping[str, bytes]) -> str:
    """Store the archive at ``path``, whole or not at all; returns its SHA-256. Raises ArchiveError when it cannot be
    written.
    """
    data = pack(top, files)
    part = path.with_name(path.name + ".part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with part.open("wb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        part.replace(path)
    except OSError as error:
        with suppress(OSError):
            part.unlink(missing_ok=True)
        raise ArchiveError(
            f"{path} cannot be written: {error.strerror}; make room there or name another destination"
        ) from error
    return digest(data)


def read(path: Path) -> Archive:
    """The archive's files after every byte was checked; raises ArchiveError naming each entry that was altered."""
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ArchiveError(f"{path} cannot be read: {error.strerror}") from error
    try:
        top, found, headers = _entries(data)
        _check(top, found, headers)
    except ArchiveError as error:
        raise ArchiveError(f"{path}: {error}") from None
    return Archive(top, {name: content for name, content in found.items() if name not in (SUMS, SEAL)}, digest(data))


def unpack(archive: Archive, directory: Path) -> None:
    """Write the files and both check lists into ``directory``, which must not exist yet. Raises ArchiveError when it
    cannot.
    """
    try:
        directory.mkdir(parents=True)
        for name, data in seal(archive.files).items():
            target = directory / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("xb") as stream:
                stream.write(data)
            target.chmod(_mode(data))
    except FileExistsError as error:
        raise ArchiveError(f"{error.filename} exists already: name a directory that does not exist yet") from error
    except OSError as error:
        raise ArchiveError(f"{directory} cannot be written: {error.strerror}") from error


def is_unpacked(archive: Archive, directory: Path) -> bool:
    """Whether ``directory`` holds every file of the archive, byte for byte; what else lies there does not matter."""
    try:
        return all((directory / name).read_bytes() == data for name, data in seal(archive.files).items())
    except OSError:
        return False


def _mode(data: bytes) -> int:
    return 0o755 if data.startswith(b"#!") else 0o644


def _header(top: str, name: str, data: bytes) -> bytes:
    entry = tarfile.TarInfo(f"{top}/{name}")
    entry.size, entry.mode = len(data), _mode(data)
    try:
        return entry.tobuf(tarfile.USTAR_FORMAT, "ascii", "strict")
    except ValueError as error:
        raise ArchiveError(f"{name}: {error}; shorten the path") from error


def _padding(size: int) -> bytes:
    return bytes(-size % _BLOCK)


def _entries(data: bytes) -> tuple[str, dict[str, bytes], dict[str, bytes]]:
    """Top directory, contents and headers by name in stored order. Raises ArchiveError where order, length or padding
    is not as packed.
    """
    found: dict[str, bytes] = {}
    headers: dict[str, bytes] = {}
    top, at = "", 0
    while expected := _expected_name(found):
        header = data[at : at + _BLOCK]
        if expected == _UNKNOWN and header == _END[:_BLOCK]:
            break
        if len(header) < _BLOCK:
            raise ArchiveError(
                f"cut short: it ends at byte {len(data)}, where {expected} should begin; copy the archive again"
            )
        top, name, size = _place(header, top, expected, found)
        at += _BLOCK
        content, padding = data[at : at + size], data[at + size : at + size + len(_padding(size))]
        if len(content) < size or len(padding) < len(_padding(size)):
            raise ArchiveError(f"cut short: it ends inside {name}, at byte {len(data)}; copy the archive again")
        if any(padding):
            raise ArchiveError(f"the padding after {name} was altered")
        found[name], headers[name] = content, header
        at += size + len(padding)
    end = data[at:]
    if len(end) < len(_END) and not any(end):
        raise ArchiveError("cut short: the end mark is missing; copy the archive again")
    if end != _END:
        raise ArchiveError("the end mark after the last entry was altered")
    return top, found, headers


def _place(header: bytes, top: str, expected: str, found: Mapping[str, bytes]) -> tuple[str, str, int]:
    """Top directory, name and size that a header states. Raises ArchiveError when it is not the header that must stand
    here.
    """
    try:
        entry = tarfile.TarInfo.frombuf(header, "ascii", "strict")
    except (tarfile.HeaderError, UnicodeDecodeError):
        entry = None
    if entry is None or not entry.isreg() or entry.size < 0:
        if not found:
            raise ArchiveError(f"not an archive made by handoff, or the header of its first entry {SEAL} was altered")
        raise ArchiveError(f"the header of {expected} was altered")
    here, _, name = entry.name.partition("/")
    for part in (here, name):
        checked_name(part)
    known = name not in found if expected == _UNKNOWN else name == expected
    if not known or here != (top or here):
        raise ArchiveError(f"{entry.name} stands where {expected} belongs: an entry was renamed, added or taken out")
    return here, name, entry.size


def _expected_name(found: Mapping[str, bytes]) -> str:
    """Name of the entry that must come next; empty after the last one, _UNKNOWN where the list of names cannot be
    trusted.
    """
    if len(found) < 2:
        return (SEAL, SUMS)[len(found)]
    if not _sealed(found):
        return _UNKNOWN
    names = [line[2].decode("ascii") for line in _LINE.finditer(found[SUMS])]
    return names[len(found) - 2] if len(found) - 2 < len(names) else ""


def _sealed(found: Mapping[str, bytes]) -> bool:
    return found[SEAL] == f"{digest(found[SUMS])}  {SUMS}\n".encode()


def _check(top: str, found: Mapping[str, bytes], headers: Mapping[str, bytes]) -> None:
    """Compare contents with the lists and headers with the contents. Raises ArchiveError."""
    files = {name: data for name, data in found.items() if name not in (SUMS, SEAL)}
    if not _sealed(found):
        altered = SEAL if seal(files)[SUMS] == found[SUMS] else SUMS
        raise ArchiveError(f"{altered} was altered")
    stated = {line[2].decode("ascii"): line[1].decode() for line in _LINE.finditer(found[SUMS])}
    altered_files = [name for name in stated if name not in files or digest(files[name]) != stated[name]]
    if altered_files:
        raise ArchiveError(
            f"{', '.join(altered_files)} altered: content does not match {SUMS}; get the archive again from its maker"
        )
    for name, header in headers.items():
        if header != _header(top, name, found[name]):
            raise ArchiveError(f"the header of {name} was altered")
