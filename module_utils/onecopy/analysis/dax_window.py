"""When a DAX window pays: the break-even lines of mapping against copying, and what a window costs the guest's memory, from measured figures alone."""

from __future__ import annotations

import math
import statistics as plain
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from scipy import stats

from .metrics import metric
from .stored_run import Record, Run, by_boot, group

MEASURES: Final = ("instructions", "requests", "service_seconds")
_SIZES: Final = "file_sizes"
_TIMES: Final = ("first", "reread")
Costs = Mapping[float, tuple[float, float]]


def is_dax_window(run: Run) -> bool:
    """Whether the run asked what mapping costs by size of file."""
    return any(entry["probe"] == _SIZES for entry in run.plan.get("probes", {}).values())


def dax_window(run: Run) -> dict[str, Any]:
    """``break_even``: one row per size of file, measure, and pair of a label that maps every file with one that has no window.

    ``live_ranges``: per label that mapped many ranges what one more mapping costs, and how many bytes are copied in that time (``copied_bytes``).
    ``memory``: per label what the guest has in use beside its window, medians over boots; ``memory_per_window``: the slope of the line through
    them, bytes per byte of window, by host; absent for fewer than three windows.
    """
    memory = list(_memory(run))
    slopes = {host: _slope([row for row in memory if row["host"] == host]) for host in run.hosts}
    return {
        "break_even": list(_break_even(run)),
        "live_ranges": list(_live_ranges(run)),
        "memory": memory,
        "memory_per_window": {host: slope for host, slope in slopes.items() if slope is not None},
    }


def break_even(mapped: tuple[float, float], copied: tuple[float, float]) -> tuple[int | None, int | None]:
    """From which number of reads on, and up to which, mapping costs at most as much as copying; each (first read, every re-read).

    (None, None): at no number of reads; an end of None: for ever.
    """
    lead, gain = mapped[0] - copied[0], copied[1] - mapped[1]
    if lead <= 0:
        return 1, None if gain >= 0 else 1 + math.floor(lead / gain)
    return (1 + math.ceil(lead / gain), None) if gain > 0 else (None, None)


def _break_even(run: Run) -> Iterator[dict[str, Any]]:
    labels = {label for label, entry in run.plan["probes"].items() if entry["probe"] == _SIZES}
    records = [record for record in run.ok("probe") if record["workload"] in labels]
    for host in run.hosts:
        own = [record for record in records if record["host"] == host]
        mapped = [label for label in _labels(run, own) if _options(run, label).get("inode_dax_kib") == 0]
        copied = [label for label in _labels(run, own) if _options(run, label).get("window_mib") == 0]
        for one, other in ((one, other) for one in mapped for other in copied):
            for measure in MEASURES:
                left, right = (_costs([r for r in own if r["label"] == label], measure) for label in (one, other))
                for size in sorted(set(left) & set(right)):
                    row = {"host": host, "mapped": one, "copied": other, "measure": measure, "file_bytes": size}
                    for name, costs in (("mapped", left[size]), ("copied", right[size])):
                        row |= {f"{name}_{when}": cost for when, cost in zip(_TIMES, costs, strict=True)}
                    first, last = break_even(left[size], right[size])
                    limits = {"reads_from": first, "reads_until": last}
                    yield row | {name: reads for name, reads in limits.items() if reads is not None}


def _costs(records: Sequence[Record], measure: str) -> Costs:
    """By size of file: cost per file of the first read and of a re-read, medians over boots."""
    found = {when: _medians(records, f"{when}_{measure}") for when in _TIMES}
    return {size: (first, found["reread"][size]) for size, first in found["first"].items() if size in found["reread"]}


def _live_ranges(run: Run) -> Iterator[dict[str, Any]]:
    counted = [record for record in run.ok("probe") if "copy_seconds_per_byte" in record["probe"]["metrics"]]
    for (host, system, label), records in group(counted, ("host", "system", "label")).items():
        copy = plain.median(record["probe"]["metrics"]["copy_seconds_per_byte"] for record in records)
        found = {
            name: _medians(records, f"{name}_by_live_ranges") for name in ("map_seconds", "qemu_seconds", "regions")
        }
        for live, seconds in found["map_seconds"].items():
            row = {"host": host, "system": system, "label": label, "live_ranges": live, "copied_bytes": seconds / copy}
            yield row | {name: values[live] for name, values in found.items()}


def _medians(records: Sequence[Record], series: str) -> dict[float, float]:
    values: dict[float, list[float]] = {}
    for record in records:
        for at, value in record["probe"].get("series", {}).get(series, []):
            values.setdefault(at, []).append(value)
    return {at: plain.median(each) for at, each in sorted(values.items())}


def _memory(run: Run) -> Iterator[dict[str, Any]]:
    counted = [record for record in run.ok("probe") if "window_bytes" in record["probe"]["metrics"]]
    for (host, system, label), records in group(counted, ("host", "system", "label")).items():
        # The first trial of a boot has the least: what later ones find was left by those before them.
        used = [min(each) for each in by_boot(records, metric("probe.guest_used_bytes").value).values()]
        row = {"host": host, "system": system, "label": label}
        yield row | {
            "window_bytes": records[0]["probe"]["metrics"]["window_bytes"],
            "guest_used_bytes": plain.median(used),
            "n": len(used),
        }


def _slope(rows: Sequence[Mapping[str, Any]]) -> float | None:
    windows = [row["window_bytes"] for row in rows]
    if len(set(windows)) < 3:
        return None
    return float(stats.linregress(windows, [row["guest_used_bytes"] for row in rows]).slope)


def _labels(run: Run, records: Sequence[Record]) -> list[str]:
    return [label for label in run.plan["labels"] if any(record["label"] == label for record in records)]


def _options(run: Run, label: str) -> Mapping[str, Any]:
    options: Mapping[str, Any] = run.plan["labels"][label]["options"]
    return options
