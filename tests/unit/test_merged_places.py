"""Which pages that were read are merged: a process holds them as QEMU's guest would, on this kernel."""

from __future__ import annotations

import os
import subprocess
import sys
from array import array
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import dataset, dataset_frames
from ansible.module_utils.onecopy.merged_places import ReadPages, distinct, merged

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="frame numbers are for root's eyes")
# Private memory whose first pages keep what was read long ago, and where, once a line comes, further pages of the file are read to.
GUEST = """
import mmap, sys
file = open(sys.argv[1], "rb")
ram = mmap.mmap(-1, 256 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
ram.madvise(mmap.MADV_NOHUGEPAGE)
ram[:10 * 4096] = file.read(10 * 4096)
print("ready", flush=True)
sys.stdin.readline()
ram[1 << 20 : (1 << 20) + 50 * 4096] = file.read(50 * 4096)
print("read", flush=True)
sys.stdin.read()
"""


def test_pages_read_since_count_and_lie_in_a_frame_of_their_own_or_not(disk_path: Path) -> None:
    spec = dataset.DatasetSpec("tiny", large_mib=1, large_files=2, small_mib=1, small_files=4, seed=7)
    manifest = disk_path / "tiny.json"
    dataset.make(spec, disk_path / "share", manifest)
    name = "large/file-000.txt"
    wanted = dataset_frames.wanted_pages(manifest, [name])
    assert len(wanted) == 128 < len(dataset_frames.wanted_pages(manifest, ["large"])) == 256

    argv = [sys.executable, "-c", GUEST, str(disk_path / "share/data/a" / name)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as guest:
        assert guest.stdin is not None
        assert guest.stdout is not None
        guest.stdout.readline()
        pages = ReadPages([guest.pid], wanted)
        before = pages.frames()
        assert pages.places() == [set()], "what was left over is not counted"
        print(file=guest.stdin, flush=True)
        guest.stdout.readline()
        apart = pages.frames()
        together = [array("Q", (7 if frame else 0 for frame in apart[0]))]
        places = pages.places()
        assert [len(numbers) for numbers in places] == [50]
        assert [merged(frames, places) for frames in (before, apart, together)] == [0, 0, 50]
        assert [distinct(frames, places) for frames in (apart, together)] == [50, 1]
