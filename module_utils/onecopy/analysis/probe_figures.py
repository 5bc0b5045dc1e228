"""Curves that probes found: one small figure for every system and parameter set, all of one kind on the same axes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, NamedTuple

from . import figures
from .document import Figure, Figures
from .results import row_name
from .stored_run import Run, group

_MIB: Final = 1 << 20


class _Curve(NamedTuple):
    """One series that is drawn: its caption, the titles of both axes, what divides y and x, and where y ends (None: at its largest)."""

    caption: str
    x: str
    y: str
    divisor: float = 1
    most: float | None = None
    x_divisor: float = 1


_CURVES: Final = {
    ("reclaim", "returned_bytes"): _Curve(
        "What the host got back after the guest had freed it, one line per boot", "seconds since", "MiB", _MIB
    ),
    ("ksm_cost", "saved_bytes"): _Curve(
        "Memory that merging saved after the data had been read, one line per boot", "seconds since", "MiB", _MIB
    ),
    ("diverge", "own_by_overwritten_bytes"): _Curve(
        "What a guest has for itself alone, by what it overwrote", "MiB overwritten", "MiB", _MIB, x_divisor=_MIB
    ),
    ("diverge", "host_cached_own_by_overwritten_bytes"): _Curve(
        "What the host caches of a guest's own image, by what it overwrote",
        "MiB overwritten",
        "MiB",
        _MIB,
        x_divisor=_MIB,
    ),
    ("file_sizes", "first_instructions"): _Curve(
        "Guest instructions for the first read of a file, by its size", "KiB", "instructions", x_divisor=1024
    ),
    ("map_cost", "map_seconds_by_live_ranges"): _Curve(
        "How long the daemon waits for QEMU per mapping, by live ranges", "live ranges", "ms", 0.001
    ),
    ("map_cost", "regions_by_live_ranges"): _Curve(
        "Memory regions that QEMU manages, by live ranges", "live ranges", "regions"
    ),
    ("ksm_cost", "merged_by_life_ratio"): _Curve(
        "Share of pages that were merged before they were dropped", "seconds that they lived", "share", most=1.05
    ),
}


def probe_row_name(run: Run, row: Mapping[str, Any], label: str = "probe") -> str:
    """How a row is called: as everywhere, and by its probe's label where the same probe ran with several parameter sets."""
    probes = run.plan["probes"]
    kind = probes[row[label]]["probe"]
    several = sum(entry["probe"] == kind for entry in probes.values()) > 1
    return row_name(run, row) + (f", {row[label].replace('_', ' ')}" if several else "")


def probe_figures(run: Run, probe: str) -> Iterator[Figures]:
    """The figures of one probe."""
    labels = {label for label, entry in run.plan["probes"].items() if entry["probe"] == probe}
    records = [record for record in run.ok("probe") if record["workload"] in labels]
    for (kind, name), drawn in _CURVES.items():
        panels = group(
            [record for record in records if name in record["probe"].get("series", {})],
            ("system", "label", "guests", "host", "workload"),
        )
        if kind != probe or not panels:
            continue
        lines = {
            key: [
                [(x / drawn.x_divisor, y / drawn.divisor) for x, y in record["probe"]["series"][name]]
                for record in found
            ]
            for key, found in panels.items()
        }
        points = [point for curves in lines.values() for curve in curves for point in curve]
        most = max(x for x, _ in points), drawn.most or 1.05 * max(1.0, *(y for _, y in points))
        yield Figures(
            [
                Figure(
                    title := probe_row_name(run, panels[key][0], "workload"),
                    figures.curve(
                        curves, system=key[0], title=f"{drawn.caption}: {title}", axes=(drawn.x, drawn.y), most=most
                    ),
                )
                for key, curves in lines.items()
            ],
            drawn.caption,
        )
