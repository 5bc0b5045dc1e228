"""How memory grows with guests: from records of the density probe to slopes, figures and order."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from ansible.module_utils.onecopy.analysis.density import density, is_density
from ansible.module_utils.onecopy.analysis.density_results import density_sections
from ansible.module_utils.onecopy.analysis.stored_run import Run
from ansible.module_utils.onecopy.analysis.summary import probes

MIB = 1 << 20
# (copies, memory in MiB, storage in MiB) by number of guests
SYSTEMS: dict[str, Callable[[int], tuple[float, float, float]]] = {
    "gfs_private": lambda guests: (2 * guests, 500 + 220 * guests, 40 * guests),
    "myfs": lambda guests: (1, 560 + 110 * guests, 32),
}


def record(system: str, guests: int, metrics: dict[str, float], repeat: int = 0) -> dict[str, Any]:
    return {
        "host": "kvm1",
        "system": system,
        "label": system,
        "guests": guests,
        "kind": "probe",
        "workload": "density",
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
                "used_bytes": (memory + noise * (-1) ** number) * MIB,
                "storage_bytes": storage * MIB,
                "host_cache_bytes": 40 * MIB,
                "guests_used_bytes": 80 * guests * MIB,
            }
            if system == "gfs_private":
                metrics |= {"merged_used_bytes": (480 + 90 * guests) * MIB, "merged_copies_ratio": 1.0}
            records.append(record(system, guests, metrics))
    return Run({"probes": {"density": {"probe": "density", "parameters": {}}}}, {}, tuple(records), 0)


def row(rows: list[dict[str, Any]], label: str, metric: str) -> dict[str, Any]:
    return next(row for row in rows if (row["label"], row["metric"]) == (label, metric))


def test_slope_and_fixed_part_are_found_with_an_interval() -> None:
    rows = density(run(noise=1.0))
    memory = row(rows, "gfs_private", "used_bytes")
    assert memory["per_guest"] == pytest.approx(220 * MIB, rel=0.02)
    assert memory["fixed"] == pytest.approx(500 * MIB, rel=0.02)
    assert memory["low"] < 220 * MIB < memory["high"]
    assert row(rows, "gfs_private", "copies_ratio")["per_guest"] == pytest.approx(2)
    assert row(rows, "myfs", "physical_copies_ratio")["per_guest"] == pytest.approx(0)
    assert not [one for one in rows if one["label"] == "myfs" and one["metric"] == "merged_used_bytes"]


def test_two_points_have_a_line_and_no_interval_and_one_has_none() -> None:
    assert "low" not in row(density(run((1, 2))), "myfs", "used_bytes")
    assert density(run((2,))) == []


def test_the_section_draws_beyond_what_was_measured_dashed_and_ranks_by_memory_per_guest() -> None:
    measured = run()
    assert is_density(measured)
    (section,) = density_sections(measured, {"density": density(measured), "probes": probes(measured)})
    _, growth, ledger, ranking = section.blocks
    assert [figure.title for figure in growth.figures] == [
        "Copies of each page in frames",
        "Memory of the machine in use",
        "Storage allocated",
    ]
    assert all("stroke-dasharray" in figure.svg for figure in growth.figures)
    assert [figure.title for figure in ledger.figures] == ["myfs", "gfs_private"]
    assert [[cell.text for cell in cells][:2] for cells in ranking.rows] == [
        ["gfs_private (merged)", "90.0"],
        ["myfs", "110.0"],
    ]
    assert all(cells[-1].text for cells in ranking.rows)


def test_a_run_about_something_else_has_no_such_section() -> None:
    assert list(density_sections(run(), {"probes": []})) == []
