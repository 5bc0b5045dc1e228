"""Section of the report on many guests: copies, memory and storage against their number, who holds the memory, and the systems in order."""

from __future__ import annotations

import statistics
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from . import figures
from .density import PROBE
from .document import Block, Column, Figure, Figures, Key, Section, Table, Text, text_row
from .results import row_name
from .stored_run import Run, group
from .tradeoffs import TRADE_OFFS, TradeOff
from .verdicts import TCG_REASON

Row = Mapping[str, Any]
MIB: Final = 1 << 20
# How far beyond the largest measured number of guests the lines are drawn.
_BEYOND: Final = 2
_OVERVIEWS: Final = (
    ("physical_copies_ratio", "Copies of each page, in frames", "copies", 1),
    ("held_bytes", "Memory held", "MiB", MIB),
    ("storage_bytes", "Storage allocated", "MiB", MIB),
)
# Where KSM merged, at its plateau: drawn beside the figure before it.
_MERGED: Final = {"physical_copies_ratio": "merged_copies_ratio", "held_bytes": "merged_held_bytes"}
_HOLDERS: Final = (
    ("host", "host_data_bytes", "host's cache of the data"),
    ("guest", "guests_cache_bytes", "guests' page caches"),
    ("guest-used", "guests_used_bytes", "guests' own"),
    ("guest-free", "guests_free_bytes", "freed in guests, still backed"),
    ("qemu", "qemu_bytes", "QEMU"),
    ("daemon", "daemons_bytes", "daemons"),
    ("unexplained", "unexplained_bytes", "unexplained"),
)
# Of the whole machine, strangers included.
_WHOLE: Final = (
    ("", "host_cache_bytes", "host's cache, all"),
    ("", "host_used_bytes", "host's own"),
    ("", "used_bytes", "machine in use"),
)
_TIMES: Final = (
    ("all_ready_seconds", "all guests ready"),
    ("slowest_start_seconds", "slowest guest's start"),
    ("first_read_seconds", "first guest's read"),
    ("later_read_seconds", "a later guest's read"),
)
_HELD: Final = "Memory that guests, QEMUs and daemons hold, and the host's cache of their storage"
_DASHED: Final = (
    "what is dashed of a line lies outside of the numbers of guests that it was measured at: extrapolated, not measured"
)


def density_sections(run: Run, summary: Row) -> Iterator[Section]:
    """Nothing for a run that did not ask how memory grows with guests."""
    rows = summary.get("density", [])
    if not rows:
        return
    most = int(max(guests for row in rows for guests, _ in row["points"]))
    blocks: list[Block] = [
        Text(
            f"Every guest reads the same data once, one after another. Points are trials, lines are least squares through them; {_DASHED}."
        ),
        *_too_many(run),
        _copies(run, rows),
        *(_overview(run, rows, host) for host in run.hosts),
        _memory(run, rows),
        _ledger_figures(run, summary),
        _ledger_table(run, summary),
        _ranking(run, summary, rows, most),
        _growth(run, rows),
        _starts(run, summary),
    ]
    yield Section("density", "Many guests", blocks)


def _too_many(run: Run) -> Iterator[Text]:
    """Numbers of guests that were not tried, once for each reason."""
    reasons = {entry["reason"]: None for entry in run.plan.get("excluded", []) if entry.get("guests", 1) > 1}
    for reason in reasons:
        yield Text(f"Not tried: {reason}.", "open")


