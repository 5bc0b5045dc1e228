"""What is kept and what is removed when a host is given back."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import lock, nspawn, records

RUN_ID = "20260101T000000Z"


def write_records(path: Path, *ids: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    records.append(path, *({"id": name, "host": "box1", "order": order} for order, name in enumerate(ids)))
    return path


@pytest.fixture
def fetched(tmp_path: Path) -> Path:
    return write_records(tmp_path / "fetched.jsonl", "a", "b", "c")


def rescue(run_module: Any, reports: Path, fetched: Path, check_mode: bool = False) -> dict[str, Any]:
    arguments = {"reports_directory": str(reports), "run_id": RUN_ID, "host": "box1", "fetched": str(fetched)}
    result: dict[str, Any] = run_module("rescued_records", check_mode=check_mode, **arguments)
    return result


def test_missing_records_of_a_known_run_are_added_once(tmp_path: Path, fetched: Path, run_module: Any) -> None:
    run = tmp_path / "reports/smoke" / RUN_ID
    write_records(run / "results.jsonl", "a")
    (run / "plan.json").write_text("{}")
    assert rescue(run_module, tmp_path / "reports", fetched, check_mode=True)["records"] == 2
    assert len(records.read(run / "results.jsonl").records) == 1
    first = rescue(run_module, tmp_path / "reports", fetched)
    assert (first["changed"], first["records"], first["path"]) == (True, 2, str(run / "results.jsonl"))
    assert [record["id"] for record in records.read(run / "results.jsonl").records] == ["a", "b", "c"]
    assert rescue(run_module, tmp_path / "reports", fetched)["changed"] is False


def test_records_of_an_unknown_run_are_kept_too(tmp_path: Path, fetched: Path, run_module: Any) -> None:
    result = rescue(run_module, tmp_path / "reports", fetched)
    assert result["path"] == str(tmp_path / f"reports/rescued/{RUN_ID}/box1.jsonl")
    assert [record["id"] for record in records.read(Path(result["path"])).records] == ["a", "b", "c"]
    assert rescue(run_module, tmp_path / "reports", fetched)["changed"] is False


def test_a_torn_last_line_is_no_record(tmp_path: Path, fetched: Path, run_module: Any) -> None:
    with fetched.open("a") as file:
        file.write('{"id": "d", "hos')
    assert rescue(run_module, tmp_path / "reports", fetched)["records"] == 3


def test_the_machines_directory_stays_while_somebody_needs_it(tmp_path: Path) -> None:
    directory = tmp_path / "machine"
    assert not nspawn.remove_machine_directory(directory)
    (directory / "knobs").mkdir(parents=True)
    (directory / "knobs/ksm").write_text(json.dumps({"path": "/x", "value": "0"}))
    assert not nspawn.remove_machine_directory(directory)
    (directory / "knobs/ksm").unlink()
    fd = lock.acquire(directory / "lock", {"run_id": RUN_ID, "host": "box1"})
    assert fd >= 0
    assert not nspawn.remove_machine_directory(directory)


def test_the_machines_directory_goes_with_the_last_box(tmp_path: Path) -> None:
    directory = tmp_path / "machine"
    (directory / "knobs").mkdir(parents=True)
    (directory / "lock").touch()
    assert nspawn.remove_machine_directory(directory)
    assert not directory.exists()


def test_a_directory_that_a_box_has_mounted_stays() -> None:
    assert not nspawn.remove_machine_directory(Path("/proc"))
