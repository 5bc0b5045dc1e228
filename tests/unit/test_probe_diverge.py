"""Guests that overwrite what they shared: with files for their own images, and with the writer's real script."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible.module_utils.onecopy.arrangement import Mount
from ansible.module_utils.onecopy.probes import Probed, ProbeError, Scene, diverge, why_unsuitable
from ansible.module_utils.onecopy.systems import SYSTEMS

PAGE = 4096
PAGES = 200
MOUNT = Mount("/dev/vdc", "/data", "ext4", "ro,noload,noatime")
SMAPS = """\
7f00-7f10 rw-p 00000000 fe:00 12 /store/images/x.img
Size:                 64 kB
Anonymous:            12 kB
VmFlags: rd wr mr
8000-8010 rw-p 00000000 fe:00 13 /store/images/other.img
Anonymous:           400 kB
9000-9010 rw-p 00010000 fe:00 12 /store/images/x.img
Anonymous:             8 kB
a000-a010 rw-p 00000000 00:00 0
Anonymous:           900 kB
"""


def test_private_copies_of_a_mapping_are_told_from_other_memory() -> None:
    assert diverge.private_bytes(SMAPS, Path("/store/images/x.img")) == 20 * 1024


@pytest.mark.parametrize("pattern", ["sequential", "random"])
def test_the_writer_overwrites_more_of_the_same_pages_and_alike_in_every_guest(tmp_path: Path, pattern: str) -> None:
    changed = []
    for guest in ("one", "two"):
        file = tmp_path / guest / "0"
        file.parent.mkdir()
        file.write_bytes(bytes(PAGE * PAGES))
        for share in ("0.1", "0.5"):
            subprocess.run([sys.executable, "-c", diverge._WRITER, share, pattern, "0"], check=True, cwd=file.parent)
            content = file.read_bytes()
            changed.append({number for number in range(PAGES) if any(content[number * PAGE : (number + 1) * PAGE])})
    assert [len(pages) for pages in changed] == [20, 100, 20, 100]
    assert changed[0] < changed[1]
    assert (changed[0] == set(range(20))) == (pattern == "sequential")
    assert (tmp_path / "one/0").read_bytes() == (tmp_path / "two/0").read_bytes()


def test_no_two_pages_that_a_guest_writes_are_alike(tmp_path: Path) -> None:
    """KSM would find them within one guest, and the share that it gets back would be more than everything."""
    files = [tmp_path / name for name in ("0", "1")]
    for file in files:
        file.write_bytes(bytes(PAGE * PAGES))
    subprocess.run([sys.executable, "-c", diverge._WRITER, "0.1", "random", "0", "1"], check=True, cwd=tmp_path)
    content = b"".join(file.read_bytes() for file in files)
    written = [page for page in (content[at : at + PAGE] for at in range(0, len(content), PAGE)) if any(page)]
    assert len(set(written)) == len(written) == 40


class Guest:
    """Its own image grows by ``cluster`` for every page written."""

    def __init__(self, image: Path, cluster: int) -> None:
        self.plan = SimpleNamespace(own_image=image, data_mounts=(MOUNT,))
        self.data_roots = {"a": "/data/a", "b": "/data/b"}
        self.cluster, self.runner, self.calls = cluster, self, list[tuple[str, Mapping[str, Any]]]()
        self.shares: list[str] = []
        self.files: set[str] = set()
        image.touch()

    def call(self, op: str, timeout: float, **arguments: Any) -> None:
        self.calls.append((op, arguments))

    def remount(self) -> None:
        self.calls.append(("remount", {}))

    def write(self, share: str, files: list[str]) -> None:
        self.shares.append(share)
        self.files |= set(files)
        with open(self.plan.own_image, "r+b") as file:
            os.posix_fallocate(file.fileno(), 0, max(1, round(float(share) * PAGES) * self.cluster))
            file.write(
                bytes(round(float(share) * PAGES) * PAGE)
            )  # the host caches what was written, not the rest of the cluster


def probe(
    directory: Path,
    monkeypatch: pytest.MonkeyPatch,
    cluster: int = 16 * PAGE,
    system: str = "gfs_shared_base",
    trees: str = "a",
    **parameters: Any,
) -> tuple[Probed, list[Guest]]:
    guests = [Guest(directory / f"{number}.img", cluster) for number in range(2)]

    def run(boot: Guest, argv: list[str]) -> None:
        assert argv[:3] == ["python3", "-SEsc", diverge._WRITER]
        boot.write(argv[3], argv[5:])

    files = {f"{tree}/large": [(f"{tree}/large/0", PAGES * PAGE)] for tree in trees}
    scene = SimpleNamespace(
        boots=guests,
        system=SYSTEMS[system],
        parameters={"pattern": "sequential", "percents": [1, 50]} | parameters,
        context=SimpleNamespace(dataset=SimpleNamespace(files=files)),
        reach=lambda *states, is_residency: None,
        run=run,
    )
    return diverge.run(cast(Scene, scene)), guests


def test_what_becomes_a_guests_own_is_held_against_what_it_wrote(
    disk_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found, guests = probe(disk_path, monkeypatch)
    metrics = found.metrics
    assert metrics["own_after_0pc_bytes"] == 0
    assert metrics["own_after_50pc_bytes"] == 100 * 16 * PAGE
    assert metrics["own_per_overwritten_1pc_ratio"] == metrics["own_per_overwritten_50pc_ratio"] == 16
    assert metrics["own_at_start_ratio"] == 0
    assert metrics["storage_bytes"] == 2 * 100 * 16 * PAGE
    assert "merged_back_bytes" not in metrics
    assert found.notes.startswith("KSM gets nothing back")
    assert found.series["own_by_overwritten_bytes"][-1] == [100 * PAGE, 100 * 16 * PAGE]
    for percent, pages in ((0, 0), (1, 2), (50, 100)):
        assert metrics[f"host_cached_own_after_{percent}pc_bytes"] == pages * PAGE, "of each guest, after each step"
    assert found.series["host_cached_own_by_overwritten_bytes"] == [
        [0, 0],
        [2 * PAGE, 2 * PAGE],
        [100 * PAGE, 100 * PAGE],
    ]
    for guest in guests:
        assert guest.files == {"/data/a/large/0"}
        assert guest.shares == ["0.01", "0.5"]
        assert guest.calls[1:3] == [
            ("unmount", {"target": "/data"}),
            ("mount", {"source": "/dev/vdc", "target": "/data", "fstype": "ext4", "options": "noatime"}),
        ]
        assert guest.calls[-1] == ("remount", {})


def test_random_writes_go_to_the_tree_that_every_data_set_has(disk_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, guests = probe(disk_path, monkeypatch, pattern="random")
    assert guests[0].files == {"/data/a/large/0"}


@pytest.mark.parametrize(("trees", "times"), [("a", 1), ("ab", 2)])
def test_what_a_guest_has_at_the_start_is_held_against_all_trees_that_there_are(
    disk_path: Path, monkeypatch: pytest.MonkeyPatch, trees: str, times: int
) -> None:
    for number in range(2):
        (disk_path / f"{number}.img").write_bytes(os.urandom(PAGES * PAGE))
    found, _ = probe(disk_path, monkeypatch, system="gfs_private", trees=trees)
    assert found.metrics["own_at_start_ratio"] == 1 / times


def test_blocks_that_were_overwritten_before_are_no_start(disk_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (disk_path / "0.img").write_bytes(os.urandom(PAGES * PAGE))
    with pytest.raises(ProbeError, match="fresh boot"):
        probe(disk_path, monkeypatch)


def test_an_unknown_pattern_is_refused(disk_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProbeError, match="sequential, random"):
        probe(disk_path, monkeypatch, pattern="zigzag")


def test_what_merging_finds_again(disk_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def scanning(scene: Scene, settings: object) -> Iterator[None]:
        yield

    monkeypatch.setattr(diverge, "scanning", scanning)
    monkeypatch.setattr(diverge, "settle", lambda scanner: SimpleNamespace(pages_sharing=100))
    monkeypatch.setattr(diverge, "settings_note", lambda scanner: "settings: ksm_run 1")
    found = probe(disk_path, monkeypatch, cluster=PAGE, system="gfs_pmem_cow")[0]
    metrics = found.metrics
    assert found.notes == "settings: ksm_run 1"
    assert metrics["own_per_overwritten_50pc_ratio"] == 1
    assert metrics["merged_back_bytes"] == 100 * PAGE
    assert metrics["merged_back_ratio"] == 1


@pytest.mark.parametrize(
    ("system", "words"),
    [("myfs", "all guests see"), ("virtiofs_auto", "all guests see"), ("gfs_pmem_dax", "none of them may write")],
)
def test_who_cannot_diverge_is_left_out_with_the_reason(system: str, words: str) -> None:
    assert words in str(why_unsuitable(diverge.PROBE, SYSTEMS[system], {}, 2))


@pytest.mark.parametrize("system", ["gfs_private", "gfs_shared_base", "gfs_pmem_cow"])
def test_who_can_diverge_takes_two_guests(system: str) -> None:
    assert why_unsuitable(diverge.PROBE, SYSTEMS[system], {}, 2) is None
    assert why_unsuitable(diverge.PROBE, SYSTEMS[system], {}, 1) == "takes 2 guests at least"
