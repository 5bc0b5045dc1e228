"""Write a newc cpio archive: what the kernel unpacks as its first root. Deterministic: fixed times, owners and inode numbers."""

from __future__ import annotations

import stat
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Entry:
    """One file (``content``), directory, symbolic link (``content`` is its target) or character device (``device``)."""

    mode: int
    content: bytes = b""
    device: tuple[int, int] = (0, 0)


def directory(permissions: int = 0o755) -> Entry:
    """A directory."""
    return Entry(stat.S_IFDIR | permissions)


def file(content: bytes, permissions: int = 0o644) -> Entry:
    """A regular file."""
    return Entry(stat.S_IFREG | permissions, content)


def symlink(target: str) -> Entry:
    """A symbolic link."""
    return Entry(stat.S_IFLNK | 0o777, target.encode())


def character_device(major: int, minor: int, permissions: int = 0o600) -> Entry:
    """A character device node."""
    return Entry(stat.S_IFCHR | permissions, device=(major, minor))


def pack(entries: Mapping[str, Entry]) -> bytes:
    """Return the archive of ``entries`` (path without a leading slash → entry); directories are added where they are missing."""
    whole: dict[str, Entry] = {}
    for path, entry in entries.items():
        parts = path.split("/")
        for depth in range(1, len(parts)):
            whole.setdefault("/".join(parts[:depth]), directory())
        whole[path] = entry
    records = [_record(number, path, whole[path]) for number, path in enumerate(sorted(whole), start=1)]
    return b"".join(records) + _record(0, "TRAILER!!!", Entry(0))


def _record(inode: int, path: str, entry: Entry) -> bytes:
    name = path.encode() + b"\0"
    links = 2 if stat.S_ISDIR(entry.mode) else 1
    fields = (inode, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, *entry.device, len(name), 0)
    header = b"070701" + b"".join(b"%08X" % field for field in fields)
    return _padded(header + name) + _padded(entry.content)


def _padded(data: bytes) -> bytes:
    return data + b"\0" * (-len(data) % 4)
