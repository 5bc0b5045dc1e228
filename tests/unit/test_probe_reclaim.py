"""What a guest gives back, on a machine that is played: its memory, its monitor and its clock."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible.module_utils.onecopy import qemu
from ansible.module_utils.onecopy.probes import Probed, Scene, reclaim

MIB = 1 << 20
PARAMETERS = {"watch_seconds": 4.0, "leave_mib": 32}


@dataclass
class Machine:
    """A guest with 200 MiB free that reads 100 MiB; ``mechanism`` gives back after ``delay`` seconds."""

    mechanism: str | None = None
    keeps_data: bool = True
    delay: float = 2.0
    now: float = 0.0
    backed: int = 60 * MIB
    free: int = 200 * MIB
    freed_at: float | None = None
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    requested: int = 256 * MIB

    def read(self, boot: object) -> dict[str, Any]:
        if self.keeps_data:
            self.backed += 100 * MIB
            self.free -= 100 * MIB
        return {"read_bytes": 100 * MIB}

    def call(self, op: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        if op == "drop":
            self.free = 200 * MIB
            if self.mechanism == "reporting":
                self.freed_at = self.now
        return {"MemFree": self.free}

    def backed_now(self, boot: object) -> int:
        if self.freed_at is not None and self.now >= self.freed_at + self.delay:
            return 62 * MIB
        return self.backed

    def qmp(self, path: Path, command: str, timeout: float, /, **arguments: Any) -> Any:
        self.asked.append((command, arguments))
        if command in ("balloon", "qom-set"):
            self.freed_at = self.now if self.freed_at is None else None
        return {"query-balloon": {"actual": 512 * MIB}, "qom-get": self.requested}.get(command)

    def sleep(self, seconds: float) -> None:
        self.now += seconds


def probe(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> Probed:
    monkeypatch.setattr(reclaim, "time", SimpleNamespace(monotonic=lambda: machine.now, sleep=machine.sleep))
    monkeypatch.setattr(reclaim, "backed", machine.backed_now)
    monkeypatch.setattr(qemu, "qmp", machine.qmp)
    scene = SimpleNamespace(
        boot=SimpleNamespace(runner=machine, qmp=Path("/q")),
        options={"reclaim": machine.mechanism} if machine.mechanism else {},
        parameters=PARAMETERS,
        data=SimpleNamespace(residency=lambda: SimpleNamespace(resident_pages=5)),
        reach=lambda *states, is_residency: None,
        read=machine.read,
    )
    return reclaim.run(cast(Scene, scene))


def test_without_a_mechanism_nothing_comes_back(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine()
    found = probe(machine, monkeypatch)
    assert found.metrics == {
        "grown_bytes": 100 * MIB,
        "freed_bytes": 100 * MIB,
        "returned_bytes": 0,
        "returned_ratio": 0,
        "host_cached_bytes": 5 * 4096,
    }
    assert found.series["returned_bytes"][-1] == [4.0, 0]
    assert not machine.asked


def test_reporting_gives_back_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine("reporting")
    found = probe(machine, monkeypatch)
    assert found.metrics["returned_ratio"] == pytest.approx(0.98)
    assert found.metrics["returned_seconds"] == pytest.approx(2.0)
    assert not machine.asked


def test_a_balloon_is_inflated_by_what_is_spare_and_let_out_again(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine("balloon")
    found = probe(machine, monkeypatch)
    assert found.metrics["asked_bytes"] == (200 - 32) * MIB
    assert found.metrics["returned_bytes"] == 98 * MIB
    sizes = [arguments["value"] // MIB for command, arguments in machine.asked if command == "balloon"]
    assert sizes == [512 - 168, 512]


def test_virtio_mem_unplugs_at_most_what_is_plugged(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine("virtio_mem", requested=128 * MIB)
    found = probe(machine, monkeypatch)
    assert found.metrics["asked_bytes"] == 128 * MIB
    assert [arguments["value"] // MIB for command, arguments in machine.asked if command == "qom-set"] == [0, 128]


def test_memory_comes_back_to_the_guest_when_the_probe_breaks(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine("balloon")

    def broken(*arguments: Any) -> None:
        raise OSError("gone")

    monkeypatch.setattr(reclaim, "_watch", broken)
    with pytest.raises(OSError, match="gone"):
        probe(machine, monkeypatch)
    assert [command for command, _ in machine.asked] == ["query-balloon", "balloon", "balloon"]


def test_where_the_guest_kept_nothing_there_is_no_ratio(monkeypatch: pytest.MonkeyPatch) -> None:
    found = probe(Machine(keeps_data=False), monkeypatch)
    assert found.metrics["grown_bytes"] == 0
    assert "returned_ratio" not in found.metrics
    assert "nothing to give back" in found.notes
