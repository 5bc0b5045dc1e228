"""Sections of the report that account for resources: who holds the machine's memory, and what crossed each layer."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from .document import Block, Column, Section, Table, Text, text_row
from .results import exact_state, row_name
from .stored_run import Run
from .verdicts import TCG_REASON

Row = Mapping[str, Any]
_MIB = 1 << 20
# Columns of the change of memory: heading, counter of the ledger's change.
_CHANGES = (
    ("all but free", "used_and_cache_bytes"),
    ("host cache", "cache_bytes"),
    ("guest RAM", "guest_memory_bytes"),
    ("QEMU", "qemu_bytes"),
    ("daemon", "daemon_bytes"),
    ("kernel", "kernel_bytes"),
    ("others", "others_bytes"),
    ("outside", "outside_bytes"),
    ("merged", "merged_bytes"),
    ("unexplained", "remainder_bytes"),
)
_PARTIES = ("host", "guests", "qemu", "daemons")
_KINDS = ("used", "cache", "free")
_INDEPENDENT = (
    "Others are visible processes that are no party, counted one by one; outside are those that a container does not see: the machine's less what "
    "the container's cgroup counts. Neither is taken from the parties, so one that is counted wrong is unexplained."
)
_LEFT_OVER = (
    "This run is from before others were counted by themselves: they are what the parties leave of the machine's, and would hide a party that is "
    "counted wrong."
)
# Columns of the amplification: heading, layer, counter.
_BYTES = (
    ("guest block", "guest", "read_bytes"),
    ("QEMU block", "qemu_block", "read_bytes"),
    ("hostfsd reads", "fuse", "read_bytes"),
    ("daemon reads", "daemon", "read_call_bytes"),
    ("store", "store", "read_bytes"),
)
_REQUESTS = (
    ("guest block", "guest", "read_requests"),
    ("QEMU block", "qemu_block", "read_requests"),
    ("FUSE, all", "guest", "fuse_requests"),
    ("FUSE READ", "guest", "fuse_read_requests"),
    ("DAX maps", "guest", "fuse_map_requests"),
    ("store", "store", "read_requests"),
    ("guest faults", "guest", "pgfault"),
)


def memory_section(run: Run, summary: Row) -> Section | None:
    """The paper's T = ΣU + ΣC + ΣF around one read of the data: who took what, and what nobody accounts for."""
    rows = summary.get("memory", [])
    if not rows:
        return None
    is_independent = all("outside_bytes" in row["change"] for row in rows)
    told = [column for column in _CHANGES if is_independent or column[1] != "outside_bytes"]
    columns = [Column("system"), Column("state"), *(Column(title, "MiB", "right") for title, _ in told)]
    changes = [
        text_row(row_name(run, row), exact_state(row), *(_mib(row["change"][name]) for _, name in told)) for row in rows
    ]
    parties = [
        text_row(
            row_name(run, row),
            exact_state(row),
            party,
            *(f"{row['after'][party].get(f'{kind}_bytes', 0) / _MIB:,.1f}" for kind in _KINDS),
        )
        for row in rows
        for party in _PARTIES
        if party in row["after"]
    ]
    totals = [Column("system"), Column("state"), Column("party"), *(Column(kind, "MiB", "right") for kind in _KINDS)]
    worst = max(abs(row["worst_remainder_bytes"]) for row in rows)
    return Section(
        "memory",
        "Who holds the memory",
        [
            Text(
                f"Change of the machine's memory over one {rows[0]['workload']}, by counters that are independent of each other; "
                "medians over boots. Guest RAM is what the host really backs: RAM that a guest touched in an earlier trial of the "
                "same boot stays backed, so the copies above are counted by page and not by growth. Host cache and kernel are "
                f"the whole machine's: what else ran on it is in them. {_INDEPENDENT if is_independent else _LEFT_OVER} "
                f"At most {worst / _MIB:.1f} MiB of any trial's change are unexplained."
            ),
            Table(columns, changes, "Change over one read"),
            Table(totals, parties, "Used, cache and free by party afterwards: they add up to the machine", folded=True),
        ],
    )


