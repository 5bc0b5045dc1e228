"""Samples around a trial, of a boot made of processes of this machine, and what voids a trial."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.onecopy import cachestat, ledger, sample

MIB = 1 << 20
SIZE = 16 * MIB
# Guest memory in a memfd of QEMU's name; touches as many MiB as it is told.
QEMU = """
import mmap, os, sys
fd = os.memfd_create("memory-backend-memfd"); os.ftruncate(fd, 64 << 20); ram = mmap.mmap(fd, 64 << 20)
print("ready", flush=True)
for line in sys.stdin:
    ram[: int(line) << 20] = b"x" * (int(line) << 20); print("touched", flush=True)
"""


class Guest:
    """A boot and its runner: a guest with 64 MiB, of which ``cached`` bytes are page cache."""

    daemon_pid = None
    qmp = None
    stats = None

    def __init__(self, qemu: subprocess.Popen[str], image: Path) -> None:
        self.qemu, self.qemu_pid = qemu, qemu.pid
        self.plan = SimpleNamespace(mounted_images={"/scratch": image}, own_image=None, base_image=None)
        self.runner = self
        self.cached = 0
        self.free_bytes = MIB
        self.asked: list[str] = []

    def call(self, op: str, timeout_seconds: float, **arguments: Any) -> dict[str, Any]:
        self.asked.append(op)
        meminfo = {"MemTotal": 64 * MIB, "MemFree": 64 * MIB - self.cached, "Cached": self.cached}
        answers: dict[str, dict[str, Any]] = {
            "memory": meminfo | {"Shmem": 0, "Buffers": 0, "SReclaimable": 0},
            "counters": {
                "block": {"vdc": {"read_requests": len(self.asked), "read_bytes": self.cached}},
                "vmstat": {"pgfault": 5},
                "cpu": {"user": 1.0, "idle": 9.0},
            },
            "statfs": {"free_bytes": self.free_bytes},
        }
        return answers[op]

    def read(self, mib: int) -> None:
        """Read so much into the guest's cache."""
        assert self.qemu.stdin is not None
        assert self.qemu.stdout is not None
        self.qemu.stdin.write(f"{mib}\n")
        self.qemu.stdin.flush()
        assert self.qemu.stdout.readline() == "touched\n"
        self.cached = mib * MIB


@pytest.fixture
def guest(disk_path: Path) -> Iterator[Guest]:
    image = disk_path / "scratch.img"
    image.write_bytes(os.urandom(2 * MIB))
    os.sync()
    argv = [sys.executable, "-c", QEMU]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield Guest(process, image)
        process.kill()


def take(guest: Any, store: Path, *, is_before: bool) -> sample.Sample:
    return sample.take([guest], store, has_guests=True, is_before=is_before)


def test_the_record_says_who_holds_what_and_what_became_of_it(guest: Guest, disk_path: Path) -> None:
    before = take(guest, disk_path, is_before=True)
    guest.read(16)
    found = sample.change(before, take(guest, disk_path, is_before=False), SIZE)
    for moment in ("before", "after"):
        table = found["ledger"][moment]
        parties = [table["host"], *table["guests"], *table["qemu"], *table["daemons"]]
        assert sum(sum(party.values()) for party in parties) == table["total_bytes"] + table["merged_bytes"]
    assert found["ledger"]["after"]["guests"][0]["cache_bytes"] == SIZE
    change = found["ledger"]["change"]
    assert change["guest_memory_bytes"] >= SIZE
    parts = sum(value for name, value in change.items() if name not in ("used_and_cache_bytes", "remainder_bytes"))
    assert parts + change["remainder_bytes"] == change["used_and_cache_bytes"]
    assert found["ledger"]["is_closed"] is ledger.is_closed(change, SIZE)
    assert found["io_path"]["guest"]["read_bytes"] == SIZE
    assert set(found["io_path"]) == {"guest", "qemu", "store", "host"}
    assert "swappiness" in found["settings"]
    # 2 MiB are allocated, 1 MiB of them the guest holds free.
    scratch = found["storage"]["after"]["images"]["/scratch"]
    assert scratch == {"allocated_bytes": 2 * MIB, "guest_free_bytes": MIB, "hidden_free_bytes": MIB}
    assert found["storage"]["after"]["store"]["total_bytes"] > 0


