"""A trial's own overhead, by kind."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from ansible.module_utils.onecopy import overhead


def record(kind: str, seconds: float, status: str = "ok") -> dict[str, Any]:
    return {
        "id": "0",
        "kind": kind,
        "accelerator": "tcg",
        "status": status,
        "phases": {"overhead": seconds, "workload": 9.0},
    }


RECORDS = [record("timed", 0.1), record("timed", 0.3), record("timed", 9.0, "failed"), record("residency", 2.0)]


def test_only_trials_that_count_are_counted() -> None:
    residency, timed = overhead.by_kind(RECORDS)
    assert (timed["n"], timed["median_seconds"], timed["max_seconds"], timed["is_within"]) == (2, 0.2, 0.3, True)
    assert (residency["n"], residency["is_within"]) == (1, False)
    assert "EXCEEDED" in overhead.lines([residency])[0]
    assert "limit 1.5 s: kept" in overhead.lines([timed])[0]


def test_the_newest_run_is_read(run_module: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    assert run_module("trial_overhead_info", reports_directory=str(tmp_path))["kinds"] == []
    results = tmp_path / "smoke/20260101T000000Z/results.jsonl"
    results.parent.mkdir(parents=True)
    results.write_text("".join(json.dumps(each) + "\n" for each in RECORDS))
    found = run_module("trial_overhead_info", reports_directory=str(tmp_path))
    assert found["results"] == str(results)
    assert [kind["kind"] for kind in found["kinds"]] == ["residency", "timed"]


def test_boots_with_one_guest_tell_when_it_was_ready(run_module: Callable[..., dict[str, Any]], tmp_path: Path) -> None:
    boots: list[dict[str, Any]] = [
        {"boot_id": "a", "system": "gfs", "hello_seconds": 7.0, "command_lines": {}},
        {"boot_id": "b", "system": "myfs", "hello_seconds": 9.5, "command_lines": {}},
        {"boot_id": "c", "system": "hfs", "hello_seconds": 0.5, "command_lines": {}},
        {"boot_id": "d", "system": "gfs", "hello_seconds": 60.0, "command_lines": {}},
        {"boot_id": "e", "system": "gfs", "hello_seconds": 60.0, "like": "d"},
        {"boot_id": "f", "system": "gfs", "command_lines": {}},
    ]
    manifest = {"accelerator": "tcg", "hosts": {"box1": {"boots": boots}}}
    (row,) = overhead.readiness(manifest)
    assert (row["n"], row["median_seconds"], row["max_seconds"], row["is_within"]) == (2, 8.25, 9.5, False)
    assert overhead.readiness({"accelerator": "tcg", "hosts": {"box1": {"boots": boots[2:]}}}) == []
    directory = tmp_path / "smoke/20260101T000000Z"
    directory.mkdir(parents=True)
    (directory / "results.jsonl").write_text(json.dumps(RECORDS[0]) + "\n")
    (directory / "manifest.json").write_text(json.dumps(manifest))
    said = run_module("trial_overhead_info", reports_directory=str(tmp_path))["lines"]
    assert said[-1] == "a guest is ready (tcg): median 8.25 s, at most 9.50 s over 2 boots; limit 8 s: EXCEEDED"