def open_ledgers(run: Run, summary: Row) -> Iterator[Table]:
    """Trials whose memory does not add up; nothing where all do."""
    columns = [Column(title) for title in ("trial", "system", "state", "workload", "status")]
    columns.append(Column("unexplained", "MiB", "right"))
    rows = [
        text_row(
            *(row["id"], row_name(run, row), exact_state(row), f"{row['workload']} ({row['kind']})", row["status"]),
            _mib(row["remainder_bytes"]),
        )
        for row in summary.get("open_ledgers", [])
    ]
    if rows:
        caption = "Open ledgers: too much of what became of the memory during these trials is unexplained; they are kept in every figure"
        yield Table(columns, rows, caption)


def io_section(run: Run, summary: Row) -> Section | None:
    """Requests, bytes and CPU seconds at each layer for one full read of the data."""
    rows = [row for row in summary["io_path"] if row.get("wanted_bytes")]
    if not rows:
        return None
    workload = "cat" if any(row["workload"] == "cat" for row in rows) else rows[0]["workload"]
    rows = [row for row in rows if row["workload"] == workload]
    columns = [Column("system"), Column("state"), Column("layer"), Column("counter"), Column("median", align="right")]
    columns.append(Column("per wanted byte", align="right"))
    blocks: list[Block] = [
        Text(
            f"Medians over boots during {workload}. What moved to another layer is not removed: a page that a guest maps through "
            "a DAX window costs a map request for every 2 MiB and a page fault instead of a block request. FUSE requests are "
            "counted by the guest's kernel, whichever daemon answers."
        ),
        _passed(
            run, rows, _BYTES, "I/O-path amplification: bytes read by each layer per byte wanted", "per byte", 1, ".2f"
        ),
        _passed(run, rows, _REQUESTS, "Requests of each layer per MiB wanted", "per MiB", _MIB, ".1f"),
        _cpu_seconds(run, rows),
        Table(columns, _every_counter(run, rows), f"Every counter of {workload} that moved", folded=True),
    ]
    if run.accelerator == "tcg":
        blocks.insert(0, Text(f"CPU seconds come from a clock: {TCG_REASON}.", "warning"))
    return Section("io-path", "What crossed each layer", blocks)


def _passed(
    run: Run, rows: Sequence[Row], columns: Sequence[tuple[str, str, str]], caption: str, unit: str, per: int, form: str
) -> Table:
    """The paper's access redundancy: what each layer moved, by what was wanted. Empty where a path has no such layer."""
    heads = [Column("system"), Column("state"), *(Column(title, unit, "right") for title, _, _ in columns)]
    cells = [
        text_row(
            row_name(run, row),
            exact_state(row),
            *(
                format(counters[name] * per / row["wanted_bytes"], form) if name in counters else ""
                for counters, name in ((row["layers"].get(layer, {}), name) for _, layer, name in columns)
            ),
        )
        for row in rows
    ]
    return Table(heads, cells, caption)


def _cpu_seconds(run: Run, rows: Sequence[Row]) -> Table:
    layers = ("guest", "qemu", "daemon", "host")
    columns = [Column("system"), Column("state"), *(Column(layer, "seconds", "right") for layer in layers)]
    columns.append(Column("stolen", "seconds", "right"))
    cells = [
        text_row(
            row_name(run, row),
            exact_state(row),
            *(_seconds(row["layers"].get(layer, {}).get("cpu_seconds")) for layer in layers),
            _seconds(row["layers"].get("host", {}).get("steal_seconds")),
        )
        for row in rows
    ]
    return Table(columns, cells, "CPU seconds by party (the host's are the whole machine's)", folded=True)


def _every_counter(run: Run, rows: Sequence[Row]) -> list[Any]:
    return [
        text_row(
            row_name(run, row),
            exact_state(row),
            layer,
            name.replace("_", " "),
            f"{value:,.0f}" if value >= 100 else f"{value:.3g}",
            f"{value / row['wanted_bytes']:.3f}" if name.endswith("bytes") else "",
        )
        for row in rows
        for layer, counters in row["layers"].items()
        for name, value in counters.items()
        if value
    ]


def _mib(value: float) -> str:
    # No minus before a zero.
    return f"{round(value / _MIB, 1) + 0.0:,.1f}"


def _seconds(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"
