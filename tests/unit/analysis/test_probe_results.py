"""What the report says of probes' metrics."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from ansible.module_utils.onecopy.analysis.probe_results import probe_sections
from ansible.module_utils.onecopy.analysis.stored_run import Run


def row(label: str, metric: str, value: float, **more: Any) -> dict[str, Any]:
    return {"label": label, "guests": 1, "host": "kvm1", "probe": "idle_guest", "metric": metric, "value": value} | more


def sections(accelerator: str, *rows: dict[str, Any]) -> list[Any]:
    run = cast(Run, SimpleNamespace(accelerator=accelerator, hosts=["kvm1"]))
    return list(probe_sections(run, {"probes": rows}))


def test_systems_stand_down_and_metrics_across_with_their_units() -> None:
    (section,) = sections(
        "kvm",
        row("gfs", "guest_backed_bytes", 3 << 20, n=2, low=2 << 20, high=4 << 20),
        row("gfs", "merged_share_ratio", 0.25, n=2),
        row("myfs", "guest_backed_bytes", 1 << 30, n=1),
    )
    medians, intervals = section.blocks
    assert [(column.title, column.unit) for column in medians.columns] == [
        ("system", ""),
        ("guest backed", "MiB"),
        ("merged share", ""),
    ]
    assert [[cell.text for cell in cells] for cells in medians.rows] == [
        ["gfs", "3.00", "0.250"],
        ["myfs", "1,024.00", ""],
    ]
    assert [cell.text for cell in intervals.rows[0]] == ["gfs", "guest backed (MiB)", "3.00", "[2.00, 4.00]", "2"]
    assert intervals.folded


def test_emulated_seconds_come_with_their_warning() -> None:
    (section,) = sections("tcg", row("gfs", "hello_seconds", 1.5, n=1))
    assert section.blocks[0].tone == "warning"
    (section,) = sections("tcg", row("gfs", "maps_count", 15, n=1))
    assert section.blocks[0].kind == "table"