def _copies(run: Run, rows: Sequence[Row]) -> Table:
    """Copies as counted, beside those by design."""
    found = [row for row in rows if row["metric"] in ("physical_copies_ratio", "merged_copies_ratio")]
    numbers = sorted({int(guests) for row in found for guests, _ in row["points"]})
    columns = [
        Column("system"),
        *(Column(f"{number}", "guest" if number == 1 else "guests", "right") for number in numbers),
    ]
    columns += [
        Column("per guest", align="right"),
        Column("95 % interval", align="right"),
        Column("by design", "N guests"),
    ]
    cells = []
    for row in found:
        values = {number: [value for guests, value in row["points"] if guests == number] for number in numbers}
        merged = row["metric"] == "merged_copies_ratio"
        design, _, after = _trade_off(row).copies.partition(", merged ")
        cells.append(
            text_row(
                _name(run, row) + (" (merged)" if merged else ""),
                *(f"{statistics.median(values[number]):.2f}" if values[number] else "" for number in numbers),
                f"{row['per_guest']:.2f}",
                f"[{row['low']:.2f}, {row['high']:.2f}]" if "low" in row else "",
                after if merged else design,
            )
        )
    return Table(
        columns,
        cells,
        "Copies of each page, in frames (a file system's small files below a window's threshold count too)",
    )


def _overview(run: Run, rows: Sequence[Row], host: str) -> Figures:
    """All systems in one figure for each question."""
    at = f" @ {host}" if len(run.hosts) > 1 else ""
    keys = _keys([row for row in rows if row["host"] == host])
    drawn = []
    for metric, caption, unit, divisor in _OVERVIEWS:
        wanted = (metric, _MERGED.get(metric))
        found = [row for row in rows if row["metric"] in wanted and row["host"] == host]
        lines = [_line(row, divisor, keys[_identity(row)].shape) for row in found]
        drawn.append(
            Figure(
                caption + at,
                figures.growth(
                    lines, title=f"{caption} by number of guests{at}", axes=("guests", unit), most=_most(lines)
                ),
            )
        )
    return Figures(drawn, f"Against the number of guests: {_DASHED}", list(keys.values()))


def _identity(row: Row) -> tuple[str, str, bool]:
    """System, label, and whether KSM has merged."""
    return row["system"], row["label"], row["metric"] in _MERGED.values()


def _keys(rows: Sequence[Row]) -> dict[tuple[str, str, bool], Key]:
    """The legend: a system has a colour, and what is drawn of it a shape each."""
    metrics = {*(metric for metric, *_ in _OVERVIEWS), *_MERGED.values()}
    keys: dict[tuple[str, str, bool], Key] = {}
    for system, label, merged in dict.fromkeys(_identity(row) for row in rows if row["metric"] in metrics):
        shape = figures.SHAPES[sum(other == system for other, _, _ in keys) % len(figures.SHAPES)]
        words = label + (" (merged)" if merged else "")
        keys[system, label, merged] = Key(words, system.replace("_", "-"), shape)
    return keys


def _memory(run: Run, rows: Sequence[Row]) -> Figures:
    """Memory held, one panel for each system, all on the same axes."""
    found = [row for row in rows if row["metric"] == "held_bytes"]
    merged = {(row["host"], row["label"]): row for row in rows if row["metric"] == "merged_held_bytes"}
    lines = {
        id(row): [
            _line(one, MIB, shape)
            for one, shape in zip((row, merged.get((row["host"], row["label"]))), figures.SHAPES, strict=False)
            if one
        ]
        for row in found
    }
    most = _most([line for several in lines.values() for line in several])
    drawn = []
    for row in found:
        name = _name(run, row)
        is_merged = " (and merged: ▲)" if len(lines[id(row)]) > 1 else ""
        svg = figures.growth(
            lines[id(row)],
            title=f"Memory held by number of guests: {name}",
            axes=("guests", "MiB"),
            most=most,
            is_small=True,
        )
        drawn.append(Figure(name + is_merged, svg))
    caption = f"{_HELD}, against their number. The band is the 95 % interval of the slope; {_DASHED}"
    return Figures(drawn, caption)


def _line(row: Row, divisor: float, shape: str) -> figures.Line:
    limits = (row["low"] / divisor, row["high"] / divisor) if "low" in row else None
    points = [(guests, value / divisor) for guests, value in row["points"]]
    return figures.Line(row["system"], points, row["fixed"] / divisor, row["per_guest"] / divisor, limits, shape)


