"""One run against another: refused when they are not comparable, said on top when wanted all the same."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import invented
import jsonschema

PROJECT = Path(__file__).resolve().parents[3]
SYSTEMS = ["gfs", {"system": "gfs", "label": "gfs_again"}, "virtiofs_auto"]
Run = Callable[..., dict[str, Any]]


def stored(directory: Path, run_id: str, *, factor: float = 1.0, twin: float = 1.0, accelerator: str = "kvm") -> Path:
    """A run of invented records; ``factor`` on the times of virtiofs_auto, ``twin`` on the copies of gfs_again."""

    def change(record: dict[str, Any]) -> None:
        record["run_id"] = run_id
        if record["label"] == "virtiofs_auto":
            record["result"]["wall_seconds"] *= factor
        if record["label"] == "gfs_again" and "copies" in record:
            record["copies"]["all"]["host_pages"] = int(record["copies"]["all"]["host_pages"] * twin)

    plan = invented.plan("kvm", systems=SYSTEMS, repeats=5)
    records = invented.records(plan, change=change, seed=len(run_id))
    manifest = invented.manifest(accelerator, run_id=run_id)
    return invented.store(directory / run_id, plan, records, manifest)


def compare(run_module: Run, first: Path, second: Path, **more: Any) -> dict[str, Any]:
    templates = PROJECT / "roles/report/templates"
    claims = PROJECT / "experiments/claims.yml"
    paths = {"path": first, "against": second, "claims": claims, "templates": templates}
    return run_module("run_report", **{name: str(path) for name, path in paths.items()}, **more)


def comparison(first: Path, second: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((first / f"against-{second}.json").read_text())
    schema = json.loads((PROJECT / "reports/schema/summary.schema.json").read_text())
    outcomes = schema["$defs"]["comparison"]["properties"]["outcome"]
    for row in found["comparisons"]:
        jsonschema.validate(row["outcome"], outcomes)
    return found


def test_a_system_that_became_slower_is_found_and_the_others_are_not(run_module: Run, tmp_path: Path) -> None:
    first, second = stored(tmp_path, "new", factor=1.5), stored(tmp_path, "older")
    result = compare(run_module, first, second)
    assert result["changed"]
    rows = comparison(first, "older")["comparisons"]
    different = {(row["label"], row["metric"]) for row in rows if row["outcome"] == "distinguishable"}
    assert different == {("virtiofs_auto", "wall_seconds")}
    ratios = [row["ratio"] for row in rows if row["label"] == "virtiofs_auto" and row["metric"] == "wall_seconds"]
    assert all(1.4 < ratio < 1.6 for ratio in ratios)
    assert {row["metric"] for row in rows} == {"wall_seconds", "copies.all"}
    assert not compare(run_module, first, second)["changed"]


def test_runs_that_are_not_comparable_are_refused_in_one_line(run_module: Run, tmp_path: Path) -> None:
    first, second = stored(tmp_path, "new"), stored(tmp_path, "older", accelerator="tcg")
    result = compare(run_module, first, second)
    assert result["failed"]
    assert "the runs are not comparable: accelerator: kvm against tcg" in result["msg"]
    assert "\n" not in result["msg"]
    assert not list(first.glob("against-*"))


def test_another_data_set_is_not_comparable(run_module: Run, tmp_path: Path) -> None:
    first, second = stored(tmp_path, "new"), stored(tmp_path, "older")
    plan = json.loads((second / "plan.json").read_text())
    plan["dataset"]["large_mib"] = 25
    (second / "plan.json").write_text(json.dumps(plan))
    assert "not comparable: data set" in compare(run_module, first, second)["msg"]


def test_wanted_anyway_they_are_compared_and_the_page_says_so_first(run_module: Run, tmp_path: Path) -> None:
    first, second = stored(tmp_path, "new"), stored(tmp_path, "older", accelerator="tcg")
    result = compare(run_module, first, second, anyway=True)
    warning = "not comparable, compared all the same: accelerator: kvm against tcg"
    assert warning in result["lines"]
    for name in ("against-older.html", "against-older.md"):
        text = (first / name).read_text().lower()
        assert text.index(warning) < text.index("a/a pair") < text.index("wall time")


def test_a_failed_aa_pair_of_either_run_leaves_everything_open(run_module: Run, tmp_path: Path) -> None:
    first, second = stored(tmp_path, "new", factor=1.5), stored(tmp_path, "older", twin=0.5)
    compare(run_module, first, second)
    found = comparison(first, "older")
    assert found["to"]["aa"]["outcome"] == "distinguishable"
    assert {row["outcome"] for row in found["comparisons"]} == {"inconclusive"}


def test_a_run_against_itself_is_refused(run_module: Run, tmp_path: Path) -> None:
    run = stored(tmp_path, "new")
    assert "new against itself: name two runs" in compare(run_module, run, run)["msg"]
