"""Pages that another process maps are let go, on the real kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from ansible.module_utils.onecopy import cachestat, pageout

MAPPER = """
import mmap, sys
with open(sys.argv[1], "r+b") as file:
    mapped = mmap.mmap(file.fileno(), 0)
    sum(mapped[::4096])
    print("mapped", flush=True)
    sys.stdin.read()
"""
MAPS = """\
7f00-8f00 rw-s 00000000 fe:00 77 /a/data.img
8f00-9f00 rw-p 00000000 00:00 0
9f00-9f10 r--s 00001000 fe:00 77 /a/data.img
a000-a100 r--s 00000000 fe:00 78 /a/data.img.other
"""


def test_only_mappings_of_that_file_count() -> None:
    assert list(pageout.mapped_ranges(MAPS, "/a/data.img")) == [(0x7F00, 0x1000), (0x9F00, 0x10)]


def test_mapped_pages_can_be_evicted(disk_path: Path) -> None:
    path = disk_path / "mapped"
    path.write_bytes(os.urandom(4 << 20))
    os.sync()
    with subprocess.Popen(
        [sys.executable, "-c", MAPPER, str(path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "mapped\n"
        fd = os.open(path, os.O_RDONLY)
        try:
            cachestat.evict(fd)
            assert cachestat.cachestat(fd).resident > 0, "what a process maps stays, that is why page_out exists"
            assert pageout.page_out(process.pid, path) == 4 << 20
            cachestat.evict(fd)
            assert cachestat.cachestat(fd).resident == 0
        finally:
            os.close(fd)
        process.communicate("")


def test_pages_that_several_processes_map_are_taken_from_all_of_them(disk_path: Path) -> None:
    path = disk_path / "mapped"
    content = os.urandom(3 << 20)
    with open(path, "wb") as file:
        file.write(content)
        file.truncate(8 << 20)  # and a hole
    os.sync()
    blocks = path.stat().st_blocks
    command = [sys.executable, "-c", MAPPER, str(path)]
    with (
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as one,
        subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other,
    ):
        for process in (one, other):
            assert process.stdout is not None
            assert process.stdout.readline() == "mapped\n"
        fd = os.open(path, os.O_RDONLY)
        try:
            for process in (one, other):
                pageout.page_out(process.pid, path)
            cachestat.evict(fd)
            assert cachestat.cachestat(fd).resident > 0, "what two processes map stays, that is why take_back exists"
            pageout.take_back(path)
            cachestat.evict(fd)
            assert cachestat.cachestat(fd).resident == 0
        finally:
            os.close(fd)
        one.communicate("")
        other.communicate("")
    assert path.read_bytes() == content + bytes(5 << 20)
    assert path.stat().st_blocks == blocks


def test_a_file_that_is_no_multiple_of_a_page_is_taken_back_but_for_its_last_page(disk_path: Path) -> None:
    path = disk_path / "odd"
    content = os.urandom((1 << 20) + 100)
    path.write_bytes(content)
    os.sync()
    path.read_bytes()
    pageout.take_back(path)
    fd = os.open(path, os.O_RDONLY)
    try:
        assert cachestat.cachestat(fd).resident <= 1
    finally:
        os.close(fd)
    assert path.read_bytes() == content
