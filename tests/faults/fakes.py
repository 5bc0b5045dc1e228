"""A KVM host played by files: a share of a few pages, and slices of trials on a testbed without guests."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.onecopy import plan as planning
from ansible.module_utils.onecopy import records, slices
from ansible.module_utils.onecopy.paths import HostPaths
from fake_testbed import FakeTestbed

RUN = "20260101T000000Z"
EXPERIMENT: dict[str, Any] = {
    "name": "tiny",
    "description": "for tests",
    "seed": 1,
    "repeats": 1,
    "guest": {"memory_mib": 256, "cpus": 1},
    "dataset": {"name": "tiny", "large_mib": 1, "large_files": 1, "small_mib": 1, "small_files": 5, "seed": 1},
    "systems": ["virtiofs_never", "virtiofs_auto"],
    "host_cache": ["cold", "warm"],
    "guest_cache": ["cold"],
    "residency": ["cat"],
    "timed": ["cat"],
    "timeout_seconds": 20,
}
ABLE = {"accelerator": "tcg", "qemu": {"supported": True}, "virtiofsd": {"supported": True}}


def plan() -> dict[str, Any]:
    return planning.make_plan(EXPERIMENT, ABLE)


def lay_out(paths: HostPaths) -> None:
    """The share that the plan's workloads read."""
    for part in ("a/large", "a/small", "b/large", "b/small"):
        directory = paths.share("tiny") / "data" / part
        directory.mkdir(parents=True)
        (directory / "file").write_bytes(b"x" * 5000)
    (paths.share("tiny") / "scratch").mkdir()
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
