"""Sections of the report that hold what probes found: one per probe, systems down, metrics across."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from . import coherence_results, overlap_results, rootfs_results
from .document import Block, Cell, Column, Section, Table, Text, text_row
from .overlap_results import overlap_tables
from .probe_figures import probe_figures, probe_row_name
from .results import TCG_BANNER
from .rootfs_results import rootfs_tables
from .stored_run import Run

Row = Mapping[str, Any]
MIB: Final = 1 << 20
_MOST_METRICS: Final = 12  # a wider table is for whoever looks for something
# How a metric is shown, by what its name ends in: heading's unit, divisor, format.
_UNITS: Final = {"bytes": ("MiB", MIB, "{:,.2f}"), "seconds": ("s", 1, "{:,.2f}"), "ratio": ("", 1, "{:.3f}")}


# What a probe cannot show in figures.
_SAYS: Final = {
    "diverge": "On a share (virtiofs, myfs) there is one file for all: what one guest overwrites all others see, nothing is copied and nothing "
    "diverges. With myfs that is at once for files in its window, since guests map the same page; where a guest caches for itself (virtiofs, "
    "small files of myfs), it may see the old content until it opens the file again. Guests of one image that all map or open read-only cannot "
    "overwrite at all.",
}


def probe_sections(run: Run, summary: Row) -> Iterator[Section]:
    """One section per probe: its figures, a table of medians, and one with the intervals that is closed until asked for."""
    rows = summary.get("probes", [])
    kinds = {label: str(entry["probe"]) for label, entry in run.plan.get("probes", {}).items()}
    for probe in dict.fromkeys(kinds[row["probe"]] for row in rows):
        if probe == coherence_results.PROBE:
            continue  # told there, in one table of cases
        found = [row for row in rows if kinds[row["probe"]] == probe]
        medians = rootfs_tables(run, found) if probe == rootfs_results.PROBE else [_medians(run, found)]
        blocks: list[Block] = [Text(_SAYS[probe])] if probe in _SAYS else []
        blocks += overlap_tables(run, found) if probe == overlap_results.PROBE else []
        blocks += [*probe_figures(run, probe), *medians]
        # One boot of everything has no interval anywhere.
        blocks += [_intervals(run, found)] if any("low" in row for row in found) else []
        if run.accelerator == "tcg" and any("seconds" in row["metric"] for row in found):
            blocks.insert(0, Text(TCG_BANNER, "warning"))
        yield Section(f"probe-{probe.replace('_', '-')}", f"Probe: {probe.replace('_', ' ')}", blocks)


def _medians(run: Run, rows: Sequence[Row]) -> Table:
    metrics = list(dict.fromkeys(row["metric"] for row in rows))
    table: dict[str, dict[str, str]] = {}
    for row in rows:
        table.setdefault(probe_row_name(run, row), {})[row["metric"]] = _shown(row["metric"], row["value"])
    columns = [Column("system"), *(Column(*_heading(metric), "right") for metric in metrics)]
    cells = [[Cell(name), *(Cell(values.get(metric, "")) for metric in metrics)] for name, values in table.items()]
    return Table(columns, cells, "Medians over boots", folded=len(metrics) > _MOST_METRICS)


def _intervals(run: Run, rows: Sequence[Row]) -> Table:
    columns = [Column("system"), Column("metric"), Column("median", align="right")]
    columns += [Column("95 % interval", align="right"), Column("boots", align="right")]
    cells = []
    for row in rows:
        name, unit = _heading(row["metric"])
        limits = f"[{_shown(row['metric'], row['low'])}, {_shown(row['metric'], row['high'])}]" if "low" in row else ""
        title = f"{name} ({unit})" if unit else name
        cells.append(
            text_row(probe_row_name(run, row), title, _shown(row["metric"], row["value"]), limits, str(row["n"]))
        )
    return Table(columns, cells, "The same with intervals", folded=True)


def _heading(metric: str) -> tuple[str, str]:
    """Words and unit of a metric; the unit that is shown replaces the one in the name."""
    ending = metric.rpartition("_")[2]
    if ending not in _UNITS:
        return metric.replace("_", " "), ""
    return metric.removesuffix(f"_{ending}").replace("_", " "), _UNITS[ending][0]


def _shown(metric: str, value: float) -> str:
    _, divisor, form = _UNITS.get(metric.rpartition("_")[2], ("", 1, "{:,.4g}" if abs(value) < 1000 else "{:,.0f}"))
    return form.format(value / divisor)
