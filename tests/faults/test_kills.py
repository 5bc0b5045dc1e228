"""kill -9 of everything that a run consists of, at seeded points of real runs.

A run's begin and end take longer than what a kill breaks: of several points each run takes many, one after the other.
"""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from typing import Any

import machine
import pytest
from ansible.module_utils.onecopy import lock
from ansible.module_utils.onecopy.nspawn import MACHINE_DIRECTORY
from ansible.module_utils.onecopy.slices import FAILED_BOOTS
from lab import KSM, RUN_SECONDS, Lab, Run, wait_until
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
# A drawn number of records, fewer than this, lies between two points.
APART = 4
# Points that share a run, while it lasts; what is read beside them is little, so that they do not all need boots of their own.
TOGETHER = 10
READS = ["find", "du", "ls_recursive"]
TRIALS = 2 * (1 + len(READS))
TRIALS_PER_POINT = 2.6
# Seconds within the boot that comes before the next record, and within a trial: these are short.
BOOT_DELAY = 8.0
TRIAL_DELAY = 0.4
RUNS = 4
# From the machine's lock to the settings that a run has.
SETTING_SECONDS = 10.0
# Whose death the run survives: the trial fails for it, and the next one has a new boot.
REASONS = {"QEMU": "guest_died", "virtiofsd": "daemon_died", "hostfsd": "daemon_died"}


def as_parameter(kind: str) -> Any:
    marks = [pytest.mark.fault(f"kill -9 of {VICTIMS[kind]}")]
    return pytest.param(kind, marks=[*marks, pytest.mark.long] if kind in LONG else marks)


def is_quiet() -> bool:
    """Whether KSM is off, which the suite switches on, or no run is under way."""
    return not KSM.exists() or KSM.read_text().strip() == "0" or lock.holder_of(MACHINE_DIRECTORY / "lock") is None


class Killed:
    """A run whose processes of one kind are killed again and again, and that the same command goes on with wherever it ends for it."""

    def __init__(self, run: Run, kind: str, told: Told) -> None:
        self.run = run
        self.kind = kind
        self.told = told
        self.reason = REASONS.get(kind)
        self.controller = run.start()
        self.strikes = 0
        self.kept: list[dict[str, Any]] = []
        self._killed: list[int] = []
        self._ended = False

    def goes_on(self) -> bool:
        """Whether there is something to strike at; a controller that ended for the last strike, and for nothing else, is started again."""
        code = self.controller.poll()
        if code is None:
            return True
        if code != 0:
            assert self.strikes and not self._ended, f"ended by itself: {self.run.said()}"
            self._ended = True
            self.controller = self.run.start()
        return code != 0

    def strike(self, chance: random.Random) -> bool:
        """Kill at a drawn point: so many records since the last strike, and a drawn time later. False when the run was over before."""
        count = chance.randrange(APART)
        if self.strikes and self.run.failed_boots() == FAILED_BOOTS - 1:
            count = max(count, 1)  # with one more the block would have no trials; test_guests.py breaks every boot
        delay = chance.uniform(0, TRIAL_DELAY if count else BOOT_DELAY)
        deadline = time.monotonic() + RUN_SECONDS
        wanted = self._progress() + count
        has_recovered, due = False, None
        while self.goes_on():
            assert time.monotonic() < deadline, self.run.said()
            time.sleep(0.03)
            has_recovered = has_recovered or self._has_recovered()
            if due is None:
                if has_recovered and self._progress() >= wanted:
                    due = time.monotonic() + delay
            elif time.monotonic() >= due and self._kill(chance):
                return True
        return False

    def _progress(self) -> int:
        """Records that no strike made."""
        return sum(self.reason is None or one.get("reason") != self.reason for one in self.run.on_host())

    def _has_recovered(self) -> bool:
        """Whether the controller has a run, and what was killed has come again."""
        return self.run.directory is not None and (not self.strikes or bool(set(self._victims()) - set(self._killed)))

    def _victims(self) -> list[int]:
        if self.kind != "controller":
            return machine.victims(self.kind, self.run.lab.pid)
        return [self.controller.pid, *(process.pid for process in machine.below(self.controller.pid))]

    def _kill(self, chance: random.Random) -> bool:
        """Kill some that are there; whether any was."""
        if self.run.on_host():
            wait_until(
                is_quiet, SETTING_SECONDS, "a run under way changes a setting: otherwise nothing could come back"
            )
        pids = self._victims()
        if not pids or self.controller.poll() is not None:
            return False
        one = pids[0] if self.kind == "controller" else chance.choice(pids)
        chosen = pids if chance.random() < 0.5 else [one]
        every = self.run.on_host()
        reached = machine.kill(chosen, signal.SIGKILL)
        if not reached:
            return False
        self._tell()
        self.kept = every
        self.strikes += 1
        self._killed, self._ended = reached, False
        return True

    def _tell(self) -> None:
        """What came of the last strike, now that there is another one or the run is over; records that it found are as they were."""
        if self.strikes:
            self.run.expect_kept(self.kept)
            outcome = "the run ended, the same command went on with it" if self._ended else "the run went on by itself"
            self.told(outcome, len(self.kept))

    def complete(self) -> None:
        """Wait for its end, by the same command where it needs that, and look at all its records."""
        while True:
            self.run.end(self.controller)
            if not self.goes_on():
                break
        self.run.expect_complete(self.kept, allowed=(self.reason,) if self.reason else (), most=self.strikes)
        self._tell()


def begin(lab: Lab, place: Path, kind: str, points: int, chance: random.Random) -> Run:
    """A run that lasts for about so many points."""
    system = {"virtiofsd": "virtiofs_auto", "hostfsd": "myfs"}.get(kind) or chance.choice(SYSTEMS)
    # Some runs change more of the machine than others do.
    changes: dict[str, Any] = {"systems": [system], "device": [chance.choice(["as_is", "hdd"])]}
    if points > 1:
        blocks = max(1, round(points * TRIALS_PER_POINT / TRIALS))
        if kind not in REASONS or kind == "QEMU":
            changes["systems"] = chance.sample(SYSTEMS, min(blocks, len(SYSTEMS)))
        changes |= {"timed": READS, "repeats": max(1, blocks // len(changes["systems"]))}
    return Run(lab, place, slice_seconds=chance.choice([2, 20]), **changes)


@pytest.mark.parametrize("kind", [as_parameter(kind) for kind in VICTIMS])
@pytest.mark.parametrize("first", range(0, max(POINTS, 1), TOGETHER))
def test_killed(lab: Lab, tmp_path: Path, kind: str, first: int, told: Told) -> None:
    before = lab.snapshot()
    points = list(range(first, min(first + TOGETHER, max(POINTS, 1))))
    for attempt in range(RUNS):
        run = begin(lab, tmp_path / str(attempt), kind, len(points), draw("run", kind, first, attempt))
        killed = Killed(run, kind, told)
        while points and killed.strike(draw("kill", kind, points[0], attempt)):
            points.pop(0)
        killed.complete()
        lab.expect_quiet(before)
        if not points:
            return
    pytest.fail(f"{RUNS} runs were over before the drawn points {points}")
