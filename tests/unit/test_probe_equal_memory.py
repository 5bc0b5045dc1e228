"""Equal memory, with a played guest whose balloon and caches obey."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.onecopy import io_path, ledger, memory_budget, qemu
from ansible.module_utils.onecopy.host_data import DataSet
from ansible.module_utils.onecopy.probes import PROBES, ProbeError, Scene, why_unsuitable
from ansible.module_utils.onecopy.state import Phases
from ansible.module_utils.onecopy.systems import SYSTEMS

MIB = 1 << 20
PROBE = PROBES["equal_memory"]
PAGES = 1000


class Guest:
    """Fetches all of the data in the first pass and a quarter of it in each later one; ``least_mib``: what its balloon cannot take."""

    def __init__(self, least_mib: int = 0) -> None:
        self.least_mib = least_mib
        self.actual = 256 * MIB
        self.passes = 0
        self.fetched = 0.0
        self.limits: list[int] = []

    def call(self, op: str, timeout_seconds: float, /, **arguments: Any) -> dict[str, Any]:
        if op == "run":
            self.passes += 1
            self.fetched += PAGES * 4096 * (1 if self.passes == 1 else 0.25)
            return {"timed_out": False, "exit_codes": [0], "wall_seconds": 2.0 / self.passes}
        if op == "counters":
            return {"vmstat": {"workingset_refault_file": 10 * self.passes}}
        assert op == "residency"
        return {"a/large": {"resident_pages": 300}}

    def monitor(self, path: Path, command: str, **arguments: int) -> dict[str, int]:
        if command == "balloon":
            self.actual = max(arguments["value"], self.least_mib * MIB)
        return {"actual": self.actual}


@pytest.fixture
def guest(monkeypatch: pytest.MonkeyPatch) -> Guest:
    played = Guest()

    @contextmanager
    def limited(pids: list[int], total: int, held: Any) -> Iterator[Any]:
        assert pids == [11, 12]
        played.limits += [total, held()]
        yield SimpleNamespace(refaults=lambda: 5 * played.passes, used_bytes=lambda: 170 * MIB)

    parts = {"backed_bytes": 100 * MIB, "qemu_bytes": 40 * MIB}
    monkeypatch.setattr(memory_budget, "limited", limited)
    monkeypatch.setattr(qemu, "qmp", played.monitor)
    monkeypatch.setattr(ledger, "guest_parts", lambda guest: parts)
    monkeypatch.setattr(ledger, "resident", lambda process: {"RssAnon": 7 * MIB})
    monkeypatch.setattr(io_path, "device_counters", lambda path: {"read_bytes": played.fetched})
    return played


def run(guest: Guest, budget_mib: int, guest_mib: int = 128) -> Any:
    class Cold(Scene):
        def reach(self, host_cache: str, guest_cache: str, *, is_residency: bool = True) -> dict[str, Any]:
            return {}

    plan = SimpleNamespace(share=Path("/"))
    boot = SimpleNamespace(
        runner=guest, qmp=Path("/qmp"), qemu_pid=11, daemon_pid=12, plan=plan, data_roots={"a": "/data/a"}
    )
    files = {"a/large": [("a/large/f", PAGES * 4096)], "a/small": []}
    context = SimpleNamespace(plan={"timeout_seconds": 5, "guest": {"memory_mib": 256}}, dataset=DataSet(files))
    data = SimpleNamespace(resident_pages=lambda parts: 400)
    parameters = PROBE.parameters | {"budget_mib": budget_mib, "guest_mib": guest_mib}
    trial = {"id": "0123", "system": "myfs"}
    return PROBE.run(Cold(context, trial, [boot], data, parameters, Phases(time.monotonic)))  # type: ignore[list-item, arg-type]


def test_the_last_pass_is_what_counts_and_every_pass_is_kept(guest: Guest) -> None:
    probed = run(guest, 192)
    assert probed.metrics == {
        "fetched_ratio": 0.25,
        "copies_ratio": 0.7,
        "host_cached_ratio": 0.4,
        "guest_cached_ratio": 0.3,
        "host_refault_pages": 5,
        "guest_refault_pages": 10,
        "read_seconds": 2.0 / 3,
        "budget_bytes": 192 * MIB,
        "guest_bytes": 128 * MIB,
        "used_bytes": 130 * MIB,
    }
    assert probed.series["fetched_ratio"] == [[1, 1], [2, 0.25], [3, 0.25]]


def test_qemu_is_apart_and_the_guest_has_its_memory_back(guest: Guest) -> None:
    run(guest, 192)
    # The limit holds QEMU too, so it is raised by what QEMU holds; before it came guest, daemon and QEMU.
    assert guest.limits == [(192 + 40) * MIB, (100 + 7 + 40) * MIB]
    assert guest.actual == 256 * MIB


def test_a_budget_that_the_guest_alone_would_fill_is_refused(guest: Guest) -> None:
    with pytest.raises(ProbeError, match="budget_mib 130: 128 are the guest's: give at least 136"):
        run(guest, 130)
    with pytest.raises(ProbeError, match="256 are the guest's"):
        run(guest, 260, guest_mib=0)
    assert not guest.limits


def test_a_guest_that_does_not_give_is_refused(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 10))
    monkeypatch.setattr(time, "monotonic", lambda: next(clock))
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    guest.least_mib = 150
    with pytest.raises(ProbeError, match="guest_mib 128: the guest keeps 150 MiB"):
        run(guest, 192)
    assert guest.actual == 256 * MIB


def test_a_system_without_a_balloon_says_which_option_it_lacks(guest: Guest, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(path: Path, command: str, **arguments: int) -> None:
        raise ValueError("query-balloon: No balloon device has been activated")

    monkeypatch.setattr(qemu, "qmp", refuse)
    with pytest.raises(ProbeError, match="give the system the option reclaim: balloon"):
        run(guest, 192)


def test_an_unknown_part_is_told() -> None:
    assert "'big' is not known" in str(why_unsuitable(PROBE, SYSTEMS["gfs"], {"part": "big"}))
    assert why_unsuitable(PROBE, SYSTEMS["gfs"], PROBE.parameters) is None
