"""The module that writes a run's report, and what it says to bad input."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.onecopy.analysis import claims as claims_file

PROJECT = Path(__file__).resolve().parents[3]
GOLDEN = PROJECT / "tests/golden/invented"
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def run(tmp_path: Path) -> Path:
    directory = tmp_path / "smoke/20110401T000000Z"
    directory.mkdir(parents=True)
    for name in ("plan.json", "manifest.json", "results.jsonl"):
        shutil.copy(GOLDEN / name, directory)
    return directory


def arguments(run: Path, **changes: str) -> dict[str, str]:
    inputs = {
        "claims": PROJECT / "experiments/claims.yml",
        "templates": PROJECT / "roles/report/templates",
        "path": run,
    }
    return {name: str(value) for name, value in inputs.items()} | changes


def test_a_second_call_changes_nothing(run_module: Run, run: Path) -> None:
    first = run_module("run_report", **arguments(run))
    assert first["changed"]
    assert [Path(file).name for file in first["files"]] == ["summary.json", "report.html", "report.md"]
    assert (run / "summary.json").read_text() == (GOLDEN / "summary.json").read_text()
    assert any(line.startswith("gfs ") and "2.00" in line for line in first["lines"])
    assert not run_module("run_report", **arguments(run))["changed"]


def test_check_mode_writes_nothing(run_module: Run, run: Path) -> None:
    before = sorted(run.iterdir())
    assert run_module("run_report", check_mode=True, **arguments(run))["changed"]
    assert sorted(run.iterdir()) == before


def test_an_experiment_means_its_newest_run(run_module: Run, run: Path) -> None:
    newer = run.with_name("20110402T000000Z")
    shutil.copytree(run, newer)
    assert run_module("run_report", **arguments(run.parent))["directory"] == str(newer)
    assert run_module("run_report", **arguments(run.parent.parent))["directory"] == str(newer)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"path": "/nowhere"}, "holds no run"),
        ({"claims": "/nowhere.yml"}, "cannot be read"),
        ({"claims": str(GOLDEN / "results.jsonl")}, "cannot be read"),
    ],
)
def test_bad_input_is_one_line(run_module: Run, run: Path, changes: dict[str, str], message: str) -> None:
    result = run_module("run_report", **arguments(run, **changes))
    assert result["failed"]
    assert message in result["msg"]
    assert "\n" not in result["msg"]
    assert not (run / "report.html").exists()


def test_a_place_that_cannot_be_written_is_one_line(run_module: Run, run: Path) -> None:
    (run / "report.html").mkdir()
    result = run_module("run_report", **arguments(run))
    assert "report.html: cannot be written" in result["msg"]
    assert not list(run.glob(".report.html.*"))


def broken(change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    document: dict[str, Any] = yaml.safe_load((PROJECT / "experiments/claims.yml").read_text())
    change(document)
    return document


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda document: document.pop("thresholds"), "must hold the keys"),
        (lambda document: document.update(schema=2), "format version 2"),
        (lambda document: document["claims"][0].update(txet=""), "C1: unknown key 'txet'"),
        (lambda document: document["claims"][0].pop("text"), "C1: key 'text' is missing"),
        (lambda document: document["claims"][1].update(id="C1"), "C1: the id is taken"),
        (lambda document: document["claims"][0].update(comparisons=[]), "does not say what it awaits"),
        (lambda document: document["claims"][0]["comparisons"][0].update(metric="speed"), "unknown metric 'speed'"),
        (lambda document: document["claims"][0]["comparisons"][0]["of"].update(system="gsf"), "unknown system 'gsf'"),
        (lambda document: document["claims"][0]["comparisons"][0].update(within=[None, None]), "within must be"),
        (lambda document: document["claims"][0]["comparisons"][0].update(within=[0, 1]), "above zero"),
        (
            lambda document: document["claims"][0]["comparisons"][0].update(within=[2, 1]),
            "at least 2 is above at most 1",
        ),
        (lambda document: document["claims"][0]["comparisons"][0].update(reaches=1), "reaches is for a ratio"),
        (lambda document: document["claims"][0]["comparisons"].append(3), "must be a dictionary"),
        (lambda document: document["claims"].append("C10"), "must be a dictionary"),
    ],
)
def test_a_mistake_in_the_claims_is_one_line(change: Callable[[dict[str, Any]], None], message: str) -> None:
    with pytest.raises(claims_file.ClaimsError, match=message) as caught:
        claims_file.check(broken(change), "claims.yml")
    assert "\n" not in str(caught.value)


def test_the_kits_own_claims_are_sound() -> None:
    document = claims_file.load(PROJECT / "experiments/claims.yml")
    assert [claim["id"] for claim in document["claims"] if "." not in claim["id"]] == [
        f"C{number}" for number in range(1, 10)
    ]
