"""Which open files are images."""

from __future__ import annotations

import os

from ansible.module_utils.onecopy import audit_images
from ansible.module_utils.onecopy.audit_cmdline import Disk, Guest, MemoryBackend, Pmem
from ansible.module_utils.onecopy.audit_processes import OpenFile

RW, DIRECT = os.O_RDWR, os.O_RDWR | os.O_DIRECT


def opened(name: str, flags: int = RW, inode: int | None = None, size: int = 4096) -> OpenFile:
    return OpenFile(9, name, (1, inode if inode is not None else hash(name)), False, size, size, flags)


def found(guest: Guest, *files: OpenFile) -> list[tuple[str, str, str, bool]]:
    images = audit_images.images(guest, files, lambda path, one: one.name == path)
    return [(image.role, image.name, image.cache, image.read_only) for image in images]


def test_descriptor_is_the_truth_about_o_direct() -> None:
    guest = Guest(disks=[Disk("/a", "writeback", False)])
    assert found(guest, opened("/a", DIRECT)) == [("disk", "/a", "none", False)]


def test_backing_file_of_a_header_is_unlisted_and_read_only() -> None:
    guest = Guest(disks=[Disk("/top", "writeback", False)])
    assert found(guest, opened("/top"), opened("/base", os.O_RDONLY)) == [
        ("disk", "/top", "writeback", False),
        ("unlisted", "/base", "writeback", True),
    ]


def test_a_file_open_twice_serves_both_who_name_it() -> None:
    guest = Guest(disks=[Disk("/base", "none", True, backing=True), Disk("/base", "writeback", False)])
    files = (opened("/base", os.O_DIRECT, 5), opened("/base", os.O_RDONLY, 5))
    assert found(guest, *files) == [("backing", "/base", "none", True), ("disk", "/base", "writeback", True)]


def test_what_is_no_image() -> None:
    guest = Guest(pid_file="/pid", backends=[MemoryBackend("m", "memory-backend-file", 1, True, True, "/ram")])
    log, memfd = opened("/log", os.O_WRONLY | os.O_APPEND), opened("/memfd:memory-backend-memfd (deleted)")
    assert found(guest, opened("/pid"), opened("/ram"), log, memfd, opened("/empty", size=0)) == []


def test_pmem_is_no_memory() -> None:
    guest = Guest(
        backends=[MemoryBackend("p", "memory-backend-file", 1, True, True, "/p")],
        pmem=[Pmem("/p", True, "virtio-pmem-pci")],
    )
    assert found(guest, opened("/p")) == [("pmem", "/p", "mapped shared", False)]


def test_named_image_without_descriptor_is_kept() -> None:
    assert found(Guest(disks=[Disk(None, "none", True, protocol="rbd")])) == [("disk", "rbd:", "none", False)]


def test_files_of_a_dax_window_are_no_images() -> None:
    files = [opened("/data/f", inode=7), opened("/hot-plugged", inode=8)]
    images = audit_images.images(Guest(), files, lambda path, one: one.name == path, window=[7])
    assert [image.name for image in images] == ["/hot-plugged"]
