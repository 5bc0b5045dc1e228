"""Systems of a comparison in order, computed from records alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import invented
import jsonschema
from ansible.module_utils.onecopy import compare
from ansible.module_utils.onecopy.analysis import ranking, report, reporting, stored_run, summary
from ansible.module_utils.onecopy.own_tree import Survey
from ansible.module_utils.onecopy.plan import make_plan

PROJECT = Path(__file__).resolve().parents[3]
SCHEMA = json.loads((PROJECT / "reports/schema/summary.schema.json").read_text())
EXPERIMENT = json.loads((PROJECT / "reports/schema/experiment.schema.json").read_text())


def compared(directory: Path, accelerator: str, change: invented.Change | None = None, seed: int = 1) -> stored_run.Run:
    survey = Survey(24 << 20, 3, 8 << 20, 997, 0)
    document = compare.make(Path("/srv/data"), survey, "a" * 64, ["grep", "-rc", "x", "{data}"], [], EXPERIMENT)
    plan = make_plan(document, invented.capabilities(accelerator))
    return stored_run.load(invented.store(directory, plan, invented.records(plan, change=change, seed=seed)))


def places(run: stored_run.Run) -> dict[str, int | None]:
    return {row["system"]: row.get("rank") for row in ranking.ranking(run)}


def test_every_default_system_tells_what_it_gives_up() -> None:
    assert set(compare.SYSTEMS) <= set(ranking.GIVES_UP)


def test_one_copy_and_little_moved_comes_first_and_equals_share_a_place(tmp_path: Path) -> None:
    """Emulated times decide nothing: what differs by time alone has the same rank."""
    found = places(compared(tmp_path, "tcg"))
    one_copy_nothing_moved = {"virtiofs_never", "gfs_pmem_dax", "gfs_pmem_erofs", "myfs"}
    assert {name for name, place in found.items() if place == 1} == one_copy_nothing_moved
    assert found["gfs_direct"] == 5
    assert found["virtiofs_auto"] == found["virtiofs_always"] == 6
    assert found["gfs"] == 8
    assert found["hfs"] is None
    assert "gfs_again" not in found


def test_with_kvm_time_breaks_a_tie(tmp_path: Path) -> None:
    found = places(compared(tmp_path, "kvm"))
    assert found["myfs"] == 1
    assert found["gfs_pmem_dax"] == 2
    assert found["gfs_pmem_erofs"] == 3
    assert found["virtiofs_never"] == 4


def test_figures_are_those_of_cold_trials(tmp_path: Path) -> None:
    def warm_is_wrong(record: dict[str, Any]) -> None:
        if record["host_cache"] == "warm" and "io_path" in record:
            record["io_path"]["guest"]["read_bytes"] = 1 << 40

    rows = {row["system"]: row for row in ranking.ranking(compared(tmp_path, "tcg", warm_is_wrong))}
    assert rows["gfs"]["copies"] == 2
    assert rows["gfs"]["cached_bytes"] == {"host": 32 << 20, "guest": 32 << 20, "daemon": 0}
    assert rows["gfs"]["amplification"] == 1
    assert rows["gfs_direct"]["cached_bytes"]["host"] == 0
    assert "amplification" not in rows["hfs"]


def test_a_system_that_failed_is_there_without_a_place(tmp_path: Path) -> None:
    def fail(record: dict[str, Any]) -> None:
        if record["system"] == "myfs" and record["kind"] == "residency":
            record |= {"status": "failed", "reason": "workload_failed", "message": "exit codes [1], [0] are right"}
            del record["copies"]

    run = compared(tmp_path, "tcg", fail)
    assert places(run)["myfs"] is None
    assert any("no page counted" in line for line in ranking.ranking_lines(ranking.ranking(run)))


def test_the_report_starts_with_it_and_the_summary_is_valid(tmp_path: Path, claims: dict[str, Any]) -> None:
    run = compared(tmp_path, "tcg")
    found = summary.summarise(run, claims)
    jsonschema.validate(json.loads(summary.dump(found)), SCHEMA)
    document = report.document(run, found)
    assert document.sections[0].name == "ranking"
    text = report.render(document, PROJECT / "roles/report/templates")["report.md"]
    assert "grep -rc x '$data/tree': on a copy of /srv/data" in text
    assert "guests of a share must trust one another" in text
    assert any(line.startswith("1. ") for line in reporting.lines(found, tmp_path))


def test_other_runs_have_none(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan = invented.plan()
    run = stored_run.load(invented.store(tmp_path, plan, invented.records(plan)))
    assert "ranking" not in summary.summarise(run, claims)
