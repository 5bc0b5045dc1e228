"""The data set: the same numbers give the same bytes, and what was changed is found."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import data_images, dataset, image, measure
from ansible.module_utils.onecopy.dataset import DatasetSpec
from ansible.module_utils.onecopy.host_data import DataSet, ShareData
from ansible.module_utils.onecopy.workloads import WORKLOADS, Reads

SPEC = DatasetSpec("tiny", large_mib=2, large_files=2, small_mib=1, small_files=100, seed=7)
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def made(tmp_path: Path) -> tuple[Path, Path]:
    share, manifest = tmp_path / "share", tmp_path / "manifests" / "tiny.json"
    dataset.make(SPEC, share, manifest)
    return share, manifest


def test_the_bytes_are_pinned() -> None:
    """A change of these bytes needs another FORMAT: hosts would otherwise compare different data under one name."""
    whole = hashlib.sha256()
    for file in dataset.files(SPEC):
        for piece in dataset.content(SPEC, file):
            whole.update(piece)
    assert (dataset.FORMAT, whole.hexdigest()) == (
        1,
        "b4a84bb358980188e959dba1782f1293e0b856edb7a2f20b2338e1ef227dce7e",
    )


def test_sizes_add_up_and_differ() -> None:
    files = list(dataset.files(SPEC))
    large = [file.size for file in files if file.path.startswith("large/")]
    small = [file.size for file in files if file.path.startswith("small/")]
    assert (len(large), sum(large)) == (2, 2 << 20)
    assert (len(small), sum(small)) == (100, 1 << 20)
    assert len(set(small)) > 50
    assert any(size % dataset.PAGE_BYTES for size in small)


def test_small_files_lie_in_many_directories(made: tuple[Path, Path]) -> None:
    assert len(list((made[0] / "data/a/small").iterdir())) == 2


def test_another_seed_gives_other_bytes() -> None:
    file = next(dataset.files(SPEC))
    other = replace(SPEC, seed=8)
    assert b"".join(dataset.content(SPEC, file)) != b"".join(dataset.content(other, file))


def test_it_is_text_without_digits_or_capitals() -> None:
    text = b"".join(dataset.content(SPEC, dataset.File("large/x", 1 << 20)))
    assert set(text) <= set(b"abcdefghijklmnopqrstuvwxyz \n")
    assert 10_000 < text.count(b"\n") < 30_000


def test_no_page_occurs_twice(made: tuple[Path, Path]) -> None:
    document = dataset.read_manifest(made[1])
    assert document
    digests = [page for _, pages in dataset.file_pages(made[1], document) for page in pages]
    assert len(digests) == len(set(digests)) > 768


def test_the_trees_are_equal_and_the_manifest_is_true(made: tuple[Path, Path]) -> None:
    share, manifest = made
    document = dataset.read_manifest(manifest)
    assert document
    assert len(document["files"]) == 102
    pages = dict(dataset.file_pages(manifest, document))
    for file in document["files"]:
        first, second = (share / "data" / tree / file["path"] for tree in "ab")
        content = first.read_bytes()
        assert content == second.read_bytes()
        assert hashlib.sha256(content).hexdigest() == file["sha256"]
        assert b"".join(pages[file["path"]]) == dataset.page_digests(content)
        assert first.stat().st_mtime == image.EPOCH


def test_page_digests_fill_up_the_last_page() -> None:
    assert dataset.page_digests(b"x" * 5000) == dataset.page_digests(b"x" * 5000 + b"\0" * 100)
    assert len(dataset.page_digests(b"x" * 5000)) == 2 * dataset.DIGEST_BYTES


def test_nothing_is_to_be_done_when_it_is_there(made: tuple[Path, Path]) -> None:
    assert dataset.find_difference(SPEC, *made, is_thorough=True) is None


def test_a_changed_byte_is_found_by_a_thorough_look_only(made: tuple[Path, Path]) -> None:
    path = made[0] / "data/b/large/file-001.txt"
    content = bytearray(path.read_bytes())
    content[5000] ^= 1
    path.write_bytes(content)
    assert dataset.find_difference(SPEC, *made) is None
    assert "file-001.txt was changed" in str(dataset.find_difference(SPEC, *made, is_thorough=True))


def test_without_a_twin_there_is_one_tree_of_the_same_bytes(made: tuple[Path, Path], disk_path: Path) -> None:
    spec, share, manifest = replace(SPEC, twin=False), disk_path / "share", disk_path / "single.json"
    document = dataset.make(spec, share, manifest)
    twice = dataset.read_manifest(made[1]) or {}
    assert [path.name for path in (share / "data").iterdir()] == document["trees"] == ["a"]
    assert document["files"] == twice["files"]
    assert dataset.pages_path(manifest).read_bytes() == dataset.pages_path(made[1]).read_bytes()
    assert dataset.find_difference(spec, share, manifest, is_thorough=True) is None
    one, two = (image.tree_bytes(top / "data") for top in (share, made[0]))
    assert two - one > 3 << 20, "an image has room for one tree, not for two"


def test_what_is_counted_without_a_twin_is_that_tree(disk_path: Path) -> None:
    share = disk_path / "share"
    dataset.make(replace(SPEC, twin=False), share, disk_path / "single.json")
    known, stored = DataSet.of_share(share / "data"), ShareData(share / "data")
    pages = known.pages(("a/large", "a/small"))
    assert (
        sum(size for files in known.files.values() for _, size in files) == known.wanted_bytes(Reads("all")) == 3 << 20
    )
    stored.evict([])
    assert stored.residency().as_dict() == {"pages": pages, "resident_pages": 0, "dirty_pages": 0}
    stored.prefetch()
    assert stored.residency().resident_pages == pages
    counted = measure.copies(WORKLOADS["cat"], known, stored, None)
    assert (counted["copies"]["all"]["host_pages"], counted["extra_pages"]) == (pages, 0)


@pytest.mark.parametrize("twin", [True, False])
def test_an_images_ranges_are_those_of_the_trees_that_there_are(
    disk_path: Path, monkeypatch: pytest.MonkeyPatch, twin: bool
) -> None:
    share = disk_path / "share"
    dataset.make(replace(SPEC, twin=twin), share, disk_path / "tiny.json")

    @contextmanager
    def mounted(path: Path, filesystem: str) -> Iterator[Path]:
        yield share / "data"

    monkeypatch.setattr(data_images, "mounted", mounted)
    ranges = data_images.find_ranges(disk_path / "x.img")
    assert set(ranges) == {f"{tree}/{part}" for tree in ("ab" if twin else "a") for part in ("large", "small")}
    assert data_images.total_pages(ranges) >= (2 if twin else 1) * (3 << 20) // dataset.PAGE_BYTES


def test_a_data_set_with_a_twin_is_not_taken_for_one_without(made: tuple[Path, Path]) -> None:
    single = replace(SPEC, twin=False)
    assert "is of another data set" in str(dataset.find_difference(single, *made))
    dataset.make(single, *made)
    assert not (made[0] / "data/b").exists()
    assert "is of another data set" in str(dataset.find_difference(SPEC, *made))


def test_manifests_from_before_the_twin_was_a_choice_stay_valid(made: tuple[Path, Path]) -> None:
    assert json.loads(made[1].read_text())["spec"] == {
        "name": "tiny", "large_mib": 2, "large_files": 2, "small_mib": 1, "small_files": 100, "seed": 7,
    }  # fmt: skip


@pytest.mark.parametrize("damage", ["file", "size", "manifest", "pages", "scratch", "spec"])
def test_what_is_missing_is_named(made: tuple[Path, Path], damage: str) -> None:
    share, manifest = made
    spec = SPEC
    victim = share / "data/a/small/000/file-00003.txt"
    if damage == "file":
        victim.unlink()
    elif damage == "size":
        victim.write_bytes(b"short")
    elif damage == "manifest":
        manifest.write_text("{torn")
    elif damage == "pages":
        dataset.pages_path(manifest).unlink()
    elif damage == "scratch":
        (share / "scratch").rmdir()
    else:
        spec = replace(SPEC, seed=8)
    assert dataset.find_difference(spec, share, manifest)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"name": "../x"}, "plain file name"),
        ({"name": ""}, "plain file name"),
        ({"large_mib": 0}, "at least 1"),
        ({"small_files": -1}, "at least 1"),
        ({"small_mib": 1, "small_files": 1 << 20}, "do not fit"),
    ],
)
def test_impossible_sets_are_refused(change: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        replace(SPEC, **change)


def test_the_module_tells_before_it_makes(run_module: Run, tmp_path: Path) -> None:
    arguments = {
        "name": "tiny",
        "large_mib": 1,
        "large_files": 1,
        "small_mib": 1,
        "small_files": 10,
        "seed": 1,
        "state_directory": str(tmp_path),
    }
    foretold = run_module("dataset", check_mode=True, **arguments)
    assert foretold["changed"]
    assert not list(tmp_path.iterdir())
    assert run_module("dataset", **arguments)["changed"]
    assert not run_module("dataset", **arguments)["changed"]
    assert not run_module("dataset", thorough=True, **arguments)["changed"]
    assert run_module("dataset", twin=False, **arguments)["reason"].endswith("is of another data set")
    assert not (tmp_path / "store/shares/tiny/data/b").exists()
    assert not run_module("dataset", twin=False, **arguments)["changed"]


def test_the_module_fails_with_one_line(run_module: Run, tmp_path: Path) -> None:
    arguments = {
        "large_mib": 1,
        "large_files": 1,
        "small_mib": 1,
        "small_files": 10,
        "seed": 1,
        "state_directory": str(tmp_path),
    }
    result = run_module("dataset", name="a/b", **arguments)
    assert result["failed"]
    assert result["msg"].splitlines() == ["dataset name 'a/b': must be a plain file name"]
