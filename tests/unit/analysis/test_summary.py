"""The summary is a function of the stored records, with the same bytes everywhere."""

from __future__ import annotations

import json
import random
import time
from pathlib import Path
from typing import Any

import invented
import jsonschema
import pytest
from ansible.module_utils.onecopy.analysis import stored_run, summary

PROJECT = Path(__file__).resolve().parents[3]
SCHEMA = json.loads((PROJECT / "reports/schema/summary.schema.json").read_text())
RECORD_SCHEMA = json.loads((PROJECT / "reports/schema/record.schema.json").read_text())
GOLDEN = PROJECT / "tests/golden/invented"


def summarised(directory: Path, claims: dict[str, Any], plan: dict[str, Any], records: list[dict[str, Any]]) -> Any:
    return summary.summarise(stored_run.load(invented.store(directory, plan, records)), claims)


def row(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, Any]:
    found = [entry for entry in rows if all(entry[key] == value for key, value in wanted.items())]
    assert len(found) == 1, found
    return found[0]


def test_the_golden_summary(claims: dict[str, Any]) -> None:
    found = summary.summarise(stored_run.load(GOLDEN), claims)
    assert summary.dump(found) == (GOLDEN / "summary.json").read_text()


def test_the_golden_run_is_what_the_generator_makes_and_its_records_are_valid() -> None:
    plan, records = invented.golden_run()
    assert json.loads((GOLDEN / "plan.json").read_text()) == json.loads(json.dumps(plan))
    stored = [json.loads(line) for line in (GOLDEN / "results.jsonl").read_text().splitlines()]
    assert stored == json.loads(json.dumps(records))
    validator = jsonschema.Draft202012Validator(RECORD_SCHEMA)
    for record in stored:
        validator.validate(record)


