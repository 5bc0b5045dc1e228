"""Probes from the experiment file to the report, with a probe that is made here."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ansible.module_utils.onecopy import experiment, probes, progress, records, slices
from ansible.module_utils.onecopy import plan as planning
from ansible.module_utils.onecopy.analysis import metrics
from ansible.module_utils.onecopy.paths import HostPaths
from ansible.module_utils.onecopy.probes import Probe, Probed, ProbeError, Scene
from fake_testbed import FakeTestbed, Points

PROJECT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((PROJECT / "reports/schema/experiment.schema.json").read_text())
RECORD = jsonschema.Draft202012Validator(json.loads((PROJECT / "reports/schema/record.schema.json").read_text()))
EXPERIMENT: dict[str, Any] = {
    "name": "tiny",
    "description": "for tests",
    "seed": 1,
    "repeats": 1,
    "guest": {"memory_mib": 256, "cpus": 1},
    "dataset": {"name": "tiny", "large_mib": 1, "large_files": 1, "small_mib": 1, "small_files": 5, "seed": 1},
    "systems": ["hfs", "virtiofs_auto", "virtiofs_never"],
    "host_cache": ["cold"],
    "guest_cache": ["cold"],
    "timeout_seconds": 20,
}
ABLE = {"accelerator": "tcg", "qemu": {"supported": True}, "virtiofsd": {"supported": True}}
RUN = "20260101T000000Z"


def count_bytes(scene: Scene) -> Probed:
    scene.reach("cold", "cold")
    if scene.parameters["times"] == 0:
        raise ProbeError("nothing to read")
    for _ in range(scene.parameters["times"]):
        found = scene.read(scene.boot, "large")
    return Probed({"read_bytes": found["read_bytes"]}, {"bytes_by_time": [[0, 1.5]]})


@pytest.fixture(autouse=True)
def table(monkeypatch: pytest.MonkeyPatch) -> None:
    def unsuitable(system: Any, parameters: Any) -> str | None:
        return "it keeps no pages" if system.virtiofs_cache == "never" else None

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


def run_one(paths: HostPaths, tmp_path: Path, *entries: Any) -> dict[str, Any]:
    plan = planning.make_plan(with_probes(*entries, systems=["virtiofs_auto"]), ABLE)
    for tree in "ab":
        for part in ("large", "small"):
            directory = paths.share("tiny") / "data" / tree / part
            directory.mkdir(parents=True)
            (directory / "file").write_bytes(b"x" * 5000)
    (paths.share("tiny") / "scratch").mkdir()
    paths.run(RUN).mkdir(parents=True)
    bed = FakeTestbed(tmp_path / "bed", Points())
    (tmp_path / "bed").mkdir()
    slices.run_slice(plan, RUN, "box1", paths, bed=bed, drop_host=lambda: None)
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