def _most(lines: Sequence[figures.Line]) -> tuple[float, float]:
    """Ends of both axes."""
    guests = _BEYOND * max(guests for line in lines for guests, _ in line.points)
    return guests, 1.05 * max(line.fixed + line.per_guest * guests for line in lines)


def _holders(run: Run, summary: Row) -> dict[str, dict[int, dict[str, float]]]:
    """Medians by name, number of guests and metric."""
    probes = {label for label, entry in run.plan["probes"].items() if entry["probe"] == PROBE}
    values: dict[str, dict[int, dict[str, float]]] = {}
    for row in summary["probes"]:
        if row["probe"] in probes:
            values.setdefault(_name(run, row), {}).setdefault(row["guests"], {})[row["metric"]] = row["value"]
    return values


def _ledger_figures(run: Run, summary: Row) -> Figures:
    """Bars of one system and host in one panel, all on one axis."""
    panels = {
        name: [
            figures.Stack(
                f"{guests} guest{'s' if guests > 1 else ''}",
                [found.get(metric, 0.0) / MIB for _, metric, _ in _HOLDERS],
            )
            for guests, found in sorted(by_guests.items())
        ]
        for name, by_guests in _holders(run, summary).items()
    }
    every = [stack for stacks in panels.values() for stack in stacks]
    most = max(sum(amount for amount in stack.amounts if amount > 0) for stack in every)
    ends = (1.05 * min(0.0, *(min(stack.amounts) for stack in every)), 1.05 * most)
    drawn = [
        Figure(name, figures.holders(stacks, title=f"Who holds the memory: {name}", ends=ends))
        for name, stacks in panels.items()
    ]
    return Figures(
        drawn,
        "Who holds the memory after the reading; unexplained is what the change during the reading leaves over, left of zero where the parties "
        "gained more than the machine did",
        [Key(words, f"party-{holder}") for holder, _, words in _HOLDERS],
    )


def _ledger_table(run: Run, summary: Row) -> Table:
    columns = [Column("system"), Column("guests", align="right")]
    columns += [Column(words, "MiB", "right") for _, _, words in (*_HOLDERS, *_WHOLE)]
    metrics = [metric for _, metric, _ in (*_HOLDERS, *_WHOLE)]
    rows = [
        text_row(name, str(guests), *(f"{found[metric] / MIB:,.1f}" if metric in found else "" for metric in metrics))
        for name, by_guests in _holders(run, summary).items()
        for guests, found in sorted(by_guests.items())
    ]
    return Table(
        columns,
        rows,
        "The ledger in numbers",
        folded=True,
    )


class _Place(NamedTuple):
    """One system in the ranking: rows of density() by metric; ``moved``: bytes per byte read, where counted."""

    memory: Row
    by_metric: Mapping[str, Row]
    moved: float | None

    @property
    def cost(self) -> tuple[bool, float]:
        """Who scans comes after everybody who does not; then by the bytes that were moved."""
        visits = self.by_metric.get("merging_scanned_pages")
        is_scanned = visits is not None and visits["per_guest"] > 0
        return is_scanned, float("inf") if self.moved is None else round(self.moved, 1)


def _places(run: Run, summary: Row, rows: Sequence[Row], host: str) -> list[_Place]:
    holders = _holders(run, summary)
    found = []
    for _, several in group([row for row in rows if row["host"] == host], ("host", "system", "label")).items():
        by_metric = {row["metric"]: row for row in several}
        # Where merging was asked for, at its plateau.
        memory = by_metric.get("merged_held_bytes", by_metric["held_bytes"])
        moved = [each.get("moved_per_read_ratio") for each in holders[_name(run, memory)].values()]
        counted = [value for value in moved if value is not None]
        found.append(_Place(memory, by_metric, statistics.median(counted) if counted else None))
    return found


