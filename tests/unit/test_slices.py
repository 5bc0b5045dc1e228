"""Slices of trials on a fake testbed: records of every end, and nothing lost or done twice when killed at any point."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import time
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tiny
from ansible.module_utils.onecopy import ledger, records, slices
from ansible.module_utils.onecopy import plan as planning
from ansible.module_utils.onecopy.host_data import ImageData, ShareData
from ansible.module_utils.onecopy.paths import HostPaths
from ansible.module_utils.onecopy.probes import PROBES, Probed, Scene
from fake_testbed import FakeTestbed, Points
from tiny import ABLE, RUN

PROJECT = Path(__file__).resolve().parents[2]
RECORD = jsonschema.Draft202012Validator(json.loads((PROJECT / "reports/schema/record.schema.json").read_text()))
EXPERIMENT = tiny.experiment(
    systems=["hfs", "virtiofs_never", "virtiofs_auto"], host_cache=["cold", "warm"], residency=["cat"], timed=["cp"]
)


@pytest.fixture
def paths(disk_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostPaths:
    # The longer a trial takes, the more often another program of this machine drops the page cache in it.
    monkeypatch.setattr(ledger, "_PAUSE_SECONDS", 0.0)
    found = HostPaths(disk_path)
    for tree in "ab":
        for part, names, size in (("large", 1, 300_000), ("small", 5, 3000)):
            directory = found.share("tiny") / "data" / tree / part
            directory.mkdir(parents=True)
            for name in range(names):
                (directory / str(name)).write_bytes(b"x" * size)
    (found.share("tiny") / "scratch").mkdir()
    found.run(RUN).mkdir(parents=True)
    return found


def make(**changes: Any) -> dict[str, Any]:
    return planning.make_plan(EXPERIMENT | changes, ABLE)


def go(plan: dict[str, Any], paths: HostPaths, bed: FakeTestbed, seconds: float = 60.0) -> slices.Slice:
    return slices.run_slice(plan, RUN, "box1", paths, seconds=seconds, bed=bed, drop_host=lambda: None)


def found(paths: HostPaths) -> list[dict[str, Any]]:
    every = records.read(paths.run(RUN) / "results.jsonl").records
    for record in every:
        RECORD.validate(record)
    return every


def test_whole_plan(paths: HostPaths) -> None:
    plan, bed = make(), FakeTestbed(paths.state)
    result = go(plan, paths, bed)
    every = found(paths)
    assert (result.done, result.remaining) == (12, 0)
    assert [record["id"] for record in every] == [trial["id"] for trial in plan["trials"]]
    assert {record["status"] for record in every} == {"ok"}, [record.get("message") for record in every]
    assert [boot["label"] for boot in result.boots] == list(dict.fromkeys(trial["label"] for trial in plan["trials"]))
    assert {boot["hello_seconds"] for boot in result.boots} == {7.1}
    assert not bed.alive()
    assert {record["accelerator"] for record in every if record["system"] == "hfs"} == {"none"}


@pytest.mark.parametrize(("system", "expected"), [("hfs", 1.0), ("virtiofs_never", 1.0), ("virtiofs_auto", 2.0)])
def test_copies(paths: HostPaths, system: str, expected: float) -> None:
    go(make(systems=[system], timed=[]), paths, FakeTestbed(paths.state))
    for record in found(paths):
        assert set(record["copies"]) == {"all", "large", "small"}
        for counted in record["copies"].values():
            assert (counted["host_pages"] + counted["guest_pages"]) / counted["accessed_pages"] == expected
        # The twin was warmed with the rest where the host is warm.
        assert record["extra_pages"] == (0 if record["host_cache"] == "cold" else 79)


def test_slice_ends_after_one_trial_when_its_time_is_over_and_the_guest_stays(paths: HostPaths) -> None:
    plan, bed = make(systems=["virtiofs_auto"]), FakeTestbed(paths.state)
    assert [go(plan, paths, bed, seconds=0).remaining for _ in plan["trials"]] == [3, 2, 1, 0]
    assert len(bed.booted) == 1
    assert len({record["boot_id"] for record in found(paths)}) == 1


def test_unfinished_workload_is_a_timeout(paths: HostPaths) -> None:
    own = {"slow": {"pipeline": [["sleep", "60"]], "reads": {"part": "none"}}}
    go(
        make(systems=["hfs"], host_cache=["cold"], residency=[], timed=["slow"], workloads=own, timeout_seconds=1),
        paths,
        FakeTestbed(paths.state),
    )
    (record,) = found(paths)
    assert (record["status"], record["reason"]) == ("timeout", "workload_timeout")


def test_state_that_cannot_be_reached_is_invalid_with_its_figures(paths: HostPaths) -> None:
    bed = FakeTestbed(paths.state, sticky=True)
    go(make(systems=["virtiofs_auto"], timed=[]), paths, bed)
    first, second = found(paths)
    assert first["status"] == "ok"
    assert (second["status"], second["reason"]) == ("invalid", "state_missed")
    assert second["reached"]["tries"] == 3
    assert second["reached"]["guest"]["resident_pages"] == second["reached"]["guest"]["pages"]
    assert "guest cold: 79 of 79 pages are resident, 0 were wanted after 3 tries" in second["message"]


def test_workload_that_read_too_little_is_invalid(paths: HostPaths) -> None:
    bed = FakeTestbed(paths.state, answer={"read_bytes": 100})
    go(make(systems=["hfs"], host_cache=["cold"], timed=[]), paths, bed)
    (record,) = found(paths)
    assert (record["status"], record["reason"]) == ("invalid", "bytes_missed")
    assert record["message"].startswith("read 100 bytes where 315000 to ")


def test_workload_that_wrote_too_little_is_invalid(paths: HostPaths) -> None:
    bed = FakeTestbed(paths.state, answer={"written_bytes": 100})
    own = {"writing": {"pipeline": [["true"]], "reads": {"part": "none"}, "writes": True, "written_bytes": 1 << 20}}
    go(make(systems=["hfs"], host_cache=["cold"], residency=[], timed=["writing"], workloads=own), paths, bed)
    (record,) = found(paths)
    assert (record["status"], record["reason"]) == ("invalid", "bytes_missed")
    assert record["message"] == "wrote 100 bytes where at least 1048576 were expected"


def test_wrong_exit_code_is_a_failure_with_the_last_words(paths: HostPaths) -> None:
    own = {"broken": {"pipeline": [["ls", "/no/such/place"]], "reads": {"part": "none"}}}
    go(
        make(systems=["hfs"], host_cache=["cold"], residency=[], timed=["broken"], workloads=own),
        paths,
        FakeTestbed(paths.state),
    )
    (record,) = found(paths)
    assert (record["status"], record["reason"]) == ("failed", "workload_failed")
    assert "exit codes [2], [0] are right" in record["message"]
    assert "No such file" in record["message"]


@pytest.mark.parametrize("dies_slowly", [False, True])
@pytest.mark.parametrize("reason", ["daemon_died", "guest_died"])
def test_death_fails_that_trial_alone_and_boots_anew(paths: HostPaths, reason: str, dies_slowly: bool) -> None:
    """``dies_slowly``: the connection to the guest ends a moment before its process does."""
    plan = make(systems=["virtiofs_auto"])
    points = Points()
    bed = FakeTestbed(paths.state, points)

    def die() -> None:
        bed.booted[-1].dead = (reason, "last line of the console")
        bed.booted[-1].dies_slowly = dies_slowly

    points.at[40] = die
    result = go(plan, paths, bed)
    every = found(paths)
    failed = [record for record in every if record["status"] != "ok"]
    assert [(record["status"], record["reason"], record["message"]) for record in failed] == [
        ("failed", reason, "last line of the console")
    ]
    assert result.remaining == 0
    assert len(bed.booted) == 2


@pytest.mark.parametrize("reason", ["guest_died", "guest_not_ready"])
def test_what_a_shutdown_of_the_host_breaks_is_no_result(paths: HostPaths, reason: str) -> None:
    plan = make(systems=["virtiofs_auto"])
    bed, goes_down = FakeTestbed(paths.state, Points()), []

    def go_down() -> None:
        goes_down.append(True)
        bed.booted[-1].dead = ("guest_died", "powered off")

    if reason == "guest_died":
        bed.points.at[40] = go_down
    else:
        bed.fail_boots = 1
        goes_down.append(True)
    with pytest.raises(slices.SliceError, match="this host is being shut down"):
        slices.run_slice(plan, RUN, "box1", paths, bed=bed, drop_host=lambda: None, is_stopping=lambda: bool(goes_down))
    assert {record["status"] for record in found(paths)} <= {"ok"}
    again = FakeTestbed(paths.state)
    assert go(plan, paths, again).remaining == 0
    assert [record["status"] for record in found(paths)] == ["ok"] * len(plan["trials"])


def test_a_guest_that_dies_in_a_fleet_is_a_record_with_its_console_and_the_figures_of_the_others(
    paths: HostPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    bed = FakeTestbed(paths.state)

    def run(scene: Scene) -> Probed:
        if scene.trial["repeat"]:
            return Probed({"copies_ratio": 1.0})
        second = next(boot for boot in bed.booted if boot.name.endswith("-2"))  # they start at the same time
        second.dead = ("guest_died", "signal 9; console: last line of the console")
        return Probed({"copies_ratio": 1.5}, notes="guests 2 were lost", lost=[2])

    monkeypatch.setitem(PROBES, "density", dataclasses.replace(PROBES["density"], run=run))
    plan = make(systems=["virtiofs_auto"], residency=[], timed=[], probes=["density"], guests=[3], repeats=2)
    result = go(plan, paths, bed)
    assert result.remaining == 0
    first, *others = result.boots[:3]
    assert first["command_lines"]
    assert [(boot["like"], "command_lines" in boot) for boot in others] == [(first["boot_id"], False)] * 2
    lost, after = found(paths)
    assert (lost["status"], lost["reason"]) == ("failed", "guest_died")
    assert lost["message"] == "guest 2 of 3: signal 9; console: last line of the console"
    assert lost["console"][-1] == "[    2.0] last line of the console"
    assert lost["probe"] == {"metrics": {"copies_ratio": 1.5}, "notes": "guests 2 were lost"}
    assert after["status"] == "ok"


@pytest.mark.parametrize(
    ("boot_reason", "reason"),
    [("guest_not_ready", "guest_not_ready"), ("guest_died", "guest_died"), ("of_another_runner", "internal")],
)
def test_block_is_given_up_for_its_third_failed_boot(paths: HostPaths, boot_reason: str, reason: str) -> None:
    plan = make(systems=["virtiofs_auto", "hfs"])
    bed = FakeTestbed(paths.state, fail_boots=3, boot_reason=boot_reason)
    result = go(plan, paths, bed)
    first = plan["trials"][0]["block"]
    every = found(paths)
    assert result.remaining == 0
    assert {(record["block"] == first, record["status"], record.get("reason")) for record in every} == {
        (True, "failed", reason),
        (False, "ok", None),
    }
    assert "3 boots of" in every[0]["message"]
    assert "Kernel panic" in every[0]["message"]
    assert every[0]["console"] == ["[    1.0] Kernel panic"]


def test_failed_boots_are_counted_over_slices(paths: HostPaths) -> None:
    plan = make(systems=["virtiofs_auto"])
    bed = FakeTestbed(paths.state, fail_boots=3)
    assert [go(plan, paths, bed, seconds=0).remaining for _ in range(3)] == [4, 4, 0]


def test_missing_data_set_is_one_line(paths: HostPaths) -> None:
    shutil.rmtree(paths.share("tiny"))
    with pytest.raises(
        slices.SliceError, match=r"a/large: No such file or directory: make the data set \(role dataset\) first\Z"
    ):
        go(make(), paths, FakeTestbed(paths.state))


def test_missing_image_is_one_line(paths: HostPaths) -> None:
    with pytest.raises(slices.SliceError, match=r"tiny.images.json: knows no image of gfs: make the images"):
        go(make(systems=["gfs"]), paths, FakeTestbed(paths.state))


def test_slice_of_a_run_that_was_not_started_is_one_line(paths: HostPaths) -> None:
    paths.run(RUN).rmdir()
    with pytest.raises(slices.SliceError, match="start the run first"):
        go(make(), paths, FakeTestbed(paths.state))


def test_second_repeat_never_takes_over_the_boot_of_the_first(paths: HostPaths) -> None:
    plan = make(systems=["hfs"], repeats=2)
    specs = {trial["block"]: slices.boot_specs(plan, RUN, trial)[0] for trial in plan["trials"]}
    assert specs["0-hfs"] != specs["1-hfs"]


def _child(plan: dict[str, Any], paths: HostPaths, points: Points, seconds: float) -> int:
    """Run one slice in a process of its own; its exit status."""
    pid = os.fork()
    if pid == 0:
        try:
            go(plan, paths, FakeTestbed(paths.state, points), seconds)
        except BaseException:
            os._exit(1)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])


STEPS = 119


def test_number_of_steps(paths: HostPaths) -> None:
    points = Points()
    go(make(systems=["hfs", "virtiofs_auto"], timed=["cat"]), paths, FakeTestbed(paths.state, points))
    assert points.passed == STEPS


# A stride that shares no factor with the steps of a trial meets every kind of step.
@pytest.mark.parametrize("step", range(1, STEPS + 1, 5))
def test_killed_at_any_point_nothing_is_lost_or_done_twice(paths: HostPaths, step: int) -> None:
    plan = make(systems=["hfs", "virtiofs_auto"], timed=["cat"])
    results, log = paths.run(RUN) / "results.jsonl", paths.state / "runs.log"

    assert _child(plan, paths, Points({step: lambda: os._exit(9)}), 60.0) == 9
    before = results.read_bytes() if results.exists() else b""
    run_before = log.read_text().splitlines() if log.exists() else []
    assert _child(plan, paths, Points(), 60.0) == 0

    assert results.read_bytes().startswith(before)
    assert [record["id"] for record in found(paths)] == [trial["id"] for trial in plan["trials"]]
    # At most the one trial that was under way ran twice.
    assert len(log.read_text().splitlines()) <= len(plan["trials"]) + 1
    assert len(run_before) - before.count(b"\n") in (0, 1)
    assert not (paths.state / "alive.json").exists()


@pytest.mark.parametrize("cut", [1, 2, 50, 400])
def test_torn_record_is_run_again(paths: HostPaths, cut: int) -> None:
    plan = make(systems=["hfs"])
    go(plan, paths, FakeTestbed(paths.state))
    results = paths.run(RUN) / "results.jsonl"
    results.write_bytes(results.read_bytes()[: -cut - 1])
    go(plan, paths, FakeTestbed(paths.state))
    assert Counter(record["id"] for record in found(paths)) == Counter(trial["id"] for trial in plan["trials"])


def test_orphan_slice_is_ended_first(paths: HostPaths) -> None:
    own = {"slow": {"pipeline": [["sleep", "60"]], "reads": {"part": "none"}}}
    slow = make(systems=["hfs"], host_cache=["cold"], residency=[], timed=["slow"], workloads=own, timeout_seconds=60)
    pid = os.fork()
    if pid == 0:
        go(slow, paths, FakeTestbed(paths.state))
        os._exit(0)
    deadline = time.monotonic() + 20
    while not (paths.state / "runs.log").exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    quick = make(systems=["hfs"])
    assert go(quick, paths, FakeTestbed(paths.state)).remaining == 0
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -15


def test_a_root_on_the_data_is_cold_on_the_host_before_anybody_starts(
    paths: HostPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems = [{"system": "virtiofs_auto", "options": {"root": "data"}}]
    plan = planning.make_plan(EXPERIMENT | {"systems": systems, "host_cache": ["cold"]}, ABLE)
    bed = FakeTestbed(paths.state)
    resident: list[int] = []
    boot = bed.boot

    def watched(*arguments: Any) -> Any:
        resident.append(ShareData(paths.share("tiny") / "data").residency().resident_pages)
        return boot(*arguments)

    monkeypatch.setattr(bed, "boot", watched)
    ShareData(paths.share("tiny") / "data").prefetch()
    go(plan, paths, bed)
    assert resident == [0]
    assert {record["status"] for record in found(paths)} == {"ok"}


def test_a_host_whose_cache_cannot_be_emptied_boots_nobody_from_it(
    paths: HostPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    systems = [{"system": "virtiofs_auto", "options": {"root": "data"}}]
    plan = planning.make_plan(EXPERIMENT | {"systems": systems, "host_cache": ["cold"]}, ABLE)
    bed = FakeTestbed(paths.state)
    monkeypatch.setattr(ShareData, "evict", lambda self, pids: self.prefetch())
    go(plan, paths, bed)
    assert not bed.booted
    assert all("stay in the host's cache" in record["message"] for record in found(paths))


def test_what_guests_have_of_their_own_is_not_looked_for_before_their_boot(
    paths: HostPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = paths.image("tiny", "gfs_shared_base")
    image.parent.mkdir(parents=True)
    image.write_bytes(b"x" * 40960)
    paths.image_manifest("tiny").parent.mkdir(parents=True, exist_ok=True)
    paths.image_manifest("tiny").write_text(json.dumps({"gfs_shared_base": {"ranges": {}}}))
    systems = [{"system": "gfs_shared_base", "options": {"root": "data"}}]
    plan = planning.make_plan(EXPERIMENT | {"systems": systems, "host_cache": ["cold"]}, ABLE)
    bed = FakeTestbed(paths.state)
    resident: list[int] = []
    boot = bed.boot

    def watched(*arguments: Any) -> Any:
        resident.append(ImageData(image, {}).residency().resident_pages)
        return boot(*arguments)

    monkeypatch.setattr(bed, "boot", watched)
    ImageData(image, {}).prefetch()
    go(plan, paths, bed)
    assert resident == [0]
