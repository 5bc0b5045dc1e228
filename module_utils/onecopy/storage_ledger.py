"""The storage ledger: bytes that data need, that the host allocated for them, and that lie free where the host cannot see it."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Final

from . import cachestat

_SECTOR: Final = 512
_EXT4_SUPERBLOCK: Final = 1024
_EXT4_MAGIC: Final = 0xEF53
_EXT4_64BIT: Final = 0x80
_QCOW2_MAGIC: Final = b"QFI\xfb"


class StorageError(Exception):
    """What was named cannot be accounted for; one line."""


def share(top: str) -> dict[str, int]:
    """``files``, ``needed_bytes`` (sizes) and ``allocated_bytes`` of a tree; a file with several names once. Raises OSError."""
    files = needed = allocated = 0
    seen: set[tuple[int, int]] = set()
    for path in cachestat.walk_files(top):
        status = os.lstat(path)
        if status.st_nlink > 1:
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
        files += 1
        needed += status.st_size
        allocated += status.st_blocks * _SECTOR
    return {"files": files, "needed_bytes": needed, "allocated_bytes": allocated}


def image(path: Path, guest_free_bytes: int | None = None) -> dict[str, Any]:
    """One image: ``format``, ``size_bytes`` that the guest sees, ``allocated_bytes`` on the host, and what the guest's file system keeps free.

    ``guest_free_bytes`` is what the guest said (a mounted file system writes it down late); else the superblock of a raw ext4 image tells.
    ``hidden_free_bytes``: allocated on the host for what the guest holds free. Raises OSError.
    """
    status = os.stat(path)
    with open(path, "rb") as file:
        head = file.read(4096)
    kind: dict[str, Any] = {"format": "raw", "size_bytes": status.st_size}
    if head[:4] == _QCOW2_MAGIC:
        kind = qcow2(head)
    elif guest_free_bytes is None:
        guest_free_bytes = ext4_free_bytes(head)
    return kind | allocation(status, kind["size_bytes"], guest_free_bytes)


def allocation(status: os.stat_result, size_bytes: int, guest_free_bytes: int | None) -> dict[str, int]:
    """``allocated_bytes`` of an image of ``size_bytes``, and what its guest keeps free and the host holds for it all the same.

    Reads nothing of the image: a page of it in the host's cache would spoil a cold start.
    """
    ledger = {"allocated_bytes": status.st_blocks * _SECTOR}
    if guest_free_bytes is not None:
        ledger["guest_free_bytes"] = guest_free_bytes
        # A lower bound: where blocks in use are holes on the host, more of what is allocated is free.
        ledger["hidden_free_bytes"] = max(0, ledger["allocated_bytes"] - (size_bytes - guest_free_bytes))
    return ledger


def file_system(path: Path) -> dict[str, int]:
    """``total_bytes``, ``free_bytes`` and ``available_bytes`` (to others than root) of the file system at ``path``. Raises OSError."""
    status = os.statvfs(path)
    return {
        "total_bytes": status.f_blocks * status.f_frsize,
        "free_bytes": status.f_bfree * status.f_frsize,
        "available_bytes": status.f_bavail * status.f_frsize,
    }


def snapshot(
    store: Path,
    shares: Mapping[str, str],
    images: Mapping[str, Path],
    guest_free_bytes: Mapping[str, int] | None = None,
) -> dict[str, Any]:
    """Every share and image by name, and the store that they lie on; ``others_bytes`` is what else is allocated there.

    Total = shares + images + others + free. Raises StorageError when something lies on another file system, OSError.
    """
    device = os.stat(store).st_dev
    for path in (*map(Path, shares.values()), *images.values()):
        if os.stat(path).st_dev != device:
            raise StorageError(f"{path}: does not lie on the file system of {store}: its bytes would not add up")
    free = guest_free_bytes or {}
    taken: dict[str, Any] = {
        "store": file_system(store),
        "shares": {name: share(top) for name, top in shares.items()},
        "images": {name: image(path, free.get(name)) for name, path in images.items()},
    }
    known = allocated_bytes(taken["shares"].values()) + allocated_bytes(taken["images"].values())
    taken["others_bytes"] = taken["store"]["total_bytes"] - taken["store"]["free_bytes"] - known
    return taken


def allocated_bytes(items: Iterable[Mapping[str, Any]]) -> int:
    """Sum over shares or images."""
    return sum(int(item["allocated_bytes"]) for item in items)


def difference(before: Mapping[str, Any], after: Mapping[str, Any]) -> dict[str, Any]:
    """Change of every number of two snapshots, for the shares and images that both have."""
    change: dict[str, Any] = {}
    for name, value in after.items():
        if name not in before:
            continue
        if isinstance(value, dict):
            change[name] = difference(before[name], value)
        elif isinstance(value, int):
            change[name] = value - before[name]
    return change


def ext4_free_bytes(head: bytes) -> int | None:
    """Free bytes of an ext2/3/4 file system, from its first 4 KiB; None when it is none."""
    block = head[_EXT4_SUPERBLOCK : _EXT4_SUPERBLOCK + 1024]
    if len(block) < 1024 or struct.unpack_from("<H", block, 56)[0] != _EXT4_MAGIC:
        return None
    free: int = struct.unpack_from("<I", block, 12)[0]
    if struct.unpack_from("<I", block, 0x60)[0] & _EXT4_64BIT:
        free |= struct.unpack_from("<I", block, 0x158)[0] << 32
    return free * (1024 << int(struct.unpack_from("<I", block, 24)[0]))


def qcow2(head: bytes) -> dict[str, Any]:
    """``format``, ``size_bytes`` and ``cluster_bytes`` of a qcow2 image, from its header."""
    return {
        "format": "qcow2",
        "cluster_bytes": 1 << struct.unpack_from(">I", head, 20)[0],
        "size_bytes": struct.unpack_from(">Q", head, 24)[0],
    }