def _at(row: Row, guests: int) -> tuple[float, bool]:
    """The value per guest with so many of them, and whether it was measured or is the line's."""
    values = [value for number, value in row["points"] if number == guests]
    value = statistics.median(values) if values else row["fixed"] + row["per_guest"] * guests
    return value / guests, bool(values)


def _ranking(run: Run, summary: Row, rows: Sequence[Row], most: int) -> Table:
    """The systems in order, with what each gives up."""
    columns = [Column("by memory", "rank", "right"), Column("by cost", "rank", "right"), Column("system")]
    columns += [
        Column("memory", f"MiB per guest of {most}", "right"),
        Column("moved", "bytes per byte", "right"),
        Column("KSM visits", "pages per guest", "right"),
        *(Column(title, "given up") for title in ("isolation", "coherence", "writing", "side channels")),
    ]
    cells = []
    for host in run.hosts:
        places = sorted(_places(run, summary, rows, host), key=lambda place: _at(place.memory, most))
        costs = sorted(place.cost for place in places)
        for rank, place in enumerate(places, 1):
            memory, by_metric = place.memory, place.by_metric
            visits = by_metric.get("merging_scanned_pages")
            value, is_measured = _at(memory, most)
            cells.append(
                text_row(
                    str(rank),
                    str(costs.index(place.cost) + 1),
                    _name(run, memory) + (" (merged)" if "merged_held_bytes" in by_metric else ""),
                    _mib(value) + ("" if is_measured else " (extrapolated)"),
                    "" if place.moved is None else f"{place.moved:.2f}",
                    f"{visits['per_guest']:,.0f}" if visits else "",
                    *_trade_off(memory)[1:],
                )
            )
    return Table(
        columns,
        cells,
        f"Systems by memory per guest with {most} guests, and by cost (bytes moved below the guests' programs, then scanning), with what each gives up",
    )


def _growth(run: Run, rows: Sequence[Row]) -> Table:
    """The slopes: what one more guest takes."""
    parts = (("QEMU", "qemu_bytes"), ("daemon", "daemons_bytes"), ("storage", "storage_bytes"))
    columns = [
        Column("system"),
        *(Column(title, "MiB", "right") for title in ("memory", "95 % interval", "fixed part")),
    ]
    columns += [Column(title, "MiB", "right") for title, _ in parts]
    slopes = {(row["host"], row["label"], row["metric"]): row["per_guest"] for row in rows}
    cells = []
    for row in rows:
        if row["metric"] not in ("held_bytes", "merged_held_bytes"):
            continue
        values = [slopes.get((row["host"], row["label"], metric)) for _, metric in parts]
        cells.append(
            text_row(
                _name(run, row) + (" (merged)" if row["metric"] == "merged_held_bytes" else ""),
                _mib(row["per_guest"]),
                f"[{_mib(row['low'])}, {_mib(row['high'])}]" if "low" in row else "",
                _mib(row["fixed"]),
                *("" if value is None else _mib(value) for value in values),
            )
        )
    return Table(columns, cells, "What one more guest takes, and the fixed part apart", folded=True)


def _starts(run: Run, summary: Row) -> Table:
    columns = [Column("system"), Column("guests", align="right")]
    columns += [Column(words, "seconds", "right") for _, words in _TIMES]
    rows = [
        text_row(name, str(guests), *(f"{found[metric]:.2f}" if metric in found else "" for metric, _ in _TIMES))
        for name, by_guests in _holders(run, summary).items()
        for guests, found in sorted(by_guests.items())
    ]
    caption = "Time to start and to read" + (f" ({TCG_REASON})" if run.accelerator == "tcg" else "")
    return Table(columns, rows, caption, folded=True)


def _trade_off(row: Row) -> TradeOff:
    return TRADE_OFFS[row["system"]]


def _name(run: Run, row: Row) -> str:
    return row_name(run, {**row, "guests": 1})


def _mib(value: float) -> str:
    return f"{value / MIB:,.1f}"
