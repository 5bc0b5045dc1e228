"""Tables on guests that boot from the storage path under test: who holds the root, and what was asked for until then."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from .document import Block, Column, Table, Text, text_row
from .probe_figures import probe_row_name
from .stored_run import Run

Row = Mapping[str, Any]
PROBE: Final = "rootfs"
_MIB: Final = 1 << 20
_STAGES: Final = {"booted": "booted", "executed": "programs executed", "more": "the same again"}
_EXPLAINED: Final = (
    "The guests' root lies on the path under test, cold on the host when they start. “Held” is every copy of its pages in the machine, on DAX paths "
    "with what the host reads at the first touch (2 MiB and more, since QEMU asks for huge pages). Crossed: bytes that QEMU's disks or the daemon read for the "
    "guests; virtiofsd counts no requests. Busy: files that the host cannot execute meanwhile (ETXTBSY), because the daemon holds them open for writing."
)


def rootfs_tables(run: Run, rows: Sequence[Row]) -> list[Block]:
    """Medians over boots, of rows of this probe alone."""
    found: dict[str, dict[str, float]] = {}
    for row in rows:
        found.setdefault(probe_row_name(run, row), {})[row["metric"]] = row["value"]
    return [Text(_EXPLAINED), _held(found), _asked(found)]


def _held(found: Mapping[str, Mapping[str, float]]) -> Table:
    columns = [Column("system"), Column("when")]
    columns += [Column(title, "MiB", "right") for title in ("held", "by the host", "by guests' caches")]
    columns += [Column("copies", "of what was used", "right")]
    rows = []
    for system, values in found.items():
        for stage in ("booted", "executed"):
            amounts = [values[f"{stage}_{what}_bytes"] for what in ("held", "host_cache", "guests_cache")]
            shown = [f"{amount / _MIB:,.1f}" for amount in amounts]
            rows.append(text_row(system, _STAGES[stage], *shown, f"{values[f'{stage}_copies_ratio']:.2f}"))
    return Table(columns, rows, "Who holds the root")


def _asked(found: Mapping[str, Mapping[str, float]]) -> Table:
    columns = [Column("system"), Column("until")]
    columns += [Column("crossed", "MiB", "right"), Column("requests", align="right"), Column("to map", align="right")]
    columns += [Column("busy on the host", "files", "right")]
    rows = []
    for system, values in found.items():
        for stage, words in _STAGES.items():
            counts = [_count(values, f"{stage}_{what}") for what in ("requests_count", "map_requests_count")]
            busy = _count(values, "busy_on_host_count") if stage == "more" else ""
            rows.append(text_row(system, words, f"{values[f'{stage}_crossed_bytes'] / _MIB:,.1f}", *counts, busy))
    return Table(columns, rows, "What was asked for at each step")


def _count(values: Mapping[str, float], name: str) -> str:
    return f"{values[name]:,.0f}" if name in values else ""
