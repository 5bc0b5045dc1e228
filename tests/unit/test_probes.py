"""Probes from the experiment file to the report, with a probe that is made here."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import tiny
from ansible.module_utils.onecopy import experiment, probes, progress, records, sample, slices
from ansible.module_utils.onecopy import plan as planning
from ansible.module_utils.onecopy.analysis import metrics
from ansible.module_utils.onecopy.paths import HostPaths
from ansible.module_utils.onecopy.probes import Probe, Probed, ProbeError, Scene
from fake_testbed import FakeTestbed
from tiny import ABLE, RUN

PROJECT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((PROJECT / "reports/schema/experiment.schema.json").read_text())
RECORD = jsonschema.Draft202012Validator(json.loads((PROJECT / "reports/schema/record.schema.json").read_text()))
EXPERIMENT = tiny.experiment(systems=["hfs", "virtiofs_auto", "virtiofs_never"])


def count_bytes(scene: Scene) -> Probed:
    scene.reach("cold", "cold")
    if scene.parameters["times"] == 0:
        raise ProbeError("nothing to read")
    for _ in range(scene.parameters["times"]):
        found = scene.read(scene.boot, "large")
    return Probed({"read_bytes": found["read_bytes"]}, {"bytes_by_time": [[0, 1.5]]})


def count_guests(scene: Scene) -> Probed:
    scene.reach("cold", "cold")
    alive = [boot for boot in scene.boots if boot.alive() is None]
    return Probed({"alive_count": len(alive), "names_count": len({boot.boot_id for boot in scene.boots})})


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsuitable(system: Any, parameters: Any) -> str | None:
        return "it keeps no pages" if system.virtiofs_cache == "never" else None

    monkeypatch.setitem(probes.PROBES, "count_guests", Probe("count_guests", count_guests))
    monkeypatch.setitem(probes.PROBES, "pair", Probe("pair", count_guests, min_guests=2))
    monkeypatch.setitem(probes.PROBES, "count_bytes", Probe("count_bytes", count_bytes, {"times": 1}, unsuitable))


def with_probes(*entries: Any, **changes: Any) -> dict[str, Any]:
    return experiment.validate(EXPERIMENT | {"probes": list(entries)} | changes, SCHEMA, "tiny.yml")


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("count_byte", "probes[0]: unknown probe 'count_byte': did you mean 'count_bytes'?"),
        ({"probe": "count_bytes", "time": 2}, "probes[0]: unknown parameter 'time': did you mean 'times'?"),
        ({"probe": "count_bytes", "times": "2"}, "probes[0].times: must be int, not '2'"),
        ({"probe": "count_bytes", "times": True}, "probes[0].times: must be int, not True"),
        ({"times": 2}, "probes[0]: key 'probe' is missing"),
        ({"probe": "count_bytes", "label": "Not good"}, "probes[0].label: 'Not good' is no name"),
    ],
)
def test_bad_input_is_one_line_that_names_the_place(entry: Any, message: str) -> None:
    with pytest.raises(experiment.ExperimentError) as error:
        with_probes(entry)
    assert message in str(error.value)
    assert "\n" not in str(error.value)


def test_two_probes_need_two_labels() -> None:
    with pytest.raises(experiment.ExperimentError, match=r"probes\[1\]: label 'count_bytes' is taken"):
        with_probes("count_bytes", {"probe": "count_bytes", "times": 2})
    twice = {"probe": "count_bytes", "label": "twice", "times": 2}
    assert [entry["parameters"] for entry in experiment.labelled_probes(with_probes("count_bytes", twice))] == [
        {"times": 1},
        {"times": 2},
    ]


def test_a_plan_leaves_out_who_cannot_be_probed_with_the_reason() -> None:
    plan = planning.make_plan(with_probes("count_bytes"), ABLE)
    assert [(trial["label"], trial["kind"], trial["workload"]) for trial in plan["trials"]] == [
        ("virtiofs_auto", "probe", "count_bytes")
    ]
    assert plan["probes"] == {"count_bytes": {"probe": "count_bytes", "parameters": {"times": 1}}}
    reasons = {item["label"]: item["reason"] for item in plan["excluded"]}
    assert reasons == {"hfs": "there is no guest to look into", "virtiofs_never": "it keeps no pages"}
    assert any("virtiofs_never with count_bytes" in line for line in progress.plan_lines(plan))
    assert plan["estimate_seconds"] > 0


def run_one(
    paths: HostPaths, tmp_path: Path, *entries: Any, guests: Sequence[int] = (1,), bed: FakeTestbed | None = None
) -> dict[str, Any]:
    plan = planning.make_plan(with_probes(*entries, systems=["virtiofs_auto"], guests=list(guests)), ABLE)
    tiny.lay_out(paths)
    paths.run(RUN).mkdir(parents=True)
    slices.run_slice(plan, RUN, "box1", paths, bed=bed or FakeTestbed(tmp_path), drop_host=lambda: None)
    (record,) = records.read(paths.run(RUN) / "results.jsonl").records
    RECORD.validate(record)
    return record


def test_a_probe_trial_records_what_it_found(disk_path: Path, tmp_path: Path) -> None:
    record = run_one(HostPaths(disk_path), tmp_path, "count_bytes")
    assert record["status"] == "ok", record
    assert record["probe"]["metrics"]["read_bytes"] >= 5000
    assert record["probe"]["series"] == {"bytes_by_time": [[0, 1.5]]}
    assert metrics.metric("probe.read_bytes").value(record) == record["probe"]["metrics"]["read_bytes"]
    assert "read_bytes" in progress.trial_line("box1", 1, 1, record, None)
    assert "overhead" not in record["phases"]


def test_a_probe_that_finds_nothing_out_is_a_failed_trial(disk_path: Path, tmp_path: Path) -> None:
    record = run_one(HostPaths(disk_path), tmp_path, {"probe": "count_bytes", "times": 0})
    assert (record["status"], record["reason"], record["message"]) == ("failed", "workload_failed", "nothing to read")


@pytest.mark.parametrize(
    ("counter", "voids"),
    [("pswpin", True), ("pswpout", True), ("oom_kill", True), ("drop_pagecache", False)],
)
@pytest.mark.parametrize("guests", [1, 17])
def test_a_host_that_ran_short_of_memory_voids_a_probes_trial(
    disk_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, counter: str, voids: bool, guests: int
) -> None:
    counters = dict.fromkeys(("pswpin", "pswpout", "oom_kill", "drop_pagecache"), 3)

    def disturb(scene: Scene) -> Probed:
        counters[counter] += 5
        return count_guests(scene)

    monkeypatch.setattr(sample, "host_disturbances", lambda: dict(counters))
    monkeypatch.setitem(probes.PROBES, "count_guests", Probe("count_guests", disturb))
    record = run_one(HostPaths(disk_path), tmp_path, "count_guests", guests=[guests])
    assert record["probe"]["metrics"]["alive_count"] == guests, "what was found is kept"
    if voids:
        assert (record["status"], record["reason"]) == ("invalid", "disturbed")
        assert f"({counter} rose by 5): it is short of memory" in record["message"]
    else:
        assert record["status"] == "ok", record


def test_a_fleet_is_one_boot_of_so_many_guests(disk_path: Path, tmp_path: Path) -> None:
    record = run_one(HostPaths(disk_path), tmp_path, "count_guests", guests=[3])
    assert record["status"] == "ok", record
    assert (record["guests"], record["probe"]["metrics"]) == (3, {"alive_count": 3, "names_count": 3})


def test_fleets_are_blocks_of_their_own_and_lone_guests_keep_their_names() -> None:
    alone = planning.make_plan(with_probes("count_guests"), ABLE)
    plan = planning.make_plan(with_probes("count_guests", guests=[4, 1, 2]), ABLE)
    blocks = [trial["block"] for trial in plan["trials"] if trial["label"] == "virtiofs_auto"]
    assert blocks == ["0-virtiofs_auto", "0-virtiofs_auto-x2", "0-virtiofs_auto-x4"]
    assert {trial["id"] for trial in alone["trials"]} < {trial["id"] for trial in plan["trials"]}
    specs = slices.boot_specs(plan, RUN, plan["trials"][-1])
    assert [spec.name[-2:] for spec in specs] == ["-1", "-2", "-3", "-4"]
    assert [slices.boot_specs(plan, RUN, plan["trials"][0])[0].is_one_of_many, specs[0].is_one_of_many] == [False, True]


def test_a_probe_that_needs_company_is_left_out_where_there_is_none() -> None:
    reasons = {item["reason"] for item in planning.make_plan(with_probes("count_guests", "pair"), ABLE)["excluded"]}
    assert "takes 2 guests at least" in reasons


def test_more_guests_than_the_memory_holds_are_left_out_beforehand() -> None:
    plan = planning.make_plan(with_probes("count_guests", guests=[1, 8]), ABLE | {"memory_mib": 3000})
    assert {trial["guests"] for trial in plan["trials"]} == {1}
    (reason,) = {item["reason"] for item in plan["excluded"] if item.get("guests") == 8 and item["label"] != "hfs"}
    assert reason == "8 guests may need 3072 MiB, and this host has 3000 MiB: fewer guests, or smaller ones"


def test_several_guests_without_a_probe_are_refused() -> None:
    document = with_probes("count_bytes") | {"guests": [1, 2], "timed": ["cat"]}
    del document["probes"]
    with pytest.raises(experiment.ExperimentError, match="guests: several guests at once are for probes"):
        experiment.validate(document, SCHEMA, "it.yml")


def test_a_guest_of_a_fleet_that_does_not_start_is_named(disk_path: Path, tmp_path: Path) -> None:
    record = run_one(
        HostPaths(disk_path), tmp_path, "count_guests", guests=[2], bed=FakeTestbed(tmp_path, fail_boots=6)
    )
    assert (record["status"], record["reason"]) == ("failed", "guest_not_ready")
    assert "guest 1 of 2" in record["message"]


@pytest.mark.parametrize("fail_boots", [1, 2])
def test_the_others_of_a_fleet_stay_when_guests_are_booted_again(
    disk_path: Path, tmp_path: Path, fail_boots: int
) -> None:
    bed = FakeTestbed(tmp_path, fail_boots=fail_boots)
    record = run_one(HostPaths(disk_path), tmp_path, "count_guests", guests=[3], bed=bed)
    assert record["status"] == "ok", record
    assert sorted(boot.name[-2:] for boot in bed.booted) == ["-1", "-2", "-3"]
    assert bed.swept == 2, "before the boots and at the end"
