"""The controller's loop over slices, with the KVM host played by slices on a fake testbed."""

from __future__ import annotations

import importlib.util
import os
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from ansible.errors import AnsibleActionFail
from ansible.module_utils.onecopy import plan as planning
from ansible.module_utils.onecopy import records, run_directory, slices
from ansible.module_utils.onecopy.paths import HostPaths
from ansible.plugins.action import ActionBase
from fake_testbed import FakeTestbed
from tiny import ABLE

PROJECT = Path(__file__).resolve().parents[2]
EXPERIMENT = tiny.experiment(systems=["virtiofs_auto", "virtiofs_never"], timed=["cat"])


@pytest.fixture
def paths(disk_path: Path) -> HostPaths:
    found = HostPaths(disk_path)
    tiny.lay_out(found)
    return found


class Loop:
    """The action plugin with its calls to the host answered here; ``seconds`` are per slice."""

    def __init__(self, plan: dict[str, Any], paths: HostPaths, tmp_path: Path, seconds: float) -> None:
        spec = importlib.util.spec_from_file_location("trials_action", PROJECT / "action_plugins/trials.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self.run, _ = run_directory.find_or_start(tmp_path, plan, ["box1"], PROJECT, now=datetime.now(UTC))
        self.action = module.ActionModule.__new__(module.ActionModule)
        self.action.host, self.action.plan, self.action._call = "box1", plan, self.call
        self.plan, self.paths, self.seconds = plan, paths, seconds
        self.bed = FakeTestbed(paths.state, answer={"wall_seconds": 1.0})
        self.slices: list[slices.Slice] = []
        paths.run(self.run.run_id).mkdir(parents=True)

    def call(self, step: str, slice_seconds: float, skip: int, leave_out: list[str]) -> dict[str, Any]:
        assert step == "work"
        assert len(self.slices) < 100, "the loop does not end"
        done = slices.run_slice(
            self.plan,
            self.run.run_id,
            "box1",
            self.paths,
            seconds=self.seconds,
            leave_out=leave_out,
            bed=self.bed,
            drop_host=lambda: None,
        )
        self.slices.append(done)
        every = records.read(self.paths.run(self.run.run_id) / "results.jsonl").records
        return {
            "records": every[skip:],
            "lines": len(every),
            "remaining": done.remaining,
            "boots": done.boots,
        }

    def work(self) -> list[dict[str, Any]]:
        self.action._work(self.run, 20)
        return self.run.records("box1")


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_a_fixed_number_of_boots(paths: HostPaths, tmp_path: Path, seconds: float) -> None:
    loop = Loop(planning.make_plan(EXPERIMENT | {"repeats": 2}, ABLE), paths, tmp_path, seconds)
    assert len(loop.work()) == 4
    assert len(loop.slices) == (4 if seconds == 0 else 1)


@pytest.mark.parametrize("seconds", [0.0, 60.0])
def test_an_adaptive_run_stops_before_its_cap(
    paths: HostPaths, tmp_path: Path, seconds: float, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = planning.make_plan({**EXPERIMENT, "repeats": None, "adaptive": {"cap": 8}}, ABLE)
    loop = Loop(plan, paths, tmp_path, seconds)
    every = loop.work()
    assert [record["repeat"] for record in every] == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]
    assert all(record["status"] == "ok" for record in every), every
    assert len(loop.bed.booted) == 10
    assert not loop.bed.alive()
    assert "10/10" in capsys.readouterr().out
    # The same command again finds nothing to do.
    assert loop.work() == every
    assert len(loop.bed.booted) == 10


def test_a_full_disk_on_the_controller_is_one_line(
    paths: HostPaths, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loop = Loop(planning.make_plan(EXPERIMENT | {"repeats": 1}, ABLE), paths, tmp_path, 60.0)
    arguments = {"plan": loop.plan, "reports_directory": str(tmp_path)}
    monkeypatch.setattr(loop.action, "_task", SimpleNamespace(args=arguments), raising=False)
    monkeypatch.setattr(ActionBase, "run", lambda self, tmp, task_vars: {})
    monkeypatch.setattr(loop.action, "_work", lambda run, seconds: os.write(full, b"x"))
    monkeypatch.setattr(loop.action, "_call", lambda step, **arguments: {"facts": {}})
    full = os.open("/dev/full", os.O_WRONLY)
    with pytest.raises(AnsibleActionFail, match=r"No space left on device: .* run the same command to go on") as caught:
        loop.action.run(task_vars={"inventory_hostname": "box1"})
    assert str(caught.value).startswith(f"{tmp_path}: ")
    assert "\n" not in str(caught.value)
