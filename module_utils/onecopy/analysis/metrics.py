"""What can be compared: one number of one record, by name."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Any

from .statistics import ADAPTIVE_CONFIDENCE, CONFIDENCE
from .stored_run import Record, Run

# The figure of each kind of trial that comparisons and adaptive repeats look at; of a probe all that it finds.
LEADING = {"timed": ("wall_seconds",), "residency": ("copies.all",)}
LEDGERS = ("host_pages", "guest_pages", "daemon_pages")


@dataclass(frozen=True, slots=True)
class Metric:
    """``kind`` is the kind of trial that holds it.

    ``clock`` tells that it comes from a clock, which under TCG is no claim. ``per_guest``: what is meant is how much it grows with every guest;
    ``is_spread``: how far boots are apart, largest minus smallest by their median.
    """

    name: str
    title: str
    kind: str
    clock: bool
    value: Callable[[Record], float | None]
    per_guest: bool = False
    is_spread: bool = False


def metric(name: str) -> Metric:
    """The metric called ``name``.

    ``wall_seconds``, ``copies.PART``, ``probe.METRIC``, ``slope.METRIC`` (a probe's, per guest), ``spread.METRIC`` (a probe's, over boots), or
    a counter of the I/O path of a timed trial.

    Raises ValueError for any other name.
    """
    if name == "wall_seconds":
        return Metric(name, "wall time", "timed", True, wall_seconds)
    if name.startswith("copies."):
        part = name.removeprefix("copies.")
        return Metric(name, f"copies of part {part}", "residency", False, lambda record: page_copies(record, part))
    if name.startswith("probe."):
        path = ["probe", "metrics", name.removeprefix("probe.")]
        return Metric(
            name, path[-1].replace("_", " "), "probe", "seconds" in name, lambda record: _number(record, path)
        )
    if name.startswith(("slope.", "spread.")):
        form, _, probed = name.partition(".")
        found, per_guest = metric(f"probe.{probed}"), form == "slope"
        title = f"{found.title} per guest" if per_guest else f"spread of {found.title} over boots"
        return replace(found, name=name, title=title, per_guest=per_guest, is_spread=not per_guest)
    if name.startswith("io_path."):
        path = name.split(".")
        return Metric(
            name,
            " ".join(path[1:]).replace("_", " "),
            "timed",
            "seconds" in path[-1],
            lambda record: _number(record, path),
        )
    if name.startswith("per_wanted_byte."):
        counter = metric("io_path." + name.removeprefix("per_wanted_byte."))
        return Metric(
            name,
            f"{counter.title} per wanted byte",
            "timed",
            counter.clock,
            lambda record: _per_wanted_byte(record, counter),
        )
    raise ValueError(
        f"unknown metric {name!r}: wall_seconds, copies.PART, probe.METRIC, slope.METRIC, spread.METRIC, io_path.LAYER.COUNTER, per_wanted_byte.LAYER.COUNTER"
    )


def wall_seconds(record: Record) -> float:
    return float(record["result"]["wall_seconds"])


def page_copies(record: Record, part: str) -> float | None:
    """Copies per accessed page of one residency trial; None when the trial did not count that part."""
    counts = record["copies"].get(part)
    return sum(counts[ledger] for ledger in LEDGERS) / float(counts["accessed_pages"]) if counts else None


def confidence(run: Run) -> float:
    """Nominal confidence of this run's intervals: higher where looking at them decided how often to boot."""
    return ADAPTIVE_CONFIDENCE if run.adaptive else CONFIDENCE


def _per_wanted_byte(record: Record, counter: Metric) -> float | None:
    value, wanted = counter.value(record), record["result"].get("wanted_bytes")
    return value / wanted if value is not None and wanted else None


def _number(record: Record, path: list[str]) -> float | None:
    value: Any = record
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    return float(value) if isinstance(value, int | float) else None
