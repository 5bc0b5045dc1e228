"""Guests that boot from the storage under test, played: what is held and what was asked for, by stage."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible.module_utils.onecopy import io_path
from ansible.module_utils.onecopy.probes import Probed, ProbeError, Scene, rootfs, why_unsuitable
from ansible.module_utils.onecopy.systems import SYSTEMS

PAGE = 4096


class Guest:
    """Booting reads 100 pages, the programs another 50, once."""

    qemu_pid, daemon_pid, qmp = 1, 2, Path("/qmp")

    def __init__(self, share: Path, caches: bool) -> None:
        self.plan = SimpleNamespace(share=share, stats=share / "stats")
        self.pages, self.requests, self.caches = 100, 10, caches
        self.runner = self

    def call(self, op: str, timeout: float) -> dict[str, int]:
        assert op == "memory"
        return {"Cached": (7 + (self.pages if self.caches else 0)) * PAGE, "Shmem": 7 * PAGE}

    def execute(self) -> None:
        if self.pages == 100:
            self.pages, self.requests = 150, 18


def probe(
    monkeypatch: pytest.MonkeyPatch,
    share: Path,
    system: str,
    *,
    guests: int = 1,
    host: bool = True,
    caches: bool = True,
) -> Probed:
    boots = [Guest(share, caches) for _ in range(guests)]
    executed: list[str] = []

    def run(boot: Guest, argv: tuple[str, ...]) -> None:
        executed.append(argv[0])
        boot.execute()

    def snapshot(asked: list[io_path.Guest], daemons: list[io_path.Daemon]) -> dict[str, dict[str, float]]:
        assert len(asked) == guests
        requests = sum(boot.requests for boot in boots)
        layers: dict[str, dict[str, float]] = {"qemu_block": {"read_bytes": requests * PAGE, "read_requests": requests}}
        layers["daemon"] = {"read_call_bytes": requests * PAGE}
        if all(daemon.stats for daemon in daemons):
            layers["fuse"] = {"requests": requests, "map_requests": requests / 2}
        return layers

    monkeypatch.setattr(rootfs.io_path, "snapshot", snapshot)
    monkeypatch.setattr(rootfs.io_path, "ask", lambda path: {"window": {"tail_pages": 3}})
    resident = SimpleNamespace(resident_pages=lambda parts: max(boot.pages for boot in boots) if host else 0)
    scene = SimpleNamespace(
        boots=boots, boot=boots[0], system=SYSTEMS[system], options={"root": "data"}, data=resident, run=run
    )
    found = rootfs.run(cast(Scene, scene))
    assert executed.count("python3") == 2 * guests
    return found


@pytest.fixture
def share(tmp_path: Path) -> Path:
    for part in ("large", "small"):
        (tmp_path / "data/a" / part).mkdir(parents=True)
    return tmp_path


@pytest.mark.parametrize(
    ("system", "how", "copies"),
    [
        ("gfs", {}, 2.0),
        ("gfs", {"guests": 2}, 3.0),
        ("gfs_direct", {"host": False, "guests": 2}, 2.0),
        ("gfs_pmem_dax", {"caches": False, "guests": 2}, 1.0),
    ],
)
def test_copies_by_who_caches(
    monkeypatch: pytest.MonkeyPatch, share: Path, system: str, how: dict[str, Any], copies: float
) -> None:
    metrics = probe(monkeypatch, share, system, **how).metrics
    assert metrics["booted_copies_ratio"] == metrics["executed_copies_ratio"] == copies
    guests = how.get("guests", 1)
    assert metrics["booted_held_bytes"] == copies * 100 * PAGE
    assert metrics["executed_held_bytes"] == copies * 150 * PAGE
    asked = [metrics[f"{stage}_requests_count"] for stage in ("booted", "executed", "more")]
    assert asked == [10 * guests, 8 * guests, 0]
    assert "busy_on_host_count" not in metrics


def test_tails_are_copies_and_maps_are_requests(monkeypatch: pytest.MonkeyPatch, share: Path) -> None:
    metrics = probe(monkeypatch, share, "myfs", caches=False).metrics
    assert metrics["booted_copies_ratio"] == 1.03
    assert (metrics["booted_map_requests_count"], metrics["executed_map_requests_count"]) == (5, 4)
    assert metrics["busy_on_host_count"] == 0


def test_virtiofsd_counts_no_requests_so_none_are_told(monkeypatch: pytest.MonkeyPatch, share: Path) -> None:
    metrics = probe(monkeypatch, share, "virtiofs_auto").metrics
    assert metrics["booted_crossed_bytes"] == 10 * PAGE
    assert not [name for name in metrics if "requests" in name]


def test_images_that_are_copied_at_boot_are_left_out() -> None:
    assert "the host's cache of it is warm" in str(why_unsuitable(rootfs.PROBE, SYSTEMS["gfs_private"], {}))
    assert why_unsuitable(rootfs.PROBE, SYSTEMS["gfs_shared_base"], {}) is None


def test_guests_with_another_root_are_refused() -> None:
    with pytest.raises(ProbeError, match="root: data"):
        rootfs.run(cast(Scene, SimpleNamespace(options={})))


def test_a_file_that_is_open_for_writing_cannot_be_executed(tmp_path: Path) -> None:
    program = tmp_path / "program"
    shutil.copy("/bin/true", program)
    assert not rootfs.is_open_for_writing(str(program))
    with open(program, "r+b"):
        assert rootfs.is_open_for_writing(str(program))
        with pytest.raises(OSError, match="Text file busy"):
            subprocess.run([program], check=True)
    assert not rootfs.is_open_for_writing(str(program))
    subprocess.run([program], check=True)
