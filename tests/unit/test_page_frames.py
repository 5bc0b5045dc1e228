"""Physical frames behind a data set's pages, on this kernel, with processes that hold pages as guests do."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import cachestat, dataset, dataset_frames, page_frames

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="frame numbers are for root's eyes")
Run = Callable[..., dict[str, Any]]
Start = Callable[..., int]
LARGE_PAGES = 256
# Holds the first N pages of a file in memory as QEMU would: in a memfd, or privately, there shared with a forked child.
HOLDER = """
import mmap, os, sys
kind, path, pages = sys.argv[1], sys.argv[2], int(sys.argv[3])
data = open(path, "rb").read(pages * 4096)
size = 64 << 20
if kind == "private":
    ram = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    ram.madvise(mmap.MADV_NOHUGEPAGE)
else:
    fd = os.memfd_create(kind); os.ftruncate(fd, size); ram = mmap.mmap(fd, size)
ram[8192 : 8192 + len(data)] = data
del data
child = os.fork() if kind == "private" else 0
if child or kind != "private":
    print(child, flush=True)
    sys.stdin.read()
    if child: os.kill(child, 9)
else:
    import signal; signal.pause()
"""


@pytest.fixture
def share(disk_path: Path) -> Path:
    """A data set of 256 large and 256 small pages (small files end in partly filled pages), written and cached."""
    spec = dataset.DatasetSpec("tiny", large_mib=1, large_files=1, small_mib=1, small_files=64, seed=7)
    dataset.make(spec, disk_path / "share", disk_path / "tiny.json")
    return disk_path


@pytest.fixture
def hold(share: Path) -> Iterator[Callable[[str, int], tuple[int, int]]]:
    """Start a holder of the large file's first pages; returns its pid and its child's (0 for none)."""
    large = share / "share/data/a/large/file-000.txt"
    with ExitStack() as stack:

        def start(kind: str, pages: int) -> tuple[int, int]:
            process = subprocess.Popen(
                [sys.executable, "-c", HOLDER, kind, str(large), str(pages)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            stack.callback(process.communicate, "")
            assert process.stdout is not None
            return process.pid, int(process.stdout.readline())

        yield start


def _count(share: Path, parts: tuple[str, ...] = ("large",), tree: str = "a/large", **parties: Any) -> dict[str, Any]:
    return dataset_frames.count(share / "tiny.json", parts, [str(share / "share/data" / tree)], **parties)


def test_every_page_of_a_cached_tree_is_found_once(share: Path) -> None:
    counted = _count(share, ("large", "small"), "a")
    assert (
        counted["wanted_pages"]
        == counted["physical_pages"]
        == counted["logical_pages"]
        == counted["parties"]["host"]["distinct_pages"]
    )
    assert counted["wanted_pages"] > 2 * LARGE_PAGES  # the tails
    assert _count(share, ("large", "small"), ".")["physical_copies"] == 2.0


def test_looking_reads_nothing_in(share: Path) -> None:
    descriptor = os.open(share / "share/data/a/large/file-000.txt", os.O_RDONLY)
    cachestat.evict(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(descriptor, 1, 100 * 4096)
    resident = cachestat.cachestat(descriptor).resident
    assert 0 < resident < LARGE_PAGES
    assert _count(share)["physical_pages"] == resident
    assert cachestat.cachestat(descriptor).resident == resident
    os.close(descriptor)


@pytest.mark.parametrize("kind", ["memory-backend-memfd", "private"])
def test_a_guests_copies_are_frames_of_their_own(
    share: Path, hold: Callable[[str, int], tuple[int, int]], kind: str
) -> None:
    pid, _ = hold(kind, 100)
    counted = _count(share, guests=[pid])
    assert counted["parties"][f"guest {pid}"] == {"places": 100, "frames": 100, "distinct_pages": 100}
    assert (counted["physical_pages"], counted["logical_pages"], counted["merged_frames"]) == (
        LARGE_PAGES + 100,
        LARGE_PAGES + 100,
        0,
    )


def test_frames_that_two_guests_share_count_once(share: Path, hold: Callable[[str, int], tuple[int, int]]) -> None:
    parent, child = hold("private", 100)
    counted = _count(share, guests=[parent, child])
    assert counted["logical_pages"] == LARGE_PAGES + 200
    assert counted["physical_pages"] == LARGE_PAGES + 100
    assert counted["merged_frames"] == 100
    assert counted["physical_copies"] == (LARGE_PAGES + 100) / LARGE_PAGES


def test_a_daemons_memfds_are_not_guest_memory(share: Path, hold: Callable[[str, int], tuple[int, int]]) -> None:
    pid, _ = hold("tails", 30)
    counted = _count(share, daemons=[pid])
    assert counted["parties"][f"daemon {pid}"]["frames"] == 30
    assert page_frames.memfds(pid, is_guest_memory=True) == []


def test_an_image_is_looked_at_in_its_ranges(share: Path) -> None:
    data = (share / "share/data/a/large/file-000.txt").read_bytes()
    image = share / "image"
    image.write_bytes(b"\1" * 8192 + data + b"\1" * 4096 + data)
    ranges = [(8192, len(data))]
    counted = dataset_frames.count(share / "tiny.json", ["large"], images=[(image, ranges)])
    assert (counted["physical_pages"], counted["logical_pages"]) == (LARGE_PAGES, LARGE_PAGES)
    assert dataset_frames.count(share / "tiny.json", ["large"], images=[(image, None)])["physical_copies"] == 2.0


def test_the_module_counts_and_refuses_what_is_missing(share: Path, run_module: Run) -> None:
    manifest = str(share / "tiny.json")
    result = run_module("page_frames_info", manifest=manifest, parts=["large"], paths=[f"{share}/share/data/a"])
    assert (result["changed"], result["physical_copies"], result["seconds"] > 0) == (False, 1.0, True)
    assert "make the data set (role dataset) first" in run_module("page_frames_info", manifest="/none.json")["msg"]
    missing = run_module("page_frames_info", manifest=manifest, guests=[2**22 - 1])
    assert "No such file" in missing["msg"]
    (share / "tiny.pages").unlink()
    assert "make the data set (role dataset) again" in run_module("page_frames_info", manifest=manifest)["msg"]


def test_without_privilege_it_says_so(share: Path) -> None:
    code = (
        "import ctypes, mmap, os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from onecopy import page_frames\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "ram = mmap.mmap(-1, 4096); ram[0] = 1\n"
        "try: list(page_frames.frames('self', ctypes.addressof(ctypes.c_char.from_buffer(ram)), 1))\n"
        "except (page_frames.PageFramesError, PermissionError) as error: print(error)\n"
    )
    utils = Path(page_frames.__file__).resolve().parents[1]
    answer = subprocess.run([sys.executable, "-c", code, str(utils)], capture_output=True, text=True, check=True)
    assert "CAP_SYS_ADMIN is needed" in answer.stdout or "Permission denied" in answer.stdout


def test_private_guest_memory_is_the_largest_private_mapping() -> None:
    maps = (
        "1000-9000 rw-p 00000000 00:00 0 \n"
        "a000-ffff0000 rw-s 00000000 00:01 5   /memfd:x (deleted)\n"
        "b0000-fff0000 r--p 00000000 00:00 0\n"
        "c0000-d0000 rw-p 00000000 00:00 0   [anon: ram]\n"
        "d0000-ff000 rw-p 00000000 00:00 0   [heap]\n"
    )
    assert page_frames.largest_private(maps) == (0xC0000, 0xD0000)


def test_a_private_mapping_shares_the_caches_frames_until_it_is_written(share: Path) -> None:
    path = share / "share/data/a/large/file-000.txt"
    with open(path, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_PRIVATE) as mapping:
        first = mapping[0]
        sum(mapping[::4096])
        counted = _count(share, mapped=[(os.getpid(), path)])
        assert counted["parties"][f"mapping {os.getpid()}"]["places"] == LARGE_PAGES
        assert (counted["physical_pages"], counted["logical_pages"]) == (LARGE_PAGES, 2 * LARGE_PAGES)
        mapping[0] = first  # the same byte: the same page by content, another frame
        assert _count(share, mapped=[(os.getpid(), path)])["physical_pages"] == LARGE_PAGES + 1
