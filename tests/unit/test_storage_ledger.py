"""The storage ledger, on real files, a real ext4 image and a real qcow2 header."""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import cachestat, storage_ledger

MIB = 1 << 20
Run = Callable[..., dict[str, Any]]
MKFS = shutil.which("mke2fs", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")
needs_mkfs = pytest.mark.skipif(MKFS is None, reason="mke2fs is not installed here")


def _settle(top: Path) -> None:
    """Blocks are allocated when data are written out."""
    for path in cachestat.walk_files(str(top)):
        descriptor = os.open(path, os.O_RDONLY)
        os.fsync(descriptor)
        os.close(descriptor)


def test_a_share_is_counted_file_by_file(disk_path: Path) -> None:
    (disk_path / "tree").mkdir()
    (disk_path / "tree" / "one").write_bytes(b"x" * 5000)
    os.link(disk_path / "tree" / "one", disk_path / "tree" / "again")
    with open(disk_path / "tree" / "sparse", "wb") as file:
        file.truncate(MIB)
    _settle(disk_path)
    assert storage_ledger.share(str(disk_path / "tree")) == {
        "files": 2,
        "needed_bytes": 5000 + MIB,
        "allocated_bytes": 8192,
    }


@needs_mkfs
@pytest.mark.parametrize("features", ["^64bit", "64bit"])
def test_free_space_inside_an_ext4_image_is_hidden_from_the_host(disk_path: Path, features: str) -> None:
    assert MKFS is not None
    (disk_path / "tree").mkdir()
    (disk_path / "tree" / "file").write_bytes(os.urandom(4 * MIB))
    path = disk_path / "image"
    subprocess.run(
        [MKFS, "-q", "-F", "-t", "ext4", "-b", "4096", "-O", features, "-d", str(disk_path / "tree"), str(path), "32M"],
        check=True,
    )
    _settle(disk_path)
    thin = storage_ledger.image(path)
    assert thin["size_bytes"] == 32 * MIB
    assert thin["guest_free_bytes"] < 28 * MIB
    assert thin["allocated_bytes"] < 16 * MIB  # data and journal
    assert thin["hidden_free_bytes"] == 0
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole)
    _settle(disk_path)
    thick = storage_ledger.image(path)
    assert thick["allocated_bytes"] >= 32 * MIB
    assert abs(thick["hidden_free_bytes"] - thick["guest_free_bytes"]) <= 64 * 1024
    assert storage_ledger.image(path, 5 * MIB)["guest_free_bytes"] == 5 * MIB


def test_a_qcow2_image_tells_its_size_and_clusters(disk_path: Path) -> None:
    head = b"QFI\xfb" + struct.pack(">IQIIQ", 3, 0, 0, 16, 32 * MIB)
    (disk_path / "overlay").write_bytes(head.ljust(4096, b"\0"))
    counted = storage_ledger.image(disk_path / "overlay")
    assert (counted["format"], counted["cluster_bytes"], counted["size_bytes"]) == ("qcow2", 65536, 32 * MIB)
    assert "guest_free_bytes" not in counted


def test_an_image_without_a_file_system_has_no_free_space(disk_path: Path) -> None:
    (disk_path / "raw").write_bytes(b"x" * 8192)
    (disk_path / "short").write_bytes(b"x")
    assert "guest_free_bytes" not in storage_ledger.image(disk_path / "raw")
    assert storage_ledger.image(disk_path / "short")["size_bytes"] == 1


def test_everything_adds_up_and_changes_are_told(disk_path: Path, run_module: Run) -> None:
    (disk_path / "share").mkdir()
    (disk_path / "share" / "file").write_bytes(b"x" * MIB)
    (disk_path / "image").write_bytes(b"x" * MIB)
    _settle(disk_path)
    arguments = {"store": str(disk_path), "shares": {"s": f"{disk_path}/share"}, "images": {"i": f"{disk_path}/image"}}
    first = run_module("storage_ledger_info", **arguments)["ledger"]
    known = first["shares"]["s"]["allocated_bytes"] + first["images"]["i"]["allocated_bytes"] + first["others_bytes"]
    assert known + first["store"]["free_bytes"] == first["store"]["total_bytes"]
    with open(disk_path / "image", "ab") as file:
        file.write(b"x" * MIB)
    _settle(disk_path)
    second = run_module("storage_ledger_info", before=first, **arguments)
    assert second["changed"] is False
    assert second["change"]["images"]["i"] == {"size_bytes": MIB, "allocated_bytes": MIB}
    assert second["change"]["shares"]["s"]["allocated_bytes"] == 0


def test_what_lies_elsewhere_or_nowhere_is_refused(disk_path: Path, run_module: Run) -> None:
    result = run_module("storage_ledger_info", store=str(disk_path), shares={"p": "/proc"})
    assert "/proc: does not lie on the file system of" in result["msg"]
    result = run_module("storage_ledger_info", store=str(disk_path), images={"i": f"{disk_path}/none"})
    assert result["msg"] == f"{disk_path}/none: No such file or directory"
    assert (
        "guest_free_bytes"
        in run_module("storage_ledger_info", store=str(disk_path), guest_free_bytes={"i": "much"})["msg"]
    )