def test_it_fits_its_schema(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan = invented.plan(repeats=10)
    found = summarised(tmp_path, claims, plan, invented.records(plan))
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    jsonschema.Draft202012Validator(SCHEMA).validate(json.loads((GOLDEN / "summary.json").read_text()))


def test_the_order_of_records_and_hosts_files_does_not_matter(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan = invented.plan()
    records = invented.records(plan)
    first = summarised(tmp_path / "a", claims, plan, records)
    random.Random(3).shuffle(records)
    assert summary.dump(summarised(tmp_path / "b", claims, plan, records)) == summary.dump(first)
    (tmp_path / "b/results.jsonl").rename(tmp_path / "b/results-invented-host.jsonl")
    run = stored_run.load(tmp_path / "b")
    assert summary.dump(summary.summarise(run, claims)) == summary.dump(first)


def test_copies_are_what_their_definition_says(tmp_path: Path, claims: dict[str, Any]) -> None:
    def change(record: dict[str, Any]) -> None:
        if record["label"] == "gfs" and "copies" in record:
            record["copies"]["all"] = {
                "accessed_pages": 1000,
                "host_pages": 1010,
                "guest_pages": 985,
                "daemon_pages": 5,
            }
            record |= {"extra_pages": 30, "overhead_pages": 120}

    plan = invented.plan()
    found = summarised(tmp_path, claims, plan, invented.records(plan, change=change))
    gfs = row(found["copies"], label="gfs", part="all", host_cache="cold")
    assert gfs["copies"] == 2.0
    assert (gfs["copies_host"], gfs["copies_guest"], gfs["copies_daemon"]) == (1.01, 0.985, 0.005)
    assert (gfs["extra"], gfs["overhead"]) == (0.03, 0.12)
    assert (gfs["n"], gfs["low"], gfs["high"]) == (3, 2.0, 2.0)


def test_what_was_not_measured_is_absent_never_zero(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan = invented.plan(repeats=1)
    found = summarised(tmp_path, claims, plan, invented.records(plan))
    gfs = row(found["copies"], label="gfs", part="large", host_cache="cold")
    assert not {"low", "high", "extra", "overhead", "copies_physical"} & set(gfs)
    assert not {"low", "high"} & set(row(found["timings"], label="gfs", workload="cat", host_cache="cold"))
    assert found["aa"]["outcome"] == "no interval"


def test_trials_are_counted_by_what_became_of_them(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan, records = invented.golden_run()
    found = summarised(tmp_path, claims, plan, records[:-4])["trials"]
    assert (
        found["planned"]
        == len(plan["trials"])
        == found["ok"] + found["invalid"] + found["failed"] + found["timeout"] + 4
    )
    assert (found["invalid"], found["failed"], found["timeout"], found["pending"]) == (1, 1, 1, 4)
    assert found["unsupported"] == 2 * 2 * 3
    assert found["not_applicable"] == 2 * 3


def test_every_open_ledger_is_listed_whatever_its_trial_was(tmp_path: Path, claims: dict[str, Any]) -> None:
    def change(record: dict[str, Any]) -> None:
        if record["order"] in (4, 7, 9):
            # Of a probe or a timed trial too, which are not in the medians; and of one that is not ok.
            record["ledger"] = {
                "change": {"remainder_bytes": record["order"] * -(10 << 20)},
                "is_closed": record["order"] == 9,
            }
        if record["order"] == 7:
            record |= {"status": "invalid", "reason": "disturbed", "message": "invented"}

    plan = invented.plan(residency=[])
    trials = {trial["order"]: trial for trial in plan["trials"]}
    found = summarised(tmp_path, claims, plan, invented.records(plan, change=change))
    assert "memory" not in found
    assert [(entry["id"], entry["remainder_bytes"] >> 20, entry["status"]) for entry in found["open_ledgers"]] == [
        (trials[7]["id"], -70, "invalid"),
        (trials[4]["id"], -40, "ok"),
    ]
    jsonschema.Draft202012Validator(SCHEMA).validate(found)
    assert "open_ledgers" not in summarised(tmp_path / "none", claims, plan, invented.records(plan))


def test_a_torn_last_line_costs_one_trial_and_is_told(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan = invented.plan()
    directory = invented.store(tmp_path, plan, invented.records(plan))
    results = directory / "results.jsonl"
    results.write_bytes(results.read_bytes()[:-50])
    found = summary.summarise(stored_run.load(directory), claims)["trials"]
    assert (found["torn_lines"], found["pending"]) == (1, 1)


def test_a_resumed_boot_is_one_repetition(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan = invented.plan()
    records = invented.records(plan)
    for record in records[::2]:
        record["boot_id"] += "-resumed"
    found = summarised(tmp_path, claims, plan, records)
    assert {entry["n"] for entry in found["timings"]} == {3}


def test_hosts_are_never_pooled(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan = invented.plan()
    records = invented.records(plan) + invented.records(plan, host="invented-second", seed=2)
    found = summarised(tmp_path, claims, plan, records)
    assert found["hosts"] == ["invented-host", "invented-second"]
    assert found["trials"]["planned"] == 2 * len(plan["trials"]) == found["trials"]["ok"]
    assert {entry["n"] for entry in found["timings"]} == {3}


def test_outliers_are_flagged_and_kept(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan = invented.plan(repeats=6)
    records = invented.records(plan)
    odd = next(
        entry for entry in records if (entry["label"], entry["workload"], entry["kind"]) == ("gfs", "cat", "timed")
    )
    odd["result"]["wall_seconds"] *= 20
    timing = row(
        summarised(tmp_path, claims, plan, records)["timings"],
        label="gfs",
        workload="cat",
        host_cache=odd["host_cache"],
    )
    assert odd["id"] in timing["outliers"]
    assert timing["n"] == 6
    assert timing["high"] > 2 * timing["wall_seconds_median"]


def test_ten_boots_bring_the_bootstrap_and_an_adaptive_run_says_why_it_stopped(
    tmp_path: Path, claims: dict[str, Any]
) -> None:
    plan = invented.plan(repeats=10, timed=["cat"]) | {"adaptive": {"cap": 10, "half_width": 0.05, "minimum": 10}}
    found = summarised(tmp_path, claims, plan, invented.records(plan))
    timing = row(found["timings"], label="gfs", workload="cat", host_cache="cold")
    assert timing["bootstrap_low"] < timing["wall_seconds_median"] < timing["bootstrap_high"]
    assert timing["stopped_by"] == "half_width"
    stopped = row(found["adaptive"], label="gfs")
    assert (stopped["boots"], stopped["stopped_by"]) == (10, "half_width")
    assert stopped["half_width"] <= 0.05
    assert found["trials"]["left_out"] == found["trials"]["pending"] == 0


def test_what_an_adaptive_run_did_without_is_not_pending(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan = invented.plan(repeats=20, timed=["cat"]) | {"adaptive": {"cap": 20, "half_width": 0.05, "minimum": 10}}
    records = [record for record in invented.records(plan) if record["repeat"] < 10]
    found = summarised(tmp_path, claims, plan, records)["trials"]
    assert (found["left_out"], found["pending"]) == (len(plan["trials"]) - len(records), 0)
    assert found["planned"] == len(records)


def test_ten_thousand_records_take_seconds(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan = invented.plan(repeats=200)
    records = invented.records(plan)
    assert len(records) > 10_000
    directory = invented.store(tmp_path, plan, records)
    started = time.process_time()
    summary.summarise(stored_run.load(directory), claims)
    assert time.process_time() - started < 10


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda run: (run / "plan.json").unlink(), "is not there"),
        (lambda run: (run / "plan.json").write_text("{"), "cannot be read as JSON"),
        (lambda run: (run / "plan.json").write_text("[]"), "one JSON object"),
        (lambda run: (run / "plan.json").write_text('{"schema": 9}'), "format version 9"),
        (lambda run: (run / "manifest.json").unlink(), "is not there"),
        (lambda run: (run / "results.jsonl").write_text(""), "holds no record"),
        (lambda run: (run / "results.jsonl").unlink(), "holds no record"),
        (lambda run: (run / "results.jsonl").write_text('{"id": "x", "schema": 7}\n'), "format version 7"),
    ],
)
def test_a_damaged_run_is_one_clear_line(tmp_path: Path, damage: Any, message: str) -> None:
    plan = invented.plan()
    directory = invented.store(tmp_path, plan, invented.records(plan))
    damage(directory)
    with pytest.raises(stored_run.RunError, match=message) as caught:
        stored_run.load(directory)
    assert "\n" not in str(caught.value)
