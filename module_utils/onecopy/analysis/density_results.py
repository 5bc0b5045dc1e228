"""Section of the report on many guests: memory and storage against their number, who holds the memory, and the systems in order."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from . import figures
from .document import Block, Column, Figure, Figures, Section, Table, Text, text_row
from .ranking import GIVES_UP
from .results import row_name
from .stored_run import Run, group

Row = Mapping[str, Any]
MIB: Final = 1 << 20
# How far beyond the largest measured number of guests the lines are drawn.
_BEYOND: Final = 2
_FIGURES: Final = (
    ("physical_copies_ratio", "Copies of each page in frames", "copies", 1),
    ("used_bytes", "Memory of the machine in use", "MiB", MIB),
    ("storage_bytes", "Storage allocated", "MiB", MIB),
)
_HOLDERS: Final = (
    ("host", "host_cache_bytes", "host's page cache"),
    ("guest", "guests_cache_bytes", "guests' page caches"),
    ("guest-used", "guests_used_bytes", "guests' own"),
    ("guest-free", "guests_free_bytes", "freed in guests, still backed"),
    ("qemu", "qemu_bytes", "QEMU"),
    ("daemon", "daemons_bytes", "daemons"),
)


def density_sections(run: Run, summary: Row) -> Iterator[Section]:
    """Nothing for a run that did not ask how memory grows with guests."""
    rows = summary.get("density", [])
    if not rows:
        return
    blocks: list[Block] = [
        Text(
            "Every guest reads the same data once, one after another. Points are trials, lines are least squares through them; what is "
            "dashed lies beyond the measured numbers of guests and was not measured."
        ),
        _growth(rows),
        _ledger(run, summary),
        _ranking(run, rows),
    ]
    yield Section("density", "Many guests", blocks)


def _growth(rows: Sequence[Row]) -> Figures:
    drawn = []
    for metric, caption, unit, divisor in _FIGURES:
        found = [row for row in rows if row["metric"] == metric]
        lines = [
            figures.Line(
                row["system"],
                [(guests, value / divisor) for guests, value in row["points"]],
                row["fixed"] / divisor,
                row["per_guest"] / divisor,
            )
            for row in found
        ]
        most = _BEYOND * max(guests for line in lines for guests, _ in line.points)
        top = max(line.fixed + line.per_guest * most for line in lines)
        axes = ("guests", unit)
        drawn.append(
            Figure(
                caption,
                figures.growth(lines, title=f"{caption} by number of guests", axes=axes, most=(most, top * 1.05)),
            )
        )
    legend = dict.fromkeys((row["label"], row["system"].replace("_", "-")) for row in rows)
    return Figures(drawn, "Against the number of guests", list(legend))


def _ledger(run: Run, summary: Row) -> Figures:
    """Bars of one system and host in one panel, all on one axis."""
    probes = {label for label, entry in run.plan["probes"].items() if entry["probe"] == "density"}
    values: dict[tuple[str, int], dict[str, float]] = {}
    for row in summary["probes"]:
        if row["probe"] in probes:
            name = f"{row['label']} @ {row['host']}" if len(run.hosts) > 1 else str(row["label"])
            values.setdefault((name, row["guests"]), {})[row["metric"]] = row["value"]
    panels: dict[str, list[figures.Stack]] = {}
    for (name, guests), found in values.items():
        amounts = [found.get(metric, 0.0) / MIB for _, metric, _ in _HOLDERS]
        panels.setdefault(name, []).append(figures.Stack(f"{guests} guest{'s' if guests > 1 else ''}", amounts))
    most = 1.05 * max(sum(stack.amounts) for stacks in panels.values() for stack in stacks)
    drawn = [
        Figure(name, figures.holders(stacks, title=f"Who holds the memory: {name}", most=most))
        for name, stacks in panels.items()
    ]
    return Figures(
        drawn,
        "Who holds the machine's memory after the reading; without what the host itself uses, which does not grow with guests",
        [(words, f"party-{holder}") for holder, _, words in _HOLDERS],
    )


def _ranking(run: Run, rows: Sequence[Row]) -> Table:
    """Systems by the memory that one more guest takes; where merging was asked for, at its plateau."""
    found: list[tuple[float, Row, dict[str, Row]]] = []
    for _, several in group(rows, ("host", "system", "label")).items():
        by_metric = {row["metric"]: row for row in several}
        memory = by_metric.get("merged_used_bytes", by_metric["used_bytes"])
        found.append((memory["per_guest"], memory, by_metric))
    columns = [Column("system"), Column("memory per guest", "MiB", "right"), Column("95 % interval", "MiB", "right")]
    columns += [Column("fixed", "MiB", "right"), Column("copies per guest", "per page", "right")]
    columns += [Column("storage per guest", "MiB", "right"), Column("gives up")]
    cells = []
    for slope, memory, by_metric in sorted(found, key=lambda one: one[0]):
        copies = by_metric.get("merged_copies_ratio", by_metric["physical_copies_ratio"])
        limits = f"[{memory['low'] / MIB:,.1f}, {memory['high'] / MIB:,.1f}]" if "low" in memory else ""
        merged = " (merged)" if "merged_used_bytes" in by_metric else ""
        cells.append(
            text_row(
                row_name(run, {**memory, "guests": 1}) + merged,
                f"{slope / MIB:,.1f}",
                limits,
                f"{memory['fixed'] / MIB:,.1f}",
                f"{copies['per_guest']:.2f}",
                f"{by_metric['storage_bytes']['per_guest'] / MIB:,.1f}",
                GIVES_UP.get(memory["system"], ""),
            )
        )
    return Table(columns, cells, "By the memory that one more guest takes")
