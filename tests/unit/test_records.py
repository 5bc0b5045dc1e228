"""Records survive torn lines, double fetches and several writers."""

from __future__ import annotations

import json
import multiprocessing
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import records


def record(order: int, **more: Any) -> dict[str, Any]:
    return {"id": f"{order:016x}", "order": order, "host": "box1", "status": "ok", **more}


def test_what_was_appended_is_read(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    records.append(file, record(0))
    records.append(file, record(1), record(2))
    assert records.read(file) == ([record(0), record(1), record(2)], 0)


def test_no_file_no_records(tmp_path: Path) -> None:
    assert records.read(tmp_path / "none") == ([], 0)


@pytest.mark.parametrize("cut", range(1, len(json.dumps(record(1), sort_keys=True, separators=(",", ":"))) + 1))
def test_torn_tail_costs_that_line_alone(tmp_path: Path, cut: int) -> None:
    file = tmp_path / "results.jsonl"
    records.append(file, record(0), record(1))
    whole = file.read_bytes()
    file.write_bytes(whole[: -cut - 1] if cut > 1 else whole[:-1])
    # Without its newline alone, the last record is whole.
    before = records.read(file)
    assert before.records[0] == record(0)
    records.append(file, record(2))
    after = records.read(file)
    assert after.records[0] == record(0)
    assert after.records[-1] == record(2)
    assert len(after.records) + after.torn >= 2
    assert after.torn == before.torn


def test_first_record_of_a_trial_stands(tmp_path: Path) -> None:
    first, second, other_host = record(1, status="failed"), record(1, status="ok"), record(1, host="box2")
    merged = records.merge([record(2), first], [second, other_host, record(0)])
    assert [(item["order"], item["host"]) for item in merged] == [(0, "box1"), (1, "box1"), (1, "box2"), (2, "box1")]
    assert merged[1]["status"] == "failed"
    assert records.merge(merged, merged) == merged


def _write(file: Path, start: int) -> None:
    for order in range(start, start + 50):
        records.append(file, record(order, filler="x" * 3000))


def test_several_writers_share_a_file(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    writers = [multiprocessing.get_context("fork").Process(target=_write, args=(file, start)) for start in (0, 50, 100)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    found = records.read(file)
    assert found.torn == 0
    assert sorted(item["order"] for item in found.records) == list(range(150))


def test_atomic_write_replaces(tmp_path: Path) -> None:
    file = tmp_path / "manifest.json"
    records.write_atomically(file, {"a": 1})
    records.write_atomically(file, {"a": 2})
    assert json.loads(file.read_text()) == {"a": 2}
    assert [entry.name for entry in tmp_path.iterdir()] == ["manifest.json"]
