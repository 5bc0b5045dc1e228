"""A KVM host played by files: a share of a few pages, and slices of trials on a testbed without guests."""

from __future__ import annotations

from typing import Any

import tiny
from ansible.module_utils.onecopy import plan as planning
from ansible.module_utils.onecopy import records, slices
from ansible.module_utils.onecopy.paths import HostPaths
from fake_testbed import FakeTestbed
from tiny import ABLE, RUN

EXPERIMENT = tiny.experiment(
    systems=["virtiofs_never", "virtiofs_auto"], host_cache=["cold", "warm"], residency=["cat"], timed=["cat"]
)


def plan() -> dict[str, Any]:
    return planning.make_plan(EXPERIMENT, ABLE)


def lay_out(paths: HostPaths) -> None:
    """The share that the plan's workloads read."""
    tiny.lay_out(paths)
    paths.run(RUN).mkdir(parents=True)


def go(paths: HostPaths, bed: FakeTestbed, seconds: float = 60.0) -> slices.Slice:
    """One slice of the plan."""
    return slices.run_slice(plan(), RUN, "box1", paths, seconds=seconds, bed=bed, drop_host=lambda: None)


def found(paths: HostPaths) -> list[dict[str, Any]]:
    """The records on the KVM host."""
    return records.read(paths.run(RUN) / "results.jsonl").records


def is_complete(every: list[dict[str, Any]]) -> bool:
    """Whether every trial of the plan has one record and is ok, or was disturbed by others on this machine."""
    return sorted(str(one["id"]) for one in every) == sorted(str(trial["id"]) for trial in plan()["trials"]) and all(
        one["status"] == "ok" or one["reason"] == "disturbed" for one in every
    )
