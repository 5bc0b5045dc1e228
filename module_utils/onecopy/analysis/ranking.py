"""Systems of a comparison in order: what each costs for one user's data and command, and what it gives up."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, Final

from .. import io_path
from .document import Block, Column, Section, Table, Text, text_row
from .metrics import LEDGERS, page_copies, wall_seconds
from .stored_run import Record, Run, group
from .verdicts import TCG_REASON

PAGE_BYTES: Final = 4096
GIVES_UP: Final[Mapping[str, str]] = {
    "hfs": "the guest: no isolation (the reference, not ranked)",
    "gfs": "memory: host and guest each cache what is read; the host does not see files",
    "gfs_direct": "the host's cache: nothing read by one guest serves another, and a restarted guest reads the disk again",
    "virtiofs_never": "the guest's cache: every read, also a repeated one, is a request to the daemon",
    "virtiofs_auto": "memory: host and guest each cache what is read; an open asks the daemon whether the file changed",
    "virtiofs_always": "memory: host and guest each cache what is read; and changes made by others are not seen",
    "gfs_pmem_dax": "the host's view of files; memory for the page structures of the device; flushes are slower",
    "gfs_pmem_erofs": "writes: the image is made once; the host's view of files; memory for the page structures of the device",
    "gfs_private": "memory and storage: every guest has its own image, cached by host and guest",
    "gfs_shared_base": "memory: every guest caches the base again; what guests write grows apart for ever",
    "gfs_pmem_cow": "the way back: what a guest writes is lost with it, and shared no more; side channels of shared pages",
    "gfs_ksm": "CPU time for scanning, and sharing of what lives shortly; side channels of merged pages",
    "myfs": "isolation: guests of a share must trust one another; files below 1 MiB are still cached twice; QEMU 11.1 or newer",
}
_MIB: Final = 1 << 20


def is_comparison(run: Run) -> bool:
    """Whether the run is of a user's own data."""
    return "from" in run.plan["dataset"]


def ranking(run: Run) -> list[dict[str, Any]]:
    """One row per host and system, best first; figures that were not measured are absent, and a system without copies has no ``rank``.

    By copies, then bytes moved per byte read, both after a cold start; then, under KVM alone, by time. ``copies``: ratio. ``cached_bytes``
    by party. ``amplification``: bytes read at all layers below the command ÷ bytes that the command read (``read_bytes``).
    """
    rows = []
    states = ("host", "system", "label")
    residency = group((record for record in run.ok("residency") if _is_cold(record)), states)
    timed = group((record for record in run.ok("timed") if _is_cold(record)), states)
    for host, system, label in dict.fromkeys([*residency, *timed]):
        if label != system:
            continue  # the A/A pair's other half
        row: dict[str, Any] = {"host": host, "system": system}
        counted = [record for record in residency.get((host, system, label), []) if "all" in record["copies"]]
        if counted:
            row["copies"] = _median(counted, lambda record: page_copies(record, "all"))
            row["cached_bytes"] = {name.removesuffix("_pages"): _median(counted, _cached(name)) for name in LEDGERS}
        runs = timed.get((host, system, label), [])
        if runs:
            row["wall_seconds"] = _median(runs, wall_seconds)
            row["read_bytes"] = _median(runs, lambda record: float(record["result"]["read_bytes"]))
            if any(record.get("io_path") for record in runs) and row["read_bytes"]:
                row["amplification"] = _median(runs, _moved) / row["read_bytes"]
        rows.append(row)
    return [row for host in run.hosts for row in _ranked([row for row in rows if row["host"] == host], run)]


def ranking_section(run: Run, rows: Sequence[Mapping[str, Any]]) -> Section:
    """The table that a comparison's report starts with."""
    wanted = sum(run.plan["dataset"][name] for name in ("large_mib", "small_mib"))
    blocks: list[Block] = [
        Text(
            f"{_command(run)}: on a copy of {run.plan['dataset']['from']} ({wanted} MiB at most, rounded up by part), after a cold start of host and "
            "guest. Pages that the party which caches most of them holds count as read. "
            "Ranked by copies, then by the bytes that all layers below the command read for each byte that it read; "
            + (f"times are shown but do not count: {TCG_REASON}." if run.accelerator == "tcg" else "then by time.")
        )
    ]
    columns = [Column("rank", align="right"), Column("system"), Column("copies", "per page", "right")]
    columns += [Column(f"cached by {party}", "MiB", "right") for party in ("host", "guest", "daemon")]
    columns += [Column("moved", "bytes per byte read", "right"), Column("command read", "MiB", "right")]
    columns += [Column("time", "seconds", "right"), Column("gives up")]
    cells = [
        text_row(
            str(row.get("rank", "")),
            row["system"] + (f" @ {row['host']}" if len(run.hosts) > 1 else ""),
            _number(row.get("copies"), 1, ".2f"),
            *(_number(row.get("cached_bytes", {}).get(party), _MIB, ".1f") for party in ("host", "guest", "daemon")),
            _number(row.get("amplification"), 1, ".2f"),
            _number(row.get("read_bytes"), _MIB, ".1f"),
            _number(row.get("wall_seconds"), 1, ".3g"),
            GIVES_UP.get(row["system"], ""),
        )
        for row in rows
    ]
    return Section("ranking", "Which system for this command", [*blocks, Table(columns, cells, "Best first")])


def ranking_lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The same for a terminal."""
    lines = []
    for row in rows:
        cached = sum(row.get("cached_bytes", {}).values()) / _MIB
        figures = [f"{row['copies']:.2f} copies, {cached:.1f} MiB cached" if "copies" in row else "no page counted"]
        if "amplification" in row:
            figures.append(f"{row['amplification']:.2f} bytes moved per byte read")
        place = f"{row['rank']}." if "rank" in row else " -"
        lines.append(f"{place} {row['system']:<16} {', '.join(figures)}")
    if lines:
        lines.append("what each gives up stands at the top of the report")
    return lines


def _ranked(rows: list[dict[str, Any]], run: Run) -> list[dict[str, Any]]:
    def key(row: Mapping[str, Any]) -> tuple[float, ...]:
        # Finer than this, two figures are the same.
        found = (round(row["copies"], 2), round(row.get("amplification", 0.0), 1))
        return (*found, row.get("wall_seconds", 0.0)) if run.accelerator == "kvm" else found

    reference = [row for row in rows if row["system"] == "hfs"]
    counted = sorted((row for row in rows if "copies" in row and row not in reference), key=key)
    places: list[int] = []
    for place, row in enumerate(counted, 1):
        places.append(places[-1] if places and key(row) == key(counted[place - 2]) else place)
    ranked = [row | {"rank": place} for row, place in zip(counted, places, strict=True)]
    return [*ranked, *reference, *(row for row in rows if row not in counted and row not in reference)]


def _command(run: Run) -> str:
    (workload,) = run.plan["workloads"].values()
    return " | ".join(shlex.join(argv) for argv in workload["pipeline"]).replace("$$", "$")


def _is_cold(record: Record) -> bool:
    return record["host_cache"] == "cold" and record["guest_cache"] in ("cold", "none")


def _median(records: Sequence[Record], value: Callable[[Record], float | None]) -> float:
    return statistics.median(number for record in records if (number := value(record)) is not None)


def _cached(name: str) -> Callable[[Record], float]:
    return lambda record: float(record["copies"]["all"][name] * PAGE_BYTES)


def _moved(record: Record) -> float:
    return float(io_path.moved_bytes(record.get("io_path", {})))


def _number(value: float | None, unit: int, form: str) -> str:
    return "" if value is None else format(value / unit, form)
