"""From records of the probes about mapping to break-even lines, the window's cost in memory, and what the report says of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from ansible.module_utils.onecopy.analysis.dax_window import break_even, dax_window, is_dax_window
from ansible.module_utils.onecopy.analysis.dax_window_results import dax_window_sections, reread_sections
from ansible.module_utils.onecopy.analysis.document import Table, Text
from ansible.module_utils.onecopy.analysis.stored_run import Run
from ansible.module_utils.onecopy.analysis.summary import probes

MIB = 1 << 20
SCHEMA = Path(__file__).resolve().parents[3] / "reports/schema/summary.schema.json"
LABELS: dict[str, dict[str, Any]] = {
    "maps": {"inode_dax_kib": 0},
    "copies": {"window_mib": 0},
    "copies_kept": {"window_mib": 0, "cache": "always"},
    "default": {},
}
# Instructions of the first read and of a re-read, by KiB.
COSTS = {
    "maps": {4: (900, 100), 1024: (1000, 200)},
    "copies": {4: (300, 250), 1024: (4000, 4000)},
    "copies_kept": {4: (300, 50), 1024: (4000, 150)},
}


def record(label: str, probe: str, block: int, metrics: dict[str, float], series: Any = None) -> dict[str, Any]:
    own = {"host": "kvm1", "system": "myfs", "label": label, "guests": 1, "kind": "probe", "status": "ok"}
    found = {"metrics": metrics} | ({"series": series} if series else {})
    return own | {"workload": probe, "block": f"{block}-{label}", "probe": found}


def run() -> Run:
    records = []
    for block in (0, 1):
        for label, sizes in COSTS.items():
            series = {
                f"{when}_{measure}": [[kib * 1024, costs[at] / scale] for kib, costs in sizes.items()]
                for at, when in enumerate(("first", "reread"))
                for measure, scale in (("instructions", 1), ("service_seconds", 1e6))
            }
            left = {"guest_used_bytes": 90 * MIB}  # by what ran before it in this boot
            left |= {"window_bytes": {"maps": 1024, "copies": 0}[label] * MIB} if label in ("maps", "copies") else {}
            records.append(record(label, "file_sizes", block, left, series))
        for label, window in (("copies", 0), ("default", 512), ("maps", 1024)):
            metrics = {"working_set_bytes": 32 * MIB, "window_bytes": window * MIB, "guest_cached_bytes": 0.0}
            metrics |= {"guest_used_bytes": (40 + window / 64 + 0.1 * block) * MIB}
            for when in ("first", "reread"):
                metrics |= {f"{when}_read_requests": 0.0 if window else 256.0, f"{when}_map_requests": 16.0 * block}
            records.append(record(label, "reread", block, metrics))
        many = {"map_seconds": [[50, 0.001], [1000, 0.004 + 0.002 * block]], "qemu_seconds": [[50, 0.1], [1000, 0.2]]}
        many["regions"] = [[50, 56], [1000, 1006]]
        series = {f"{name}_by_live_ranges": points for name, points in many.items()}
        records.append(record("default", "map_cost", block, {"copy_seconds_per_byte": 1e-9}, series))
    plan = {
        "labels": {label: {"system": "myfs", "options": options} for label, options in LABELS.items()},
        "probes": {
            "file_sizes": {"probe": "file_sizes", "parameters": {}},
            "map_cost": {"probe": "map_cost", "parameters": {}},
            "reread": {"probe": "reread", "parameters": {"pattern": "sequential"}},
        },
    }
    return Run(plan | {"accelerator": "tcg"}, {}, tuple(records), 0)


@pytest.mark.parametrize(
    ("mapped", "copied", "reads"),
    [
        ((5, 5), (10, 10), (1, None)),
        ((10, 1), (10, 1), (1, None)),
        ((900, 100), (300, 250), (5, None)),  # 600 more at first, 150 less at each re-read: even at the fifth read
        ((9, 10), (10, 10), (1, None)),
        ((8, 12), (10, 11), (1, 3)),
        ((11, 10), (10, 10), (None, None)),
        ((11, 12), (10, 10), (None, None)),
    ],
)
def test_where_the_lines_cross(
    mapped: tuple[float, float], copied: tuple[float, float], reads: tuple[int | None, int | None]
) -> None:
    assert break_even(mapped, copied) == reads

    def cost(line: tuple[float, float], number: int) -> float:
        return line[0] + (number - 1) * line[1]

    first, last = reads
    for number in range(1, 50):
        inside = first is not None and first <= number and (last is None or number <= last)
        assert inside == (cost(mapped, number) <= cost(copied, number))


def test_every_size_is_compared_with_every_way_to_copy() -> None:
    rows = dax_window(run())["break_even"]
    found = {
        (row["copied"], row["file_bytes"]): (row.get("reads_from"), row.get("reads_until"))
        for row in rows
        if row["measure"] == "instructions"
    }
    assert found == {
        ("copies", 4096): (5, None),
        ("copies", MIB): (1, None),
        ("copies_kept", 4096): (None, None),
        ("copies_kept", MIB): (1, 61),
    }
    assert {row["mapped"] for row in rows} == {"maps"}
    assert len(rows) == 8


def test_a_mapping_among_many_takes_as_long_as_copying_more() -> None:
    rows = dax_window(run())["live_ranges"]
    assert [(row["live_ranges"], row["regions"]) for row in rows] == [(50, 56), (1000, 1006)]
    assert [row["copied_bytes"] for row in rows] == [pytest.approx(1e6), pytest.approx(5e6)]


def test_a_window_costs_a_64th_of_itself() -> None:
    found = dax_window(run())
    assert found["memory_per_window"]["kvm1"] == pytest.approx(1 / 64)
    assert [(row["label"], row["n"]) for row in found["memory"]] == [("copies", 2), ("default", 2), ("maps", 2)]
    schema = json.loads(SCHEMA.read_text())
    jsonschema.Draft202012Validator(schema["properties"]["dax_window"] | {"$defs": schema["$defs"]}).validate(found)


def test_the_report_says_it() -> None:
    this = run()
    summary = {"probes": probes(this), "dax_window": dax_window(this)}
    (crossed,) = reread_sections(this, summary)
    table = crossed.blocks[-1]
    assert isinstance(table, Table)
    rows = {(row[0].text, row[3].text): [cell.text for cell in row] for row in table.rows}
    assert rows["copies", "again"][1:7] == ["none", "32", "again", "256", "-", "8"]
    assert rows["default", "again"][1:7] == ["512", "32", "again", "0", "-", "8"]
    (section,) = dax_window_sections(this, summary)
    text = " ".join(block.text for block in section.blocks if isinstance(block, Text))
    assert "4 KiB: from 5 reads on; 1 MiB: from the first read on." in text
    assert "4 KiB: never; 1 MiB: up to 61 reads." in text
    assert "512 MiB take 8.0 MiB" in text
    assert "times under TCG are not claims" in text


def test_another_run_has_no_such_sections() -> None:
    other = Run({"labels": {}, "probes": {"density": {"probe": "density"}}}, {}, (), 0)
    assert not is_dax_window(other)
    assert list(reread_sections(other, {"probes": []})) == list(dax_window_sections(other, {})) == []
