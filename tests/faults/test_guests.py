"""Guests that fail by themselves, and two controllers at once, in real runs."""

from __future__ import annotations

import signal
from pathlib import Path

import machine
import pytest
from lab import RUN_SECONDS, Lab, Run, wait_until
from points import Told, fill, make_room

WAIT = {"wait": {"pipeline": [["sleep", "20"]], "reads": {"part": "none"}}}
PANIC = {"panic": {"pipeline": [["sh", "-c", "echo c >/proc/sysrq-trigger"]], "reads": {"part": "none"}}}


@pytest.mark.fault("kernel panic in a guest, during a trial")
def test_panic(lab: Lab, tmp_path: Path, told: Told) -> None:
    before = lab.snapshot()
    run = Run(
        lab, tmp_path, systems=["gfs"], host_cache=["cold"], residency=[], timed=["panic", "find"], workloads=PANIC
    )
    assert run.end(run.start()) == 0, run.said()
    run.expect_complete([], allowed=("guest_died",))
    (died,) = [record for record in run.on_host() if record["workload"] == "panic"]
    assert (died["status"], died["reason"]) == ("failed", "guest_died")
    assert "Kernel panic - not syncing: sysrq triggered crash" in died["message"]
    lab.expect_quiet(before)
    told("the trial failed as guest_died with the kernel's words, the next one had a new boot")


@pytest.mark.long
@pytest.mark.fault("kernel panic in a guest, at every boot")
def test_panic_at_boot(lab: Lab, tmp_path: Path, told: Told) -> None:
    before = lab.snapshot()
    run = Run(lab, tmp_path / "broken", systems=["hfs", "gfs"], host_cache=["cold"], timed=[])
    initrd = lab.state / "guest/initrd"
    whole = initrd.with_name("initrd.whole")
    initrd.rename(whole)
    try:
        initrd.write_bytes(whole.read_bytes()[:100_000])
        assert run.end(run.start()) == 0, run.said()
    finally:
        whole.rename(initrd)
    every = {record["label"]: record for record in run.on_host()}
    assert every["hfs"]["status"] == "ok"
    assert (every["gfs"]["status"], every["gfs"]["reason"]) == ("failed", "guest_died")
    assert "3 boots of gfs failed" in every["gfs"]["message"]
    assert "Kernel panic" in every["gfs"]["message"]
    run.expect_complete([], allowed=("guest_died",))
    lab.expect_quiet(before)
    told("three boots, then its trials failed as guest_died with the kernel's words; other systems went on")


@pytest.mark.long
@pytest.mark.fault("guest that never gets ready")
def test_never_ready(lab: Lab, tmp_path: Path, told: Told) -> None:
    before = lab.snapshot()
    run = Run(lab, tmp_path, systems=["gfs"], host_cache=["cold"], timed=[])
    controller = run.start()
    pids = wait_until(lambda: machine.victims("QEMU", lab.pid), RUN_SECONDS, "QEMU starts")
    machine.kill(pids, signal.SIGSTOP)
    assert run.end(controller) == 0, run.said()
    run.expect_complete([])
    assert run.failed_boots() == 1
    assert not set(pids) & {process.pid for process in machine.below(lab.pid)}
    lab.expect_quiet(before)
    told("ended at the boot's deadline; the next boot was ready")


@pytest.mark.fault("two controllers at once")
def test_two_controllers(lab: Lab, tmp_path: Path, told: Told) -> None:
    before = lab.snapshot()
    # The first controller must still be at work when the others have got that far.
    long = {"systems": ["hfs"], "host_cache": ["cold"], "residency": [], "timed": ["wait"], "workloads": WAIT}
    run, other = Run(lab, tmp_path / "first", **long), Run(lab, tmp_path / "other", name="other", **long)
    first = run.start()
    wait_until(lambda: run.directory, RUN_SECONDS, "the run begins")
    second, third = run.start(), other.start()
    assert run.end(second) != 0
    assert (
        f"another controller (pid {first.pid}) works on this experiment on box1: wait for its end"
        in run.log.read_text()
    )
    assert other.end(third) != 0
    assert "this machine already measures: run" in other.log.read_text()
    assert other.directory is None
    assert run.end(first) == 0, run.said()
    run.expect_complete([])
    lab.expect_quiet(before)
    told("the same experiment and another one: each refused in one line, the first completed")


@pytest.mark.long
@pytest.mark.fault("disk full while the KVM host appends a record, in a real run")
def test_disk_full(lab: Lab, tmp_path: Path, told: Told) -> None:
    before = lab.snapshot()
    run = Run(lab, tmp_path, systems=["virtiofs_auto"])
    lab.inside("mount", "-t", "tmpfs", "-o", "size=1M", "onecopy-small", "/var/lib/onecopy/runs")
    try:
        controller = run.start()
        wait_until(run.on_host, RUN_SECONDS, "a first record")
        fill(lab.state / "runs", 0)
        assert run.end(controller) != 0
        assert "No space left on device" in run.said()
        kept = run.on_host()
        make_room(lab.state / "runs")
        assert run.end(run.start()) == 0, run.said()
        run.expect_complete(kept)
    finally:
        lab.inside("umount", "/var/lib/onecopy/runs")
    lab.expect_quiet(before)
    told("the run ended and said so, the same command completed it", len(kept))
