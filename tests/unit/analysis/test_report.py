"""The report says everything that the run holds, for the page and for the terminal, and needs nothing else."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import invented
import pytest
from ansible.module_utils.onecopy.analysis import figures, report, stored_run, summary
from ansible.module_utils.onecopy.systems import SYSTEMS

PROJECT = Path(__file__).resolve().parents[3]
TEMPLATES = PROJECT / "roles/report/templates"
GOLDEN = PROJECT / "tests/golden/invented"


def rendered(directory: Path, claims: dict[str, Any]) -> dict[str, str]:
    run = stored_run.load(directory)
    return report.render(report.document(run, summary.summarise(run, claims)), TEMPLATES)


@pytest.fixture(scope="module")
def golden(claims: dict[str, Any]) -> dict[str, str]:
    return rendered(GOLDEN, claims)


@pytest.fixture(scope="module")
def page(golden: dict[str, str]) -> str:
    return golden["report.html"]


def test_the_golden_markdown(golden: dict[str, str]) -> None:
    assert golden["report.md"] == (GOLDEN / "report.md").read_text()


def test_the_same_run_gives_the_same_page(page: str, claims: dict[str, Any]) -> None:
    assert rendered(GOLDEN, claims)["report.html"] == page


def test_the_page_is_one_file_without_scripts(page: str) -> None:
    assert not re.search(r"<script|<img|<iframe|@import|url\((?!#)", page)
    assert set(re.findall(r"https?://[^\s\"'<)]+", page)) <= {
        "http://www.w3.org/2000/svg",
        "http://www.w3.org/1999/xlink",
    }


def test_every_colour_of_a_figure_is_one_of_the_page(page: str) -> None:
    style = page[page.index("<style>") : page.index("</style>")]
    used = set(re.findall(r'"var\((--[a-z-]+), currentColor\)"', page))
    assert {"--ink", "--gfs", "--hfs", "--virtiofs-auto", "--party-host", "--party-guest", "--reference"} <= used
    assert {name for name in used if f"{name}:" not in style} == set()
    assert {name for name in SYSTEMS if f"--{name.replace('_', '-')}:" not in style} == set()
    assert "#0b0b" not in page


@pytest.mark.parametrize("most", [0.04, 11.0, 1300.0, 250_000.0])
def test_numbers_at_an_axis_are_written_out(most: float) -> None:
    drawing = figures.times([figures.Bar("gfs", "gfs", most / 2, None, None, [])], title="Seconds", most=most)
    assert "e+" not in drawing
    assert "e-0" not in drawing


def test_identifiers_are_unique(page: str) -> None:
    identifiers = re.findall(r'\bid="([^"]+)"', page)
    assert len(identifiers) == len(set(identifiers)) > 5


def test_figures_show_every_point_and_their_names(page: str) -> None:
    _, records = invented.golden_run()
    timed = [record for record in records if record["status"] == "ok" and record["kind"] == "timed"]
    assert page.count('stroke-width="0.9"') == len(timed)
    for name in ("Copies per page, host cold, guest cold", "Seconds of cat, host warm, guest cold"):
        assert f'aria-label="{name}"' in page


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_both_open_with_the_aa_pair_and_the_banner(golden: dict[str, str], name: str) -> None:
    text = golden[name]
    assert text.index("A/A pair") < text.index("Times under TCG are not claims") < text.index("Copies of a page")
    # On top, on both figures, and on their tables.
    assert text.lower().count("times under tcg are not claims") >= 5


@pytest.mark.parametrize("name", ["report.html", "report.md"])
def test_nothing_that_was_not_measured_is_hidden(golden: dict[str, str], name: str) -> None:
    text = golden[name]
    for words in (
        "invented: virtiofsd ended by signal 9",
        "state_missed",
        "workload_timeout",
        "this QEMU cannot",
        "O_DIRECT bypasses the host",
        "1 invalid, 1 failed, 1 timed out",
        "Open ledgers",
        "-63.5",
        "gfs_pmem_dax",
        "Trust model of myfs",
        "qemu-system-x86_64 -accel tcg",
        "Invented CPU",
    ):
        assert words.replace("'", "&#39;") in text or words in text, words


def test_under_kvm_there_is_no_banner(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan = invented.plan("kvm")
    text = rendered(invented.store(tmp_path, plan, invented.records(plan)), claims)
    for content in text.values():
        assert "TCG" not in content
        assert "Trust model" not in content


def test_what_comes_from_a_guest_cannot_break_the_page(tmp_path: Path, claims: dict[str, Any]) -> None:
    def change(record: dict[str, Any]) -> None:
        if record["order"] == 5:
            record |= {"status": "failed", "reason": "guest_died", "message": "<script>alert(1)</script> | panic\nnext"}

    plan = invented.plan()
    text = rendered(invented.store(tmp_path, plan, invented.records(plan, change=change)), claims)
    assert "<script" not in text["report.html"]
    assert "&lt;script&gt;alert(1)" in text["report.html"]
    assert "alert(1)</script> \\| panic next |" in text["report.md"]


def test_every_row_of_a_markdown_table_has_its_columns(golden: dict[str, str]) -> None:
    width = None
    rows = 0
    for line in golden["report.md"].splitlines():
        columns = len(re.findall(r"(?<!\\)\|", line)) if line.startswith("|") else None
        assert columns is None or width is None or columns == width, line
        width = columns
        rows += columns is not None
    assert rows > 100


def test_a_run_with_nothing_but_failures_still_has_a_report(tmp_path: Path, claims: dict[str, Any]) -> None:
    def change(record: dict[str, Any]) -> None:
        record |= {"status": "failed", "reason": "guest_not_ready", "message": "invented: no guest came up"}
        for key in ("result", "copies", "io_path"):
            record.pop(key, None)

    plan = invented.plan()
    text = rendered(invented.store(tmp_path, plan, invented.records(plan, change=change)), claims)
    assert f"{len(plan['trials'])} failed" in text["report.md"]


def test_two_hosts_are_told_apart(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan = invented.plan()
    records = invented.records(plan) + invented.records(plan, host="invented-second", seed=2)
    text = rendered(invented.store(tmp_path, plan, records), claims)
    assert "gfs @ invented-second" in text["report.md"]
    assert "gfs @ invented-second" in text["report.html"]


def test_an_unfinished_run_says_so_on_top(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan = invented.plan()
    text = rendered(invented.store(tmp_path, plan, invented.records(plan)[:-3]), claims)["report.md"]
    assert text.index("This run is not finished: 3 trials have no record yet") < text.index("## Copies of a page")


@pytest.mark.parametrize(("repeats", "shown"), [(9, False), (10, True)])
def test_from_ten_boots_on_the_bootstrap_stands_beside_the_interval(
    tmp_path: Path, claims: dict[str, Any], repeats: int, shown: bool
) -> None:
    plan = invented.plan(systems=["gfs", "myfs"], repeats=repeats, timed=["cat", "find"], residency=[])
    run = stored_run.load(invented.store(tmp_path, plan, invented.records(plan)))
    found = summary.summarise(run, claims)
    (times, *_) = report.times_sections(run, found)
    table = next(block for block in times.blocks if block.kind == "table")
    assert ("bootstrap" in [column.title for column in table.columns]) is shown
    assert {len(cells) for cells in table.rows} == {len(table.columns)}
    if shown:
        row = next(row for row in found["timings"] if row["workload"] == "cat" and row["host_cache"] == "cold")
        limits = f"[{row['bootstrap_low']:.4g}, {row['bootstrap_high']:.4g}]"
        assert [cell.text for cell in table.rows[0]][:5:4] == ["cat", limits]
