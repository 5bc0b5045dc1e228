"""How memory grows with guests: from records of the density probe to slopes, figures and order."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy.analysis import figures
from ansible.module_utils.onecopy.analysis.claims import ClaimsError, check
from ansible.module_utils.onecopy.analysis.density import density, is_density
from ansible.module_utils.onecopy.analysis.density_results import density_sections
from ansible.module_utils.onecopy.analysis.stored_run import Run
from ansible.module_utils.onecopy.analysis.summary import probes
from ansible.module_utils.onecopy.analysis.tradeoffs import TRADE_OFFS
from ansible.module_utils.onecopy.analysis.verdicts import judge
from ansible.module_utils.onecopy.systems import SYSTEMS as KNOWN

MIB = 1 << 20
# In SVG: a triangle at a point; a bar, with its start and its width in pixels.
TRIANGLE = r'<path transform="translate\([^"]*\)" d="M0,-[\d.]+L-'
BAR = r'd="M(-?[\d.]+),[\d.]+h(-?[\d.]+)v13'
# (copies, memory in MiB, storage in MiB) by number of guests
SYSTEMS: dict[str, Callable[[int], tuple[float, float, float]]] = {
    "gfs_private": lambda guests: (2 * guests, 500 + 220 * guests, 40 * guests),
    "myfs": lambda guests: (1, 560 + 110 * guests, 32),
}


def record(
    system: str, guests: int, metrics: dict[str, float], repeat: int = 0, label: str = "", host: str = "kvm1"
) -> dict[str, Any]:
    return {
        "host": host,
        "system": system,
        "label": label or system,
        "guests": guests,
        "kind": "probe",
        "workload": "density",
        "host_cache": "cold",
        "guest_cache": "cold",
        "status": "ok",
        "repeat": repeat,
        "boot_id": f"{system}-{guests}-{repeat}",
        "block": f"{repeat}-{system}-x{guests}",
        "probe": {"metrics": metrics},
    }


def run(counts: tuple[int, ...] = (1, 2, 4), noise: float = 0.0) -> Run:
    records = []
    for system, grow in SYSTEMS.items():
        for number, guests in enumerate(counts):
            copies, memory, storage = grow(guests)
            metrics = {
                "copies_ratio": copies,
                "physical_copies_ratio": copies,
                "held_bytes": (memory + noise * (-1) ** number) * MIB,
                "storage_bytes": storage * MIB,
                "host_data_bytes": 40 * MIB,
                "all_ready_seconds": 4.0 * guests,
                "guests_used_bytes": 80 * guests * MIB,
                "moved_per_read_ratio": 2.0 if system == "gfs_private" else 0.02,
            }
            if system == "gfs_private":
                metrics |= {
                    "merged_held_bytes": (480 + 90 * guests) * MIB,
                    "merged_copies_ratio": 1.0,
                    "merging_scanned_pages": 9 * guests,
                }
            records.append(record(system, guests, metrics))
    plan = {"probes": {"density": {"probe": "density", "parameters": {}}}, "unsupported": [], "accelerator": "tcg"}
    return Run(plan, {}, tuple(records), 0)


def row(rows: list[dict[str, Any]], label: str, metric: str) -> dict[str, Any]:
    return next(row for row in rows if (row["label"], row["metric"]) == (label, metric))


def test_slope_and_fixed_part_are_found_with_an_interval() -> None:
    rows = density(run(noise=1.0))
    memory = row(rows, "gfs_private", "held_bytes")
    assert memory["per_guest"] == pytest.approx(220 * MIB, rel=0.02)
    assert memory["fixed"] == pytest.approx(500 * MIB, rel=0.02)
    assert memory["low"] < 220 * MIB < memory["high"]
    assert row(rows, "gfs_private", "copies_ratio")["per_guest"] == pytest.approx(2)
    assert row(rows, "myfs", "physical_copies_ratio")["per_guest"] == pytest.approx(0)
    assert not [one for one in rows if one["label"] == "myfs" and one["metric"] == "merged_held_bytes"]


def test_what_never_changes_has_an_interval_too() -> None:
    storage = row(density(run()), "myfs", "storage_bytes")
    assert (storage["per_guest"], storage["low"], storage["high"], storage["fixed"]) == (0, 0, 0, 32 * MIB)


def test_two_points_have_a_line_and_no_interval_and_one_has_none() -> None:
    assert "low" not in row(density(run((1, 2))), "myfs", "held_bytes")
    assert density(run((2,))) == []


def section_of(measured: Run) -> dict[str, Any]:
    """Blocks by what they are."""
    (section,) = density_sections(measured, {"density": density(measured), "probes": probes(measured)})
    names = (
        "text",
        "copies",
        *("overview" for _ in measured.hosts),
        "memory",
        "holders",
        "ledger",
        "ranking",
        "growth",
        "starts",
    )
    return dict(zip(names, section.blocks, strict=True))


def test_the_section_draws_beyond_what_was_measured_dashed_and_says_so() -> None:
    measured = run()
    assert is_density(measured)
    blocks = section_of(measured)
    assert [figure.title for figure in blocks["overview"].figures] == [
        "Copies of each page, in frames",
        "Memory held",
        "Storage allocated",
    ]
    assert [figure.title for figure in blocks["memory"].figures] == ["myfs", "gfs_private (and merged: ▲)"]
    for figure in (*blocks["overview"].figures, *blocks["memory"].figures):
        assert "stroke-dasharray" in figure.svg
        assert ">extrapolated<" in figure.svg
    assert [figure.title for figure in blocks["holders"].figures] == ["myfs", "gfs_private"]


def strokes(svg: str) -> list[tuple[float, float, bool]]:
    """Start, end and whether it is dashed, of every fitted line of a figure without bands, in pixels from the left."""
    found = []
    for path in re.findall(r'<path [^>]*stroke-width="1.4"[^>]*>', svg):
        ends = re.search(r' d="M([\d.]+),[^L]*L([\d.]+),', path)
        assert ends is not None, path
        found.append((float(ends[1]), float(ends[2]), 'stroke-dasharray="4,3"' in path))
    return found


def test_a_line_is_solid_only_where_its_own_system_was_measured() -> None:
    lines = [
        figures.Line("gfs_private", [(1, 2.0), (2, 4.0)], 0.0, 2.0),
        figures.Line("myfs", [(1, 1.0), (8, 1.0)], 1.0, 0.0),
    ]
    svg = figures.growth(lines, title="copies", axes=("guests", "copies"), most=(16, 32))
    step = max(end for _, end, _ in strokes(svg)) / 16
    drawn = [(round(start / step), round(end / step), dashed) for start, end, dashed in strokes(svg)]
    assert drawn == [
        *((0, 1, True), (1, 2, False), (2, 16, True)),
        *((0, 1, True), (1, 8, False), (8, 16, True)),
    ]
    assert svg.count(">extrapolated<") == 1


def test_systems_are_ranked_by_memory_per_guest_and_by_cost_with_what_they_give_up() -> None:
    blocks = section_of(run())
    assert [[cell.text for cell in cells][:4] for cells in blocks["ranking"].rows] == [
        ["1", "2", "gfs_private (merged)", "210.0"],
        ["2", "1", "myfs", "250.0"],
    ]
    for cells in blocks["ranking"].rows:
        assert tuple(cell.text for cell in cells[-4:]) == TRADE_OFFS[cells[2].text.split()[0]][1:]
    assert "with 4 guests" in blocks["ranking"].caption
    assert [[cell.text for cell in cells][:2] for cells in blocks["growth"].rows] == [
        ["myfs", "110.0"],
        ["gfs_private", "220.0"],
        ["gfs_private (merged)", "90.0"],
    ]
    assert [cell.text for cell in blocks["starts"].rows[2]] == ["myfs", "4", "16.00", "", "", ""]
    assert blocks["starts"].caption.endswith("(times under TCG are not claims)")
    assert [cell.text for cell in blocks["copies"].rows[0]] == [
        "myfs",
        "1.00",
        "1.00",
        "1.00",
        "0.00",
        "[0.00, 0.00]",
        "1",
    ]
    assert [cell.text for cell in blocks["copies"].rows[1]][-1] == "2N"


def test_a_system_is_ranked_at_a_number_of_guests_that_others_alone_were_measured_at_and_it_says_so() -> None:
    measured = run()
    fewer = [one for one in measured.records if one["system"] != "myfs" or one["guests"] < 4]
    blocks = section_of(Run(measured.plan, {}, tuple(fewer), 0))
    assert [cells[3].text for cells in blocks["ranking"].rows] == ["210.0", "250.0 (extrapolated)"]


def test_labels_of_one_system_and_what_was_merged_are_told_apart() -> None:
    measured = run()
    every_file = [
        record("myfs", one["guests"], one["probe"]["metrics"], label="myfs_every_file")
        for one in measured.records
        if one["system"] == "myfs"
    ]
    overview = section_of(Run(measured.plan, {}, (*measured.records, *every_file), 0))["overview"]
    assert {key.words: (key.colour, key.shape) for key in overview.legend} == {
        "gfs_private": ("gfs-private", "circle"),
        "gfs_private (merged)": ("gfs-private", "triangle-up"),
        "myfs": ("myfs", "circle"),
        "myfs_every_file": ("myfs", "triangle-up"),
    }
    drawn = {figure.title: figure.svg for figure in overview.figures}
    # Each system with a second line has a triangle for each of its three trials; nothing merges what is stored.
    triangles = {title: len(re.findall(TRIANGLE, svg)) for title, svg in drawn.items()}
    assert triangles == {"Copies of each page, in frames": 6, "Memory held": 6, "Storage allocated": 3}
    css = (Path(__file__).resolve().parents[3] / "roles/report/templates/report.css").read_text()
    assert all(f".legend .{shape} " in css for shape in figures.SHAPES if shape != "square")


def test_what_the_parties_gained_beyond_the_machine_is_drawn_left_of_zero() -> None:
    stacks = [
        figures.Stack("1 guest", [100.0, 0, 0, 0, 0, 0, 20.0]),
        figures.Stack("2 guests", [100.0, 0, 0, 0, 0, 0, -20.0]),
    ]
    svg = figures.holders(stacks, title="memory", ends=(-50.0, 150.0))
    bars = [(float(x), float(width)) for x, width in re.findall(BAR, svg) if float(width)]
    zero = bars[0][0]
    assert [round(x - zero) for x, _ in bars] == [0, 105, 0, -21], "a fifth of the hundred, at 210 pixels for 200 MiB"
    assert re.findall(">(120|80)<", svg) == ["120", "80"]
    measured = run()
    for one in measured.records:
        one["probe"]["metrics"]["unexplained_bytes"] = -30 * MIB
    holders = section_of(measured)["holders"]
    # 40 MiB of the host's cache and 80 of each guest's own, less 30 that nobody gained.
    assert [f">{40 + 80 * guests - 30}<" in holders.figures[0].svg for guests in (1, 2, 4)] == [True] * 3


def test_every_system_with_guests_says_what_it_gives_up() -> None:
    assert set(TRADE_OFFS) == set(KNOWN) - {"hfs"}


def test_hosts_are_a_factor_of_one_report(claims: dict[str, Any]) -> None:
    first = run(noise=1.0)
    second = [{**one, "host": "kvm2", "block": one["block"]} for one in run(noise=3.0).records]
    both = Run(first.plan, first.manifest, (*first.records, *second), 0)
    assert {one["host"] for one in density(both)} == {"kvm1", "kvm2"}
    alone = density(first)
    assert [one for one in density(both) if one["host"] == "kvm1"] == alone, "hosts are never pooled"
    blocks = section_of(both)
    ranked = [[cell.text for cell in cells][:3] for cells in blocks["ranking"].rows]
    assert [row[2] for row in ranked if row[0] == "2"] == ["myfs @ kvm1", "myfs @ kvm2"]
    assert {figure.title.rpartition(" @ ")[2] for figure in blocks["memory"].figures} >= {"kvm1", "kvm2"}
    (c9,) = (claim for claim in judge(both, claims, {"outcome": "absent"}) if claim["id"] == "C9")
    private = [one for one in c9["numbers"] if one["name"].startswith("copies per further guest, gfs_private")]
    assert [(one["host"], one["verdict"]) for one in private] == [("kvm1", "supported"), ("kvm2", "supported")]


def test_numbers_of_guests_that_no_memory_was_there_for_are_named() -> None:
    measured = run()
    reason = "64 guests may need 24576 MiB, and this host has 16000 MiB: fewer guests, or smaller ones"
    measured.plan["excluded"] = [{"label": name, "guests": 64, "reason": reason} for name in SYSTEMS]  # type: ignore[index]
    (section,) = density_sections(measured, {"density": density(measured), "probes": probes(measured)})
    assert [block.text for block in section.blocks[1:2]] == [f"Not tried: {reason}."]  # type: ignore[union-attr]
    assert section.blocks[2].kind == "table"


def test_a_run_about_something_else_has_no_such_section() -> None:
    assert list(density_sections(run(), {"probes": []})) == []


def shared(slopes: dict[str, float], scanned: int = 0, images: int = 0, counts: tuple[int, ...] = (1, 2, 4)) -> Run:
    """Copies by label as 1 + slope * (guests - 1)."""
    records = []
    for label, slope in slopes.items():
        for guests in counts:
            metrics = {"physical_copies_ratio": 1 + slope * (guests - 1), "scanned_pages": scanned, "images": images}
            records.append(record(label.removesuffix("_every_file"), guests, metrics, label=label))
    labels = {label: {"system": label.removesuffix("_every_file"), "options": {}} for label in slopes}
    probes = {"density": {"probe": "density", "parameters": {}}}
    plan = {"probes": probes, "labels": labels, "unsupported": [], "accelerator": "tcg"}
    return Run(plan, {}, tuple(records), 0)


SLOPES = {"myfs_every_file": 0.0, "gfs_private": 2.0, "virtiofs_auto": 1.0, "gfs_ksm": 1.0}


@pytest.mark.parametrize(
    ("measured", "verdict", "because"),
    [
        (shared(SLOPES), "supported", "myfs with every file in the window: 0 per guest [0, 0], claimed at most 0.1"),
        (shared(SLOPES | {"myfs_every_file": 1.0}), "refuted", "against the claim"),
        (shared(SLOPES, scanned=100), "refuted", "pages that KSM visited while guests read, myfs: 100"),
        (shared(SLOPES, images=1), "refuted", "images with the data that guests have open"),
        (shared(SLOPES, counts=(2,)), "inconclusive", "growth takes two at least"),
        (shared(SLOPES, counts=(1, 2)), "inconclusive", "two trials have no interval"),
        (shared({"gfs_private": 2.0}), "inconclusive", "was not measured in this run"),
    ],
)
def test_c9_is_decided_by_what_one_more_guest_adds(
    measured: Run, verdict: str, because: str, claims: dict[str, Any]
) -> None:
    found = {claim["id"]: claim for claim in judge(measured, claims, {"outcome": "absent"})}["C9"]
    assert found["verdict"] == verdict
    assert because in found["because"]


def test_what_grows_per_guest_is_a_level(claims: dict[str, Any]) -> None:
    wrong = copy.deepcopy(claims)
    comparison = next(claim for claim in wrong["claims"] if claim["id"] == "C9")["comparisons"][0]
    comparison["to"] = {"system": "gfs"}
    with pytest.raises(ClaimsError, match="physical copies ratio per guest is a level"):
        check(wrong, "claims.yml")
