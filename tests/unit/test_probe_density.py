"""The density probe's arithmetic, on guests that are made here."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible.module_utils.onecopy.probes import Scene, density
from ansible.module_utils.onecopy.systems import SYSTEMS


class Runner:
    def __init__(self, resident: int) -> None:
        self.resident = resident

    def call(self, op: str, _seconds: float, **_arguments: Any) -> dict[str, Any]:
        if op == "residency":
            return {"a/large": {"resident_pages": self.resident}, "a/small": {"resident_pages": 1}}
        return {"MemTotal": 256 << 20, "MemFree": 100 << 20, "Cached": 10 << 20}


def scene(guests: int) -> Scene:
    boots = [
        SimpleNamespace(
            qemu_pid=100 + number,
            daemon_pid=None,
            runner=Runner(99),
            hello_seconds=5.0 + number,
            data_roots={"a": "/data/a"},
        )
        for number in range(guests)
    ]
    data = SimpleNamespace(resident_pages=lambda parts: 100)
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
    return {"host": host, "ksm": {}, "guests": [dict(guest) for _ in range(guests)], "daemons": []}


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    snapshots = iter([snapshot(1500, 2), snapshot(1400, 2)])
    monkeypatch.setattr(density, "_snapshot", lambda _: next(snapshots))
    monkeypatch.setattr(density, "_frames", lambda _: {"physical_copies": 2.5})
    monkeypatch.setattr(density, "_storage", lambda _: {"storage_bytes": 5.0})
    monkeypatch.setattr(Scene, "reach", lambda self, host, guest: {})
    monkeypatch.setattr(Scene, "read", lambda self, boot: {})
    return dict(density.run(scene(2)).metrics)


def test_places_are_added_up_over_host_and_guests(found: dict[str, float]) -> None:
    assert (found["host_copies_ratio"], found["guest_copies_ratio"], found["copies_ratio"]) == (1.0, 2.0, 3.0)
    assert found["physical_copies_ratio"] == 2.5


def test_memory_is_the_machines_and_its_parties(found: dict[str, float]) -> None:
    assert (found["idle_used_bytes"] >> 20, found["used_bytes"] >> 20) == (500, 600)
    assert (found["qemu_bytes"] >> 20, found["guests_cache_bytes"] >> 20) == (160, 80)
    assert found["slowest_start_seconds"] == 6.0
    assert "merged_copies_ratio" not in found


def test_only_a_system_whose_memory_merges_is_merged() -> None:
    assert [name for name, system in SYSTEMS.items() if system.merges == "guest_memory"] == ["gfs_ksm"]
