"""The density probe's arithmetic, on guests that are made here."""

from __future__ import annotations

import dataclasses
import itertools
import os
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible.module_utils.onecopy import io_path
from ansible.module_utils.onecopy.host_data import Residency
from ansible.module_utils.onecopy.paths import HostPaths
from ansible.module_utils.onecopy.probes import Scene, density
from ansible.module_utils.onecopy.runner_client import RunnerLost
from ansible.module_utils.onecopy.systems import SYSTEMS


class Runner:
    def __init__(self, resident: int) -> None:
        self.resident = resident

    def call(self, op: str, _seconds: float, **_arguments: Any) -> dict[str, Any]:
        if op == "counters":
            return {"block": {"vda": {"read_bytes": 0}}, "vmstat": {}, "cpu": {}}
        if op == "residency":
            return {"a/large": {"resident_pages": self.resident}, "a/small": {"resident_pages": 1}}
        return {"MemTotal": 256 << 20, "MemFree": 100 << 20, "Cached": 10 << 20}


def scene(guests: int) -> Scene:
    boots = [
        SimpleNamespace(
            qemu_pid=100 + number,
            daemon_pid=None,
            stats=None,
            runner=Runner(99),
            hello_seconds=5.0 + number,
            started_at=100.0 + number,
            ready_at=110.0 + 2 * number,
            data_roots={"a": "/data/a"},
        )
        for number in range(guests)
    ]
    data = SimpleNamespace(resident_pages=lambda parts: 100, residency=lambda: Residency(300, 256))
    context = SimpleNamespace(dataset=SimpleNamespace(pages=lambda parts: 100))
    return Scene(cast(Any, context), {"system": "gfs"}, cast(Any, boots), cast(Any, data), {}, cast(Any, None))


def snapshot(free_mib: int, guests: int) -> dict[str, Any]:
    guest = {
        "ram_bytes": 256 << 20,
        "backed_bytes": 90 << 20,
        "qemu_bytes": 80 << 20,
        "cache_bytes": 40 << 20,
        "free_bytes": 170 << 20,
    }
    host = {
        "total_bytes": 2000 << 20,
        "free_bytes": free_mib << 20,
        "cache_bytes": 50 << 20,
        "process_bytes": 0,
        "kernel_bytes": 0,
    }
    nobody = {"others": {"processes": 0, "anonymous_bytes": 0, "shared_bytes": 0}, "visible_bytes": 0}
    return {"host": host, "ksm": {}, "guests": [dict(guest) for _ in range(guests)], "daemons": []} | nobody


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A machine of which nothing is really looked at: each guest reads 100 bytes, and 50 move below it."""
    moved: dict[int, float] = {}
    left_behind = {100, 101, 102}  # guests in whose free memory a reader's buffer lies

    def run(self: Scene, boot: Any, argv: Sequence[str]) -> dict[str, Any]:
        assert argv[:2] == ("dd", "if=/dev/zero")
        left_behind.discard(boot.qemu_pid)
        return {}

    def frames(scene: Scene) -> dict[str, float]:
        return {"physical_copies": 2.5 + sum(boot.qemu_pid in left_behind for boot in scene.boots)}

    def grow(boot: Any) -> float:
        moved[boot.qemu_pid] = moved.get(boot.qemu_pid, 0.0) + 50
        return moved[boot.qemu_pid]

    free = itertools.cycle([1500, 1400])
    monkeypatch.setattr(density, "_snapshot", lambda scene: snapshot(next(free), len(scene.boots)))
    monkeypatch.setattr(density, "_frames", frames)
    monkeypatch.setattr(density, "_storage", lambda _: {"storage_bytes": 5.0})
    monkeypatch.setattr(density, "_open_images", lambda _: {"one"})
    monkeypatch.setattr(density, "_scanned_pages", lambda: 7)
    monkeypatch.setattr(density, "_moved", grow)
    monkeypatch.setattr(Scene, "reach", lambda self, host, guest: {})
    monkeypatch.setattr(Scene, "run", run)
    monkeypatch.setattr(Scene, "read", lambda self, boot: {"read_bytes": 100})
    return monkeypatch


@pytest.fixture
def found(played: pytest.MonkeyPatch) -> dict[str, float]:
    return dict(density.run(scene(2)).metrics)


def test_places_are_added_up_over_host_and_guests(found: dict[str, float]) -> None:
    assert (found["host_copies_ratio"], found["guest_copies_ratio"], found["copies_ratio"]) == (1.0, 2.0, 3.0)
    assert found["physical_copies_ratio"] == 2.5


def test_the_ends_of_files_that_daemons_keep_are_copies(played: pytest.MonkeyPatch) -> None:
    kept = {Path("/one"): 9, Path("/two"): 11}
    zeros = dict.fromkeys(io_path._FUSE, 0)
    played.setattr(io_path, "ask", lambda stats: {**zeros, "requests": {}, "window": {"tail_pages": kept[stats]}})
    shared = scene(2)
    for boot, stats in zip(shared.boots, kept, strict=True):
        boot.stats = stats  # type: ignore[misc]
    metrics = density.run(shared).metrics
    assert (metrics["daemon_copies_ratio"], metrics["copies_ratio"]) == (0.2, 3.2)


def test_memory_is_the_machines_and_its_parties(found: dict[str, float]) -> None:
    assert (found["idle_used_bytes"] >> 20, found["used_bytes"] >> 20) == (500, 600)
    assert (found["host_data_bytes"] >> 20, found["held_bytes"] >> 20) == (1, 1 + 2 * (90 + 80))
    assert (found["qemu_bytes"] >> 20, found["guests_cache_bytes"] >> 20) == (160, 80)
    assert (found["slowest_start_seconds"], found["all_ready_seconds"]) == (6.0, 12.0)
    assert (found["moved_per_read_ratio"], found["images"], found["scanned_pages"]) == (0.5, 1, 0)
    assert "merged_copies_ratio" not in found


def test_only_a_system_whose_memory_merges_is_merged() -> None:
    assert [name for name, system in SYSTEMS.items() if system.merges == "guest_memory"] == ["gfs_ksm"]


def test_a_guest_that_goes_away_is_named_and_the_others_go_on(played: pytest.MonkeyPatch) -> None:
    def read(self: Scene, boot: Any) -> dict[str, Any]:
        if boot.qemu_pid == 101:
            raise RunnerLost("run: the other end hung up")
        return {"read_bytes": 100}

    played.setattr(Scene, "read", read)
    probed = density.run(scene(3))
    assert probed.lost == [2]
    assert probed.metrics["guest_copies_ratio"] == 2.0
    assert (probed.metrics["qemu_bytes"] >> 20, probed.metrics["guests_cache_bytes"] >> 20) == (160, 80)  # type: ignore[operator]
    assert "guests 2 were lost" in probed.notes
    with pytest.raises(RunnerLost):
        density.run(dataclasses.replace(scene(2), boots=scene(2).boots[1:]))


def test_images_are_those_that_a_guest_has_open(tmp_path: Path) -> None:
    paths = HostPaths(tmp_path)
    image = paths.image("tiny", "gfs")
    image.parent.mkdir(parents=True)
    image.write_bytes(b"x")
    one = scene(1)
    one.boots[0].qemu_pid = os.getpid()
    looked = dataclasses.replace(one, context=cast(Any, SimpleNamespace(paths=paths)))
    assert density._open_images(looked) == set()
    with open(image, "rb"):
        assert density._open_images(looked) == {str(image)}
