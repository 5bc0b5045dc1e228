"""Section of the report on the DAX window: what re-reads move to the host, from where on mapping pays, what a window costs a guest."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from ..probes.reader import RANGE_BYTES
from .document import Block, Cell, Column, Section, Table, Text, text_row
from .results import row_name
from .stored_run import Run
from .verdicts import TCG_REASON

Row = Mapping[str, Any]
_MIB: Final = 1 << 20
_KIB: Final = 1 << 10
_COSTS: Final = ("mapped_first", "mapped_reread", "copied_first", "copied_reread")
# Metric, heading, unit, divisor, form.
_CROSSED: Final = (
    ("read_requests", "READ", "requests", 1, "{:,.0f}"),
    ("read_bytes", "copied by READ", "MiB", _MIB, "{:,.1f}"),
    ("map_requests", "maps", "requests", 1, "{:,.0f}"),
    ("unmap_requests", "unmaps", "requests", 1, "{:,.0f}"),
    ("requests", "all FUSE", "requests", 1, "{:,.0f}"),
    ("daemon_read_bytes", "daemon read", "MiB", _MIB, "{:,.1f}"),
    ("block_bytes", "guest block", "MiB", _MIB, "{:,.1f}"),
    ("guest_faults", "guest faults", "", 1, "{:,.0f}"),
    ("qemu_faults", "QEMU faults", "", 1, "{:,.0f}"),
    ("instructions_per_byte", "guest instructions", "per byte", 1, "{:,.3f}"),
    ("service_seconds", "daemon busy", "ms", 0.001, "{:,.1f}"),
)
_WORDS: Final = {
    "instructions": "guest instructions",
    "requests": "requests to the daemon",
    "service_seconds": "seconds of the daemon",
}


def reread_sections(run: Run, summary: Row) -> Iterator[Section]:
    """What crossed to the host at a first read and at a re-read; nothing for a run that did not ask."""
    labels = [label for label, entry in run.plan.get("probes", {}).items() if entry["probe"] == "reread"]
    rows = [row for row in summary.get("probes", []) if row["probe"] in labels]
    if not rows:
        return
    blocks: list[Block] = [
        Text(
            "Large files, read from a cold guest over a warm host, then again and again; medians over boots. A page that is mapped needs no "
            "READ: what it needs in its place (maps and unmaps, which are SETUPMAPPING and REMOVEMAPPING requests of 2 MiB each, and faults) "
            "stands beside it, because moved is not removed. Faults of the guest are those "
            "of the reading program; QEMU's are of its whole process. A dash: this path has no such counter."
        )
    ]
    if _is_tcg(run):
        blocks.append(Text(f"Seconds come from a clock: {TCG_REASON}.", "warning"))
    for label in labels:
        blocks.append(_crossed(run, [row for row in rows if row["probe"] == label], _pattern(run, label)))
    yield Section("rereads", "Re-reading: what crosses to the host", blocks)


def dax_window_sections(run: Run, summary: Row) -> Iterator[Section]:
    """Nothing for a run that did not ask what mapping costs by size of file."""
    found = summary.get("dax_window")
    if not found:
        return
    blocks: list[Block] = [Text(f"Seconds come from a clock: {TCG_REASON}.", "warning")] if _is_tcg(run) else []
    blocks += [
        Text(
            "A mapping costs the guest little, and QEMU and the daemon the more the more ranges are live: what the guest saves in "
            "instructions and requests the host may spend. Break-even is where both ways cost the same, by each measure; a second of the "
            "daemon is its CPU and its waiting for QEMU, with as few live ranges as the files need."
        )
    ]
    blocks += [Text(line) for line in _lines(found["break_even"])]
    blocks += [_break_even(found["break_even"])]
    blocks += [_live_ranges(run, found["live_ranges"])] if found["live_ranges"] else []
    blocks += _memory(run, found)
    yield Section("dax-window", "When a DAX window pays", blocks)


def _is_tcg(run: Run) -> bool:
    return run.accelerator == "tcg"


def _pattern(run: Run, label: str) -> str:
    return str(run.plan["probes"][label]["parameters"]["pattern"])


def _crossed(run: Run, rows: Sequence[Row], pattern: str) -> Table:
    values: dict[str, dict[str, float]] = {}
    for row in rows:
        values.setdefault(row_name(run, row), {})[row["metric"]] = row["value"]
    columns = [Column("system"), Column("window", "MiB", "right"), Column("read", "MiB", "right"), Column("when")]
    columns += [Column(title, unit, "right") for _, title, unit, _, _ in _CROSSED]
    columns.append(Column("cached in the guest", "MiB", "right"))
    cells = []
    for name, found in values.items():
        for when in ("first", "reread"):
            each = [
                form.format(found[f"{when}_{key}"] / divisor) if f"{when}_{key}" in found else "-"
                for key, _, _, divisor, form in _CROSSED
            ]
            cached = f"{found['guest_cached_bytes'] / _MIB:,.1f}" if when == "reread" else ""
            window = f"{found['window_bytes'] / _MIB:,.0f}" if found.get("window_bytes") else "none"
            size = f"{found['working_set_bytes'] / _MIB:,.0f}"
            cells.append(text_row(name, window, size, "first" if when == "first" else "again", *each, cached))
    return Table(columns, cells, f"What crosses to the host, {pattern} reading")


def _lines(rows: Sequence[Row]) -> Iterator[str]:
    """One sentence per measure and pair of labels."""
    for host, mapped, copied, measure in dict.fromkeys(
        (row["host"], row["mapped"], row["copied"], row["measure"]) for row in rows
    ):
        key = {"host": host, "mapped": mapped, "copied": copied, "measure": measure}
        own = [row for row in rows if all(row[name] == value for name, value in key.items())]
        reads = {_reads(row) for row in own}
        parts = [f"{_size(row)}: {_reads(row)}" for row in own] if len(reads) > 1 else [f"every size: {reads.pop()}"]
        yield f"Break-even in {_WORDS[measure]}, {mapped} (maps) against {copied} (copies), by size of file: {'; '.join(parts)}."


def _break_even(rows: Sequence[Row]) -> Table:
    columns = [Column("measure"), Column("copied by"), Column("file", "", "right")]
    columns += [Column(name.replace("_", ", "), "per file", "right") for name in _COSTS]
    columns.append(Column("mapping costs less"))
    cells = []
    for row in rows:
        tone: Any = "good" if row.get("reads_from") == 1 and "reads_until" not in row else "plain"
        cells.append(
            [
                *text_row(_WORDS[row["measure"]], row["copied"], _size(row), *(f"{row[name]:,.4g}" for name in _COSTS)),
                Cell(_reads(row), tone),
            ]
        )
    return Table(columns, cells, "Cost per file of the first read and of every re-read, mapped and copied")


def _live_ranges(run: Run, rows: Sequence[Row]) -> Table:
    columns = [Column("system"), Column("live ranges", align="right"), Column("memory regions of QEMU", align="right")]
    columns += [Column("one mapping", "ms of the daemon", "right"), Column("", "ms of QEMU's main thread", "right")]
    columns += [Column("as long as copying", "MiB", "right"), Column("a whole range pays from", "reads", "right")]
    cells = [
        text_row(
            row_name(run, {**row, "guests": 1}),
            f"{row['live_ranges']:,.0f}",
            f"{row['regions']:,.0f}",
            f"{row['map_seconds'] * 1000:,.2f}",
            f"{row['qemu_seconds'] * 1000:,.2f}",
            f"{row['copied_bytes'] / _MIB:,.2f}",
            f"{math.ceil(row['copied_bytes'] / RANGE_BYTES):,}",
        )
        for row in rows
    ]
    return Table(
        columns,
        cells,
        "One more mapping, by live ranges; a whole range is 2 MiB",
    )


def _memory(run: Run, found: Row) -> Iterator[Block]:
    for host, slope in found["memory_per_window"].items():
        where = f" on {host}" if len(run.hosts) > 1 else ""
        yield Text(
            f"A window takes {slope:.4f} bytes of the guest's own memory per byte{where} (1/{1 / slope:,.0f}; least squares through the table below), "
            f"used or not: 512 MiB take {512 * slope:,.1f} MiB. It pays in memory when the guest would cache more than that."
            if slope > 0
            else f"The guest's memory does not grow with its window{where}."
        )
    columns = [Column("system"), Column("window", "MiB", "right"), Column("guest memory in use", "MiB", "right")]
    columns.append(Column("boots", align="right"))
    cells = [
        text_row(
            row_name(run, {**row, "guests": 1}),
            f"{row['window_bytes'] / _MIB:,.0f}",
            f"{row['guest_used_bytes'] / _MIB:,.2f}",
            str(row["n"]),
        )
        for row in sorted(found["memory"], key=lambda row: row["window_bytes"])
    ]
    yield Table(columns, cells, "Guest memory in use before anything is read, after dropping what can be dropped")


def _size(row: Row) -> str:
    kib = row["file_bytes"] / _KIB
    return f"{kib / 1024:g} MiB" if kib >= 1024 else f"{kib:g} KiB"


def _reads(row: Row) -> str:
    if "reads_from" not in row:
        return "never"
    first = "from the first read on" if row["reads_from"] == 1 else f"from {row['reads_from']} reads on"
    if "reads_until" not in row:
        return first
    return "for a single read" if row["reads_until"] == 1 else f"up to {row['reads_until']} reads"
