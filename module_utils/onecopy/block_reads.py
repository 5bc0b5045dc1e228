"""Which blocks of one of its disks a guest asks for, read from QEMU's own trace of a running guest: what passes a host that looks on."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

from .cachestat import PAGE_SIZE

_SECTOR: Final = 512
_EVENT: Final = "virtio_blk_handle_read"
_LINE: Final = re.compile(rf"{_EVENT} vdev (0x[0-9a-f]+) req \S+ sector (\d+) nsectors (\d+)")

# Gives one line to QEMU's human monitor and returns what it prints.
Monitor = Callable[[str], str]


class TraceError(Exception):
    """This QEMU does not tell what its guest reads; one line."""


def start(monitor: Monitor, log: Path) -> None:
    """Let QEMU write every read request to ``log``, which its user can write. Raises TraceError."""
    for line in (f"logfile {log}", f"log trace:{_EVENT}"):
        said = monitor(line).strip()
        if said:
            raise TraceError(f"{line.split()[0]}: {said.splitlines()[0]}")


def stop(monitor: Monitor) -> None:
    """End what start() began."""
    monitor("log none")
    monitor(f"trace-event {_EVENT} off")


def pages(text: str, marker_page: int) -> set[int]:
    """Pages of the disk that were read. The disk is the one of which ``marker_page`` was read last of all, on purpose and alone.

    QEMU names its disks by addresses of its memory alone. Raises TraceError when nobody read the marker.
    """
    requests = list(_requests(text))
    marker = (marker_page * PAGE_SIZE // _SECTOR, PAGE_SIZE // _SECTOR)
    disk = next((disk for disk, sector, sectors in reversed(requests) if (sector, sectors) == marker), None)
    if disk is None:
        raise TraceError(f"{len(requests)} requests were seen, the one that names the disk is not among them")
    return {
        page
        for which, sector, sectors in requests
        if which == disk and (sector, sectors) != marker
        for page in range(sector * _SECTOR // PAGE_SIZE, -(-(sector + sectors) * _SECTOR // PAGE_SIZE))
    }


def _requests(text: str) -> Iterator[tuple[str, int, int]]:
    for disk, sector, sectors in _LINE.findall(text):
        yield disk, int(sector), int(sectors)
