"""The examples are what this kit makes of their records: a reader must not be shown an older kit's format."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from ansible.module_utils.onecopy.analysis import report
from ansible.module_utils.onecopy.analysis.rebuild import rebuilt_summary
from ansible.module_utils.onecopy.analysis.stored_run import Run, load

PROJECT = Path(__file__).resolve().parents[3]
EXAMPLE = PROJECT / "reports/example"
CURE = "render it anew with: ./onecopy report reports/{}"


@pytest.fixture(scope="module", params=sorted(path.name for path in EXAMPLE.parent.glob("example*")))
def directory(request: pytest.FixtureRequest) -> Path:
    return PROJECT / "reports" / str(request.param)


@pytest.fixture(scope="module")
def run(directory: Path) -> Run:
    return load(directory)


def test_its_summary_is_what_its_records_give(run: Run, directory: Path) -> None:
    rebuilt = rebuilt_summary(run, (PROJECT / "experiments/claims.yml").read_bytes())
    assert rebuilt == (directory / "summary.json").read_bytes(), CURE.format(directory.name)


def test_its_page_is_what_its_summary_gives(run: Run, directory: Path) -> None:
    summary = json.loads((directory / "summary.json").read_text())
    pages = report.render(report.document(run, summary), PROJECT / "roles/report/templates")
    assert pages["report.md"] == (directory / "report.md").read_text(), CURE.format(directory.name)


def test_it_is_a_real_run_of_a_committed_kit(run: Run) -> None:
    assert run.manifest["controller"]["git_dirty"] is False
    assert all(host["finished_at"] and host["boots"] for host in run.manifest["hosts"].values())


def test_the_readme_quotes_it() -> None:
    """The table of copies under *What a run here showed*, and the run's last lines."""
    readme = (PROJECT / "README.md").read_text()
    summary = json.loads((EXAMPLE / "summary.json").read_text())
    found = {(row["label"], row["part"], row["host_cache"]): f"{row['copies']:.2f}" for row in summary["copies"]}
    rows = re.findall(r"^\| `(\w+)` \| ([\d.]+) \| ([\d.]+|not applicable) \| ([\d.]+) \|$", readme, re.MULTILINE)
    assert {row[0] for row in rows} == {label for label, _, _ in found}
    for label, cold, warm, large in rows:
        assert (cold, large) == (found[label, "all", "cold"], found[label, "large", "cold"]), label
        assert warm == found.get((label, "all", "warm"), "not applicable"), label
    assert f"reports/smoke/{summary['run_id']}/report.html" in readme


def test_the_readme_quotes_what_more_guests_cost() -> None:
    """Copies by number of guests, memory and storage per further guest, and the verdict."""
    readme = (PROJECT / "README.md").read_text()
    summary = json.loads((PROJECT / "reports/example_density/summary.json").read_text())
    found = {(row["label"], row["metric"]): row for row in summary["density"]}
    rows = re.findall(r"^\| `(\w+)`( merged)?((?: \| [\d.]+){5,}) \|$", readme, re.MULTILINE)
    assert {row[0] for row in rows} == {label for label, _ in found}
    for label, merged, numbers in rows:
        copies = found[label, "merged_copies_ratio" if merged else "physical_copies_ratio"]
        memory = found[label, "merged_held_bytes" if merged else "held_bytes"]
        wanted = [f"{value:.2f}" for _, value in copies["points"]]
        wanted += [f"{row['per_guest'] / 2**20:.1f}" for row in (memory, found[label, "storage_bytes"])]
        assert numbers.strip(" |").split(" | ") == wanted, label
    verdict = next(claim["verdict"] for claim in summary["claims"] if claim["id"] == "C9")
    assert f"C9 is {verdict}:" in readme


def test_the_readme_quotes_how_many_requests_the_guests_sent() -> None:
    readme = (PROJECT / "README.md").read_text()
    for line in (EXAMPLE / "results.jsonl").read_text().splitlines():
        record = json.loads(line)
        sent = record["io_path"].get("guest", {}).get("fuse_requests")
        if sent is not None and record["host_cache"] == "cold":
            assert re.search(rf"\b{sent:,}(?: FUSE requests)? with\s+`{record['label']}`", readme), record["label"]
