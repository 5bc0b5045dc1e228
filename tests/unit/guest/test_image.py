"""Images: the exact mke2fs, bit-identical results, and where in them the data lie."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import time
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import fiemap, image
from ansible.module_utils.onecopy.image import ImageSpec

SPEC = ImageSpec("test", 16, 128)
needs_mke2fs = pytest.mark.skipif(shutil.which("mke2fs") is None, reason="mke2fs is not installed")


def test_the_exact_command() -> None:
    assert image.mke2fs_argv(SPEC, Path("/i.img"), Path("/tree")) == [
        *("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-N", "128"),
        *("-U", "bacaa754-f959-5da0-bd66-2b7f69b06655", "-L", "onecopy"),
        *(
            "-E",
            "hash_seed=e657863a-0aa4-5494-9711-05d9a71fed9e,root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard",
        ),
        *("-d", "/tree", "/i.img", "16M"),
    ]


def test_no_journal_and_no_tree() -> None:
    argv = image.mke2fs_argv(ImageSpec("test", 16, 128, journal=False), Path("/i.img"), None)
    assert argv[argv.index("-O") + 1] == "^has_journal"
    assert "-d" not in argv


def test_the_exact_command_for_erofs() -> None:
    assert image.mkfs_erofs_argv(SPEC, Path("/i.img"), Path("/tree")) == [
        *("mkfs.erofs", "--quiet", "-b4096", "-x-1", "-T1300000000", "-U8334621e-fa33-5f4f-a0cd-b8162e7acc2c"),
        *("-Enoinline_data,force-inode-extended", "/i.img", "/tree"),
    ]


def test_every_time_stamp_is_fixed() -> None:
    environment = image.mke2fs_env(SPEC, {"PATH": "/bin", "LC_ALL": "de_DE"})
    assert environment == {
        "PATH": "/bin",
        "SOURCE_DATE_EPOCH": "1300000000",
        "E2FSPROGS_FAKE_TIME": "1300000000",
        "LC_ALL": "C",
        "TZ": "UTC",
    }


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    top = tmp_path / "tree"
    (top / "sub").mkdir(parents=True)
    (top / "one").write_bytes(bytes(range(256)) * 100)
    (top / "sub/two").write_bytes(b"two")
    for path in (top / "one", top / "sub/two", top / "sub", top):
        os.utime(path, (image.EPOCH, image.EPOCH))
    return top


def _has_reproducible_inodes() -> bool:
    said = subprocess.run(["mke2fs", "-V"], capture_output=True, text=True, check=False).stderr
    return tuple(int(number) for number in said.split()[1].split(".")) >= (1, 47, 1)


@needs_mke2fs
def test_the_same_tree_gives_the_same_bytes(tree: Path, tmp_path: Path) -> None:
    if not _has_reproducible_inodes():
        pytest.skip(
            "mke2fs older than 1.47.1 copies the files' change times, which nobody can set; molecule/guest_image tests it on a host"
        )
    image.make(SPEC, tmp_path / "first.img", tree)
    time.sleep(1.1)
    again = tmp_path / "again"
    shutil.copytree(tree, again)
    image.make(SPEC, tmp_path / "second.img", again)
    assert image.digest(tmp_path / "first.img") == image.digest(tmp_path / "second.img")


@needs_mke2fs
def test_the_image_holds_the_tree_in_blocks_of_a_page(tree: Path, tmp_path: Path) -> None:
    path = tmp_path / "x.img"
    image.make(SPEC, path, tree)
    assert path.stat().st_size == 16 << 20
    shown = subprocess.run(["debugfs", "-R", "cat /sub/two", str(path)], capture_output=True, check=True)
    assert shown.stdout == b"two"
    header = subprocess.run(["dumpe2fs", "-h", str(path)], capture_output=True, text=True, check=True).stdout
    assert "Block size:               4096" in header
    assert subprocess.run(["e2fsck", "-fn", str(path)], capture_output=True, check=False).returncode == 0


@needs_mke2fs
def test_a_tree_that_does_not_fit_leaves_no_image(tree: Path, tmp_path: Path) -> None:
    (tree / "big").write_bytes(b"x" * (20 << 20))
    with pytest.raises(image.run.__globals__["CommandError"], match="mke2fs"):
        image.make(SPEC, tmp_path / "x.img", tree)
    assert not (tmp_path / "x.img").exists()


def test_a_copy_is_a_file_of_its_own(tmp_path: Path) -> None:
    source = tmp_path / "a.img"
    source.write_bytes(b"x" * 4096 + b"\0" * 65536 + b"y" * 4096)
    image.copy(source, tmp_path / "b.img")
    assert (tmp_path / "b.img").read_bytes() == source.read_bytes()
    assert (tmp_path / "b.img").stat().st_ino != source.stat().st_ino


def test_room_is_asked_for_before_anything_is_written(tmp_path: Path) -> None:
    with pytest.raises(image.NoSpaceError, match="give the store more room"):
        image.require_space(tmp_path, 1 << 60)


@pytest.mark.parametrize(("data_mib", "files"), [(64, 2000), (240, 8006), (1, 10), (4096, 100_000)])
def test_sizes_leave_room(data_mib: int, files: int) -> None:
    spec = image.data_spec("x", data_mib << 20, files)
    assert spec.size_mib % 4 == 0
    assert spec.size_mib << 20 > (data_mib << 20) + spec.inodes * 256 + (8 << 20)
    assert spec.inodes > files


def test_extents_are_parsed() -> None:
    header = struct.pack("=QQLLLL", 0, 2**64 - 1, 1, 2, 256, 0)
    extents = struct.pack("=QQQQQLLLL", 0, 40960, 8192, 0, 0, 0, 0, 0, 0) + struct.pack(
        "=QQQQQLLLL", 8192, 4096, 4096, 0, 0, 1, 0, 0, 0
    )
    assert fiemap.parse(header + extents) == [(0, 40960, 8192, 0), (8192, 4096, 4096, 1)]


def test_ranges_are_joined_where_they_touch() -> None:
    assert fiemap.merge([(8192, 4096), (0, 4096), (4096, 4096), (20480, 4096), (20480, 8192)]) == [
        (0, 12288),
        (20480, 8192),
    ]
    assert fiemap.merge([]) == []


def test_the_extents_of_a_real_file_cover_it(disk_path: Path) -> None:
    path = disk_path / "file"
    path.write_bytes(b"x" * 100_000)
    try:
        found = list(fiemap.extents(str(path)))
    except OSError as error:
        pytest.skip(f"this file system has no FIEMAP: {error.strerror}")
    assert sum(extent.length for extent in found) == 102_400
    assert found[-1].flags & 1
