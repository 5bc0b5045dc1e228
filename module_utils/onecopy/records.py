"""Records: one JSON object a line, appended and fsynced one by one, so that a kill at any moment loses no finished one."""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

Record = Mapping[str, Any]


class Records(NamedTuple):
    """What a file of records holds; ``torn`` counts the lines that a kill left half-written, which are no records."""

    records: list[dict[str, Any]]
    torn: int


def append(path: Path, *records: Record) -> None:
    """Append ``records`` and return when they are on the disk. Several processes may append to one file. Raises OSError."""
    lines = b"".join(json.dumps(record, sort_keys=True, separators=(",", ":")).encode() + b"\n" for record in records)
    existed = path.exists()
    fd = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        end = os.fstat(fd).st_size
        if end and os.pread(fd, 1, end - 1) != b"\n":
            # A kill tore the last line off: without this the next record would be glued to it and lost too.
            lines = b"\n" + lines
        while lines:
            lines = lines[os.write(fd, lines) :]
        os.fsync(fd)
    finally:
        os.close(fd)
    if not existed:
        sync_directory(path.parent)


def read(path: Path) -> Records:
    """Every whole record of the file, in the order in which they were appended; none where there is no file."""
    try:
        lines = path.read_bytes().split(b"\n")
    except FileNotFoundError:
        return Records([], 0)
    records, torn = [], 0
    for line in lines:
        try:
            record = json.loads(line) if line.strip() else None
        except ValueError:
            torn += 1
            continue
        if isinstance(record, dict) and "id" in record:
            records.append(record)
        elif record is not None:
            torn += 1
    return Records(records, torn)


def merge(*streams: Iterable[Record]) -> list[dict[str, Any]]:
    """One record per host and trial, in the order of the plan: the first that was written stands, since a finished trial is never run again.

    Merging what was merged before changes nothing.
    """
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for stream in streams:
        for record in stream:
            first.setdefault((str(record.get("host", "")), str(record["id"])), dict(record))
    return sorted(first.values(), key=lambda record: (record.get("order", 0), str(record.get("host", ""))))


def write_atomically(path: Path, document: Any) -> None:
    """Write ``document`` as JSON so that a reader sees the old file or the new one, also after a crash."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(document, file, indent=1, sort_keys=True)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError:
        # On a full disk what was written of it would take the room that is left.
        temporary.unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def sync_directory(path: Path) -> None:
    """Make names in the directory durable."""
    fd = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
