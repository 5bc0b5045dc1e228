"""A clock that jumps: dates in records are for people, nothing is decided by them. No guest is needed for it."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import run_directory, trial
from ansible.module_utils.onecopy.analysis import reporting, stored_run
from ansible.module_utils.onecopy.paths import HostPaths
from fake_testbed import FakeTestbed, Points
from fakes import found, go, is_complete, plan
from points import CHEAP, Told, draw

PROJECT = Path(__file__).resolve().parents[2]
DAY = 86400.0
STEPS = 100


class Clock:
    """The machine's clock, which can be set."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self._offset = 0.0
        real = time.time

        class Set(datetime):
            @classmethod
            def now(cls, tz: object = None) -> datetime:
                return datetime.fromtimestamp(real() + self._offset, UTC)

        monkeypatch.setattr(time, "time", lambda: real() + self._offset)
        monkeypatch.setattr(trial, "datetime", Set)
        self.now = Set.now

    def jump(self, seconds: float) -> None:
        self._offset += seconds


@pytest.mark.fault("clock that jumps")
@pytest.mark.parametrize("point", range(CHEAP))
def test_clock_jumps(host: HostPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, point: int, told: Told) -> None:
    clock, chance = Clock(monkeypatch), draw("clock", point)
    run, _ = run_directory.find_or_start(tmp_path, plan(), ["box1"], PROJECT, now=clock.now())
    jumps = {step: chance.uniform(-400 * DAY, 400 * DAY) for step in chance.sample(range(1, STEPS), 10)}
    points = Points({step: lambda by=by: clock.jump(by) for step, by in jumps.items()})
    while go(host, FakeTestbed(host.state, points), seconds=0).remaining:
        # The same command, at another time: it finds its run, and fetches what is there.
        again, is_old = run_directory.find_or_start(tmp_path, plan(), ["box1"], PROJECT, now=clock.now())
        assert (again, is_old) == (run, True)
        run.add_records("box1", found(host))
    assert points.passed > STEPS

    every = found(host)
    assert is_complete(every)
    begun = [datetime.fromisoformat(record["started_at"]) for record in every]
    assert max(begun) - min(begun) > timedelta(days=1), "the clock did not jump"
    seconds = [value for record in every for value in (*record["phases"].values(), record["result"]["wall_seconds"])]
    assert all(0 <= value < 20 for value in seconds)
    run.add_records("box1", every)
    assert [one["order"] for one in stored_run.load(run.path).records] == list(range(len(every)))
    made = reporting.make(run.path, PROJECT / "experiments/claims.yml", PROJECT / "roles/report/templates")
    assert {"summary.json", "report.html"} <= set(made.files)

    run.update_host("box1", lambda entry: entry.update(finished_at="x"))
    earlier, is_old = run_directory.find_or_start(
        tmp_path, plan(), ["box1"], PROJECT, now=datetime(2011, 1, 1, tzinfo=UTC) + timedelta(seconds=point)
    )
    assert not is_old
    assert earlier.run_id < run.run_id
    told("every trial once, in the plan's order, no duration touched")
