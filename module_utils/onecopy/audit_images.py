"""Which of a QEMU's open files are its images: the command line says what was meant, the descriptors what is open."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

from .audit_cmdline import Disk, Guest, Pmem
from .audit_processes import PROC, FileKey, OpenFile

Role = Literal["disk", "backing", "pmem", "firmware", "unlisted"]
SameFile = Callable[[str, OpenFile], bool]


@dataclass(frozen=True, slots=True)
class Image:
    """One image of a guest. ``opened`` is None where no descriptor belongs to it (a protocol, or an ejected medium).

    ``direct`` comes from the descriptor where there is one. ``unlisted`` images are open but not on the command line:
    hot-plugged, passed as descriptors, or the backing files of a qcow2 chain that only the image's header names.
    """

    role: Role
    name: str
    cache: str
    direct: bool
    read_only: bool
    format: str | None
    device: str | None
    opened: OpenFile | None


def same_file(pid: int) -> SameFile:
    """Whether a path, as that process sees it, is an open file: by name, else by what the path leads to now."""

    def answer(path: str, opened: OpenFile) -> bool:
        if opened.name.removesuffix(" (deleted)") == path:
            return True
        try:
            status = os.stat(f"{PROC}/{pid}/root{path}" if path.startswith("/") else f"{PROC}/{pid}/cwd/{path}")
        except OSError:
            return False
        return opened.key == ((-1, status.st_rdev) if opened.is_block else (status.st_dev, status.st_ino))

    return answer


def images(guest: Guest, files: Iterable[OpenFile], same: SameFile, window: Iterable[int] = ()) -> list[Image]:
    """Every image that a guest uses, the named ones first. A file that the command line names twice comes twice.

    ``window`` are inodes mapped in a DAX window: QEMU keeps those files of a share open as well.
    """
    memory_paths = [backend.path for backend in guest.backends if backend.path]
    not_images = [path for path in (guest.pid_file, *memory_paths) if path]
    left = [one for one in files if _could_be_image(one)]
    found: list[Image] = []
    used: set[FileKey] = set()
    mapped = set(window)
    for pmem in guest.pmem:
        opened = [one for one in left if same(pmem.path, one)]
        used |= {one.key for one in opened}
        found.append(_of_pmem(pmem, opened))
    left = [one for one in left if not any(same(path, one) for path in not_images)]
    for disk in guest.disks:
        if disk.path is not None and disk.path.startswith("/dev/fdset/"):
            continue
        opened = [] if disk.path is None else [one for one in left if same(disk.path, one)]
        used |= {one.key for one in opened}
        # A base may be open twice, as a backing file with O_DIRECT and as a disk without: to each what it asked for.
        found.append(_of_disk(disk, [one for one in opened if one.direct == disk.direct] or opened))
    by_key: dict[FileKey, list[OpenFile]] = {}
    for one in left:
        if one.key not in used and one.key[1] not in mapped:
            by_key.setdefault(one.key, []).append(one)
    found.extend(_unlisted(opened) for opened in by_key.values())
    return found


def _could_be_image(one: OpenFile) -> bool:
    written_only = one.flags & os.O_ACCMODE == os.O_WRONLY or one.flags & os.O_APPEND
    memory = one.name.startswith(("/memfd:", "/dev/shm/", "/dev/hugepages", "/proc/", "/sys/"))
    return not (written_only or one.path_only or memory) and (one.is_block or one.size > 0)


def _of_disk(disk: Disk, opened: list[OpenFile]) -> Image:
    direct = all(one.direct for one in opened) if opened else disk.direct
    cache = disk.cache if direct == disk.direct else "none" if direct else "writeback"
    read_only = not any(one.writable for one in opened) if opened else disk.read_only
    role: Role = "firmware" if disk.firmware else "backing" if disk.backing else "disk"
    name = disk.path or f"{disk.protocol}:"
    return Image(role, name, cache, direct, read_only, disk.format, disk.device, opened[0] if opened else None)


def _of_pmem(pmem: Pmem, opened: list[OpenFile]) -> Image:
    read_only = not any(one.writable for one in opened) if opened else False
    mode = "mapped shared" if pmem.shared else "mapped privately"
    return Image("pmem", pmem.path, mode, False, read_only, "raw", pmem.device, opened[0] if opened else None)


def _unlisted(opened: list[OpenFile]) -> Image:
    direct = all(one.direct for one in opened)
    read_only = not any(one.writable for one in opened)
    return Image(
        "unlisted", opened[0].name, "none" if direct else "writeback", direct, read_only, None, None, opened[0]
    )