def test_an_overlay_and_its_base_are_in_the_record(guest: Guest, disk_path: Path) -> None:
    """Of a base of 8 MiB, 3 of them allocated, an overlay has 1; the guest holds 7.5 free: at least half a MiB lies there for nothing."""
    base, overlay = disk_path / "base.img", disk_path / "own.qcow2"
    base.write_bytes(os.urandom(3 * MIB))
    os.truncate(base, 8 * MIB)
    overlay.write_bytes(os.urandom(MIB))
    os.sync()
    guest.plan = SimpleNamespace(mounted_images={"/data": overlay}, own_image=overlay, base_image=base)
    guest.free_bytes = 7 * MIB + MIB // 2
    images = take(guest, disk_path, is_before=True).storage["images"]
    assert images == {
        "/data": {
            "allocated_bytes": MIB,
            "guest_free_bytes": 7 * MIB + MIB // 2,
            "hidden_free_bytes": MIB // 2,
        },
        "common base": {"allocated_bytes": 3 * MIB},
    }


def test_guests_are_asked_outside_of_what_is_counted(guest: Guest, disk_path: Path, monkeypatch: Any) -> None:
    order: list[str] = []
    looked = ledger.snapshot
    monkeypatch.setattr(ledger, "snapshot", lambda *args: order.append(f"after {len(guest.asked)}") or looked(*args))
    take(guest, disk_path, is_before=True)
    take(guest, disk_path, is_before=False)
    assert order == ["after 3", "after 3"]
    assert guest.asked == ["memory", "counters", "statfs"] * 2


def test_a_sample_reads_no_page_of_an_image(guest: Guest, disk_path: Path) -> None:
    image = guest.plan.mounted_images["/scratch"]
    fd = os.open(image, os.O_RDONLY)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    take(guest, disk_path, is_before=True)
    assert cachestat.cachestat(fd).resident == 0
    os.close(fd)


def made(**changes: Any) -> sample.Sample:
    """A sample of nothing, but for what is given."""
    layers = {
        "host": {"user_seconds": 100.0 + changes.pop("user", 0), "steal_seconds": 5.0 + changes.pop("steal", 0)},
        "qemu": {"user_seconds": 50.0 + changes.pop("qemu", 0)},
    }
    settings = {"swappiness": "60", "ksm_pages_to_scan": "100"} | changes.pop("settings", {})
    disturbances = {"drop_pagecache": 3, "pswpout": 0} | changes.pop("disturbances", {})
    own = 7.0 + changes.pop("own", 0)
    assert not changes
    return sample.Sample({}, layers, {}, settings, disturbances, own)


@pytest.mark.parametrize(
    ("now", "settings", "said"),
    [
        ({}, {}, None),
        ({"drop_pagecache": 4}, {}, "page cache was dropped during the trial (drop_pagecache rose by 1)"),
        ({"pswpout": 9}, {}, "the host swapped out"),
        ({}, {"swappiness": "10"}, "swappiness of the host was changed from 60 to 10"),
        ({}, {"ksm_pages_to_scan": "400"}, None),
    ],
)
def test_disturbance_is_said(now: dict[str, int], settings: dict[str, str], said: str | None) -> None:
    found = sample.disturbed(made(), made(settings=settings), {"drop_pagecache": 3, "pswpout": 0} | now)
    assert found is None if said is None else said in str(found)


@pytest.mark.parametrize(
    ("during", "user_seconds", "said"),
    [
        ({}, 0, None),
        ({"steal": 0.04}, 0, None),
        ({"steal": 0.08}, 0, "0.08 CPU seconds were stolen during 1.00 s"),
        ({"user": 0.19}, 0, None),
        ({"user": 0.9}, 0, "other programs used 0.90 CPU seconds during 1.00 s"),
        ({"user": 0.9, "qemu": 0.8}, 0, None),
        ({"user": 0.9, "own": 0.8}, 0, None),
        ({"user": 0.9}, 0.8, None),
    ],
)
def test_what_spoils_a_time_is_said(during: dict[str, float], user_seconds: float, said: str | None) -> None:
    found = sample.slowed(made(), made(**during), 1.0, user_seconds)
    assert found is None if said is None else said in str(found)


def test_this_kernel_counts_disturbances() -> None:
    assert "drop_pagecache" in sample.host_disturbances()


def test_tail_pages_are_those_that_the_daemon_tells() -> None:
    assert sample.tail_pages(sample.Sample({}, {"fuse": {"tail_pages": 7}}, {}, {}, {}, 0)) == 7
    assert sample.tail_pages(made()) == 0
