"""Section of the report on coherence: for every change and every way of looking, when each system showed it, held against what was promised."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Final

from .. import coherence
from ..systems import SYSTEMS
from .document import Block, Cell, Column, Section, Table, Text
from .results import row_name
from .stored_run import Run, group

Row = Mapping[str, Any]
PROBE: Final = "coherence"
_EXPLAINED: Final = (
    "Every change has its own file for each way of looking, since one look refreshes what another one sees. “At once”: the first look after the change showed "
    "it. Seconds are the age of the change at the last look that did not show it yet, the worst of all boots. They tell time-outs of a second or a day "
    "apart, under emulation too; they are no speeds, and tenths of them say nothing. A dash: this path has no shared mappings. What each cache mode "
    "promises was stated beforehand (module_utils/onecopy/coherence.py)."
)


def coherence_sections(run: Run) -> Iterator[Section]:
    """Nothing for a run that did not ask who sees whose changes."""
    entries = {label: entry for label, entry in run.plan.get("probes", {}).items() if entry["probe"] == PROBE}
    records = [record for record in run.ok("probe") if record["workload"] in entries]
    if not records:
        return
    broken = sum(record["probe"]["metrics"]["broken_promises_count"] for record in records)
    if broken:
        verdict = Text(f"{broken:g} looks broke what their cache mode promises; the tables mark them.", "bad")
    else:
        verdict = Text("Every change was seen as the cache mode promises.", "good")
    blocks: list[Block] = [Text(_EXPLAINED), verdict]
    for label, entry in entries.items():
        found = [record for record in records if record["workload"] == label]
        blocks += [_table(run, entry["parameters"], found)] if found else []
    yield Section("coherence", "Coherence: who sees whose changes", blocks)


def _table(run: Run, parameters: Row, records: Sequence[Row]) -> Table:
    columns = {
        row_name(run, {**found[0], "guests": 1}): found
        for found in group(records, ("system", "label", "host")).values()
    }
    rows = [
        [Cell(coherence.CHANGES[change]), Cell(coherence.OBSERVERS[observer])]
        + [_cell(run, parameters, found, change, observer) for found in columns.values()]
        for change, observer in coherence.CASES
    ]
    who = {"host": "the host", "guest": "another guest" if parameters["observer"] == "guest" else "a guest"}
    seer = {"host": "the host", "guest": "a guest"}[parameters["observer"]]
    caption = f"What {who[parameters['writer']]} changes in files of {parameters['file_kib']} KiB, seen by {seer}"
    return Table([Column("change"), Column("looked at by"), *map(Column, columns)], rows, caption)


def _cell(run: Run, parameters: Row, records: Sequence[Row], change: str, observer: str) -> Cell:
    name = coherence.metric_name(change, observer)
    found = [record["probe"]["metrics"][name] for record in records if name in record["probe"]["metrics"]]
    if not found:
        return Cell("-")
    worst = max(found)
    text = _shown(worst) if worst < parameters["seconds"] else f"not within {parameters['seconds']:g} s"
    system, options = SYSTEMS[records[0]["system"]], run.plan["labels"][records[0]["label"]]["options"]
    promise = coherence.promised(
        coherence.mode_of(system, options),
        coherence.is_mapped(system, options, parameters["file_kib"] << 10),
        parameters["observer"] == "host",
        change,
        observer,
    )
    if coherence.is_kept(promise, worst):
        return Cell(text)
    return Cell(f"{text} (promised: {_shown(promise or 0.0)})", "bad")


def _shown(seconds: float) -> str:
    if seconds == 0:
        return "at once"
    return f"{seconds:.1f} s" if seconds >= 0.1 else "< 0.1 s"
