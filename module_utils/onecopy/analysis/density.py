"""How memory grows with the number of guests: a straight line through the density probe's figures, per system, and how far it may be drawn on."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from typing import Any, Final

import numpy as np
from scipy import stats

from .stored_run import Record, Run, group

PROBE: Final = "density"
# What grows with the guests, by metric of the probe; the line's slope is per guest.
METRICS: Final = (
    "copies_ratio",
    "physical_copies_ratio",
    "merged_copies_ratio",
    "held_bytes",
    "merged_held_bytes",
    "used_bytes",
    "merged_used_bytes",
    "qemu_bytes",
    "daemons_bytes",
    "storage_bytes",
    "scanned_pages",
    "merging_scanned_pages",
)
_CONFIDENCE: Final = 0.95


def density(run: Run) -> list[dict[str, Any]]:
    """One row per host, label and metric that was measured at two numbers of guests at least.

    ``points``: (guests, value) of every trial; ``per_guest`` and ``fixed``: the line value = fixed + per_guest * guests by least squares;
    ``low`` and ``high``: 95 % t-interval of ``per_guest``, absent where nothing is left to judge it by (two points).
    """
    rows = []
    for (host, system, label), records in group(_records(run), ("host", "system", "label")).items():
        for metric in METRICS:
            points = sorted(_points(records, metric))
            if len({guests for guests, _ in points}) < 2:
                continue
            rows.append(
                {"host": host, "system": system, "label": label, "metric": metric, "points": points, **line(points)}
            )
    return rows


def is_density(run: Run) -> bool:
    """Whether the run asked how memory grows with guests."""
    return any(entry["probe"] == PROBE for entry in run.plan.get("probes", {}).values())


def _records(run: Run) -> Iterator[Record]:
    labels = {label for label, entry in run.plan.get("probes", {}).items() if entry["probe"] == PROBE}
    return (record for record in run.ok("probe") if record["workload"] in labels)


def _points(records: Sequence[Record], metric: str) -> Iterator[list[float]]:
    for record in records:
        value = record["probe"]["metrics"].get(metric)
        if value is not None:
            yield [record["guests"], value]


def line(points: Sequence[Sequence[float]]) -> dict[str, float]:
    """The line through (guests, value) by least squares, in the form of density()'s rows."""
    guests, values = (np.array(axis, dtype=float) for axis in zip(*points, strict=True))
    centred = guests - guests.mean()
    slope = float(centred @ (values - values.mean()) / (centred @ centred))
    fixed = float(values.mean() - slope * guests.mean())
    found = {"per_guest": slope, "fixed": fixed}
    freedom = len(points) - 2
    if freedom < 1:
        return found
    left = values - fixed - slope * guests
    error = math.sqrt(float(left @ left) / freedom / float(centred @ centred))
    half = float(stats.t.ppf((1 + _CONFIDENCE) / 2, freedom)) * error
    return found | {"low": slope - half, "high": slope + half}
