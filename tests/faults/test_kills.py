"""kill -9 of everything that a run consists of, at seeded points of real runs."""

from __future__ import annotations

import random
import signal
import subprocess
import time
from pathlib import Path
from typing import Any

import machine
import pytest
from ansible.module_utils.onecopy import lock
from ansible.module_utils.onecopy.nspawn import MACHINE_DIRECTORY
from lab import KSM, RUN_SECONDS, Lab, Run
from points import POINTS, Told, draw

VICTIMS = {
    "controller": "the controller, with or without its worker",
    "trial module": "the trial module",
    "QEMU": "QEMU",
    "virtiofsd": "virtiofsd",
    "hostfsd": "hostfsd",
    "sshd": "sshd of the KVM host, or one of its sessions",
    "run unit": "the process that holds the machine's lock",
}
LONG = ("run unit",)
SYSTEMS = ("gfs", "virtiofs_auto", "myfs")
TRIALS = 4
# Seconds within the boot that comes before the first record, and within a trial: these are short.
BOOT_DELAY = 8.0
TRIAL_DELAY = 0.4
TRIES = 4
# Whose death the run survives: the trial fails for it, and the next one has a new boot.
REASONS = {"QEMU": "guest_died", "virtiofsd": "daemon_died", "hostfsd": "daemon_died"}


def as_parameter(kind: str) -> Any:
    marks = [pytest.mark.fault(f"kill -9 of {VICTIMS[kind]}")]
    return pytest.param(kind, marks=[*marks, pytest.mark.long] if kind in LONG else marks)


def some(pids: list[int], chance: random.Random) -> list[int]:
    """All of them, or one."""
    return pids if chance.random() < 0.5 else [chance.choice(pids)]


def is_quiet() -> bool:
    """Whether KSM is off, which the suite switches on, or no run is under way."""
    return not KSM.exists() or KSM.read_text().strip() == "0" or lock.holder_of(MACHINE_DIRECTORY / "lock") is None


def strike(
    run: Run, controller: subprocess.Popen[bytes], kind: str, chance: random.Random
) -> list[dict[str, Any]] | None:
    """Kill at a drawn point: so many records, and a drawn time later. The records that were there; None when the run was over before."""
    count = chance.randrange(TRIALS)
    delay = chance.uniform(0, TRIAL_DELAY if count else BOOT_DELAY)
    deadline = time.monotonic() + RUN_SECONDS
    waited = False
    while controller.poll() is None:
        assert time.monotonic() < deadline, run.said()
        if run.directory is None or len(run.on_host()) < count:
            time.sleep(0.02)
            continue
        if not waited:
            waited = True
            time.sleep(delay)
        if kind == "controller":
            pids = [controller.pid, *(process.pid for process in machine.below(controller.pid))]
            pids = pids if chance.random() < 0.5 else pids[:1]
        else:
            pids = machine.victims(kind, run.lab.pid)
            pids = some(pids, chance) if pids else []
        if pids and controller.poll() is None:
            kept = run.on_host()
            assert not kept or is_quiet(), "a run under way has changed no setting: nothing could come back"
            machine.kill(pids, signal.SIGKILL)
            return kept
        time.sleep(0.01)
    return None


@pytest.mark.parametrize("kind", [as_parameter(kind) for kind in VICTIMS])
@pytest.mark.parametrize("point", range(max(POINTS, 1)))
def test_killed(lab: Lab, tmp_path: Path, kind: str, point: int, told: Told) -> None:
    before = lab.snapshot()
    for attempt in range(TRIES):
        chance = draw("kill", kind, point, attempt)
        system = {"virtiofsd": "virtiofs_auto", "hostfsd": "myfs"}.get(kind) or chance.choice(SYSTEMS)
        # Some runs change more of the machine than others do.
        run = Run(
            lab,
            tmp_path / str(attempt),
            slice_seconds=chance.choice([2, 20]),
            systems=[system],
            device=[chance.choice(["as_is", "hdd"])],
        )
        controller = run.start()
        kept = strike(run, controller, kind, chance)
        if kept is not None:
            break
        assert run.end(controller) == 0, run.said()
    else:
        pytest.fail(f"{TRIES} runs were over before the drawn point")
    code = run.end(controller)
    if code:
        assert run.end(run.start()) == 0, run.said()
    run.expect_complete(kept, allowed=(REASONS[kind],) if kind in REASONS else ())
    lab.expect_quiet(before)
    told("the run ended, the same command completed it" if code else "the run completed by itself", len(kept))
