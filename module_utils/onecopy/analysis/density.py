"""How memory grows with the number of guests: a straight line through the density probe's figures, per system, and how far it may be drawn on."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from scipy import stats

from .stored_run import Record, Run, group

PROBE: Final = "density"
# What grows with the guests, by metric of the probe; the line's slope is per guest.
METRICS: Final = (
    "copies_ratio",
    "physical_copies_ratio",
    "merged_copies_ratio",
    "used_bytes",
    "merged_used_bytes",
    "storage_bytes",
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
                {"host": host, "system": system, "label": label, "metric": metric, "points": points, **_line(points)}
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


def _line(points: Sequence[Sequence[float]]) -> Mapping[str, float]:
    fit = stats.linregress([guests for guests, _ in points], [value for _, value in points])
    found = {"per_guest": float(fit.slope), "fixed": float(fit.intercept)}
    freedom = len(points) - 2
    if freedom < 1:
        return found
    half = float(stats.t.ppf((1 + _CONFIDENCE) / 2, freedom) * fit.stderr)
    return found | {"low": found["per_guest"] - half, "high": found["per_guest"] + half}
