"""A directory of a user's own: only read, packed the same everywhere, unpacked as a data set whose parts are told by size."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import dataset, image, own_tree
from ansible.module_utils.onecopy.cachestat import walk_part
from ansible.module_utils.onecopy.host_data import DataSet
from ansible.module_utils.onecopy.own_tree import OwnSpec, OwnTreeError
from ansible.module_utils.onecopy.workloads import Reads

Run = Callable[..., dict[str, Any]]
LARGE = b"L" * ((1 << 20) + 5000)


@pytest.fixture
def original(tmp_path: Path) -> Path:
    """With names and kinds that a generated data set never has."""
    top = tmp_path / "my data"
    (top / "large").mkdir(parents=True)
    (top / "large/big.bin").write_bytes(LARGE)
    (top / "large/note").write_bytes(b"small in a directory called large")
    (top / "run.sh").write_bytes(b"#!/bin/sh\n")
    (top / "run.sh").chmod(0o700)
    (top / os.fsdecode(b"n\xff\nme")).write_bytes(b"odd name")
    (top / "empty").touch()
    (top / "link").symlink_to("large/big.bin")
    (top / "up").symlink_to("large")
    os.mkfifo(top / "pipe")
    return top


def made(original: Path, tmp_path: Path) -> tuple[Path, Path, OwnSpec]:
    archive = tmp_path / "packed/x.tar"
    archive.parent.mkdir(exist_ok=True)
    spec = OwnSpec("compare", own_tree.pack(original, archive))
    share, manifest = tmp_path / "share", tmp_path / "manifests/compare.json"
    own_tree.make(spec, archive, share, manifest)
    return share, manifest, spec


def snapshot(top: Path) -> dict[str, tuple[object, ...]]:
    paths = sorted([top, *top.rglob("*")])
    return {str(path): (path.lstat().st_mtime_ns, path.lstat().st_mode, path.lstat().st_ctime_ns) for path in paths}


def test_a_survey_counts_by_size(original: Path) -> None:
    found = own_tree.survey(original)
    assert (found.large_files, found.large_bytes) == (1, len(LARGE))
    assert (found.small_files, found.small_bytes) == (4, 33 + 10 + 8)
    assert found.others == 1


def test_the_copy_has_the_same_bytes_and_the_original_is_untouched(original: Path, tmp_path: Path) -> None:
    before = snapshot(original)
    share, manifest, spec = made(original, tmp_path)
    assert snapshot(original) == before
    tree = share / "data/a/tree"
    copied = {path.relative_to(tree) for path in tree.rglob("*")}
    assert copied == {path.relative_to(original) for path in original.rglob("*") if path.name != "pipe"}
    assert (tree / "large/big.bin").read_bytes() == LARGE
    assert (tree / "run.sh").stat().st_mode & 0o777 == 0o755
    assert (tree / "link").readlink() == Path("large/big.bin")
    assert {path.lstat().st_mtime for path in tree.rglob("*")} == {image.EPOCH}
    assert own_tree.find_difference(spec, share, manifest) is None


def test_times_owners_and_places_make_no_other_archive(original: Path, tmp_path: Path) -> None:
    first = own_tree.pack(original, tmp_path / "one.tar")
    os.utime(original / "run.sh", (1, 1))
    moved = original.rename(tmp_path / "elsewhere")
    assert own_tree.pack(moved, tmp_path / "two.tar") == first
    (moved / "empty").write_bytes(b"!")
    assert own_tree.pack(moved, tmp_path / "three.tar") != first


def test_parts_are_told_by_size_whatever_directories_are_called(original: Path, tmp_path: Path) -> None:
    share, manifest, _ = made(original, tmp_path)
    data = share / "data"
    assert [Path(path).name for path in walk_part(f"{data}/a/large")] == ["big.bin"]
    assert len(list(walk_part(f"{data}/a/small"))) == 4
    assert not (data / "b").exists()
    assert set(DataSet.of_share(data).files) == {"a/large", "a/small"}
    found = DataSet.of_share(data)
    assert found.wanted_bytes(Reads("some")) == len(LARGE) + 51
    assert found.large_file() == "a/tree/large/big.bin"
    pages = dict(dataset.file_pages(manifest, dataset.read_manifest(manifest) or {}))
    assert b"".join(pages["tree/large/big.bin"]) == dataset.page_digests(LARGE)
    listed = {file["path"]: file["sha256"] for file in (dataset.read_manifest(manifest) or {})["files"]}
    assert listed["tree/large/big.bin"] == hashlib.sha256(LARGE).hexdigest()


@pytest.mark.parametrize("damage", ["file", "spec"])
def test_a_changed_copy_is_made_again(original: Path, tmp_path: Path, damage: str) -> None:
    share, manifest, spec = made(original, tmp_path)
    if damage == "file":
        (share / "data/a/tree/run.sh").unlink()
    else:
        spec = OwnSpec("compare", "0" * 64)
    assert own_tree.find_difference(spec, share, manifest)


@pytest.mark.parametrize(
    ("name", "says"),
    [("none", "is not there"), ("file", "is no directory"), ("hollow", "holds no byte in any file")],
)
def test_no_data_is_one_line(tmp_path: Path, name: str, says: str) -> None:
    (tmp_path / "file").write_text("x")
    (tmp_path / "hollow").mkdir()
    (tmp_path / "hollow/empty").touch()
    with pytest.raises(OwnTreeError, match=says) as caught:
        own_tree.survey(tmp_path / name)
    assert "\n" not in str(caught.value)


def test_an_archive_that_did_not_arrive_whole_makes_nothing(original: Path, tmp_path: Path) -> None:
    archive = tmp_path / "x.tar"
    spec = OwnSpec("compare", own_tree.pack(original, archive))
    with open(archive, "r+b") as file:
        file.truncate(5000)
    with pytest.raises(OwnTreeError, match="did not arrive whole"):
        own_tree.make(spec, archive, tmp_path / "share", tmp_path / "m.json")
    assert not (tmp_path / "share").exists()


def test_too_big_is_said_before_anything_is_sent(tmp_path: Path) -> None:
    memory = "MemTotal: 4194304 kB\nMemAvailable: 2097152 kB\n"
    own_tree.require_room(400 << 20, tmp_path, 1, memory)
    with pytest.raises(OwnTreeError, match=r"3024 MiB of memory are needed .* 2048 MiB are available"):
        own_tree.require_room(1000 << 20, tmp_path, 1, memory)
    with pytest.raises(image.NoSpaceError, match="are free"):
        own_tree.require_room(1 << 50, tmp_path, 3, memory)


def test_copies_of_other_data_are_not_kept(original: Path, tmp_path: Path) -> None:
    first = own_tree.keep(original, tmp_path / "own")
    assert own_tree.keep(original, tmp_path / "own") == first
    (original / "empty").write_bytes(b"!")
    second = own_tree.keep(original, tmp_path / "own")
    assert list((tmp_path / "own").iterdir()) == [second]
    assert (tmp_path / "own").stat().st_mode & 0o077 == 0


def test_the_modules_send_it_once(run_module: Run, original: Path, tmp_path: Path) -> None:
    archive = own_tree.keep(original, tmp_path / "own")
    kept = {"data": str(original), "sha256": archive.stem, "archives": str(archive.parent)}
    assert not run_module("own_archive", **kept)["changed"]
    (original / "empty").write_bytes(b"!")
    assert not run_module("own_archive", **kept)["changed"]
    archive.unlink()
    assert "holds other data than when the experiment was written" in run_module("own_archive", **kept)["msg"]

    (original / "empty").write_bytes(b"")
    assert run_module("own_archive", **kept)["path"] == str(archive)
    state = tmp_path / "state"
    wanted = {
        "name": "compare",
        "sha256": archive.stem,
        "archive_bytes": archive.stat().st_size,
        "state_directory": str(state),
    }
    assert not (asked := run_module("own_dataset", systems=["gfs", "hfs"], **wanted))["changed"]
    assert "is missing" in asked["reason"]
    assert run_module("own_dataset", archive=str(archive), **wanted)["changed"]
    assert not archive.exists()
    assert run_module("own_dataset", **wanted)["reason"] == ""
    assert "are free" in run_module("own_dataset", **{**wanted, "sha256": "1" * 64, "archive_bytes": 1 << 50})["msg"]
