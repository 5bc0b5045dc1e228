"""How often to boot, decided while a run goes on: more boots of a system until its intervals are narrow enough, or up to the cap.

A *cell* is a label with its number of guests: it boots as a whole, so it stops when all of its figures allow it. Looked at is only what whole
repeats gave, one repeat after the other: the same records give the same decision, whenever and however often it is asked for.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .metrics import LEADING, metric
from .statistics import StopReason, boot_medians, stop
from .stored_run import Record, by_boot

Cell = tuple[str, int]
_SERIES = ("kind", "workload", "host_cache", "guest_cache")


@dataclass(frozen=True, slots=True)
class Outcome:
    """One cell so far. ``boots``: repeats that are whole; ``reason`` is None while it goes on.

    ``half_width`` is that of its widest figure, ``widest``, as a fraction of the median; None where nothing has an interval.
    """

    boots: int
    reason: StopReason | None
    half_width: float | None
    widest: str | None


@dataclass(frozen=True, slots=True)
class Step:
    """What a host does next: every block but ``leave_out``. ``needless``: trials that nobody will do. ``is_open``: there is something to do."""

    leave_out: frozenset[str]
    needless: frozenset[str]
    is_open: bool


def outcomes(plan: Mapping[str, Any], records: Sequence[Record]) -> dict[Cell, Outcome]:
    """Every cell of an adaptive plan, from the ``records`` of one host."""
    planned: dict[Cell, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
    for trial in plan["trials"]:
        planned[_cell(trial)][trial["repeat"]].add(trial["id"])
    done = {record["id"] for record in records}
    of_cell: dict[Cell, list[Record]] = defaultdict(list)
    for record in records:
        of_cell[_cell(record)].append(record)
    return {cell: _outcome(plan["adaptive"], of_cell[cell], repeats, done) for cell, repeats in planned.items()}


def needless_trials(plan: Mapping[str, Any], found: Mapping[Cell, Outcome]) -> frozenset[str]:
    """Trials of boots that are not needed any more."""
    return frozenset(
        trial["id"]
        for trial in plan["trials"]
        if found[_cell(trial)].reason is not None and trial["repeat"] >= found[_cell(trial)].boots
    )


def next_step(plan: Mapping[str, Any], records: Sequence[Record]) -> Step:
    """One repeat at a time, so that nobody boots before it is decided whether he shall."""
    needless = needless_trials(plan, outcomes(plan, records))
    over = needless | {record["id"] for record in records}
    open_repeats = [trial["repeat"] for trial in plan["trials"] if trial["id"] not in over]
    current = min(open_repeats, default=plan["repeats"])
    leave_out = {trial["block"] for trial in plan["trials"] if trial["id"] in needless or trial["repeat"] > current}
    return Step(frozenset(leave_out), needless, bool(open_repeats))


def _cell(trial: Mapping[str, Any]) -> Cell:
    return str(trial["label"]), int(trial["guests"])


def _outcome(
    rule: Mapping[str, Any], records: Sequence[Record], repeats: Mapping[int, set[str]], done: set[str]
) -> Outcome:
    whole = 0
    while whole in repeats and repeats[whole] <= done:
        whole += 1
    widest: tuple[float, str] | None = None
    for boots in range(min(rule["minimum"], max(whole, 1)), whole + 1):
        stops = {
            name: stop(medians, **rule)
            for name, medians in _medians(record for record in records if record["repeat"] < boots)
        }
        widths = [(one.half_width, name) for name, one in stops.items() if one.half_width is not None]
        widest = max(widths, default=None)
        if stops and all(one.reason == "half_width" for one in stops.values()):
            return _ended(boots, "half_width", widest)
    return _ended(whole, "cap" if whole == len(repeats) else None, widest)


def _ended(boots: int, reason: StopReason | None, widest: tuple[float, str] | None) -> Outcome:
    return Outcome(boots, reason, *(widest or (None, None)))


def _medians(records: Iterable[Record]) -> Iterable[tuple[str, list[float]]]:
    """Per-boot medians of every figure that leads in its kind of trial, by a name that tells which."""
    series: dict[tuple[str, ...], list[Record]] = defaultdict(list)
    for record in records:
        if record["status"] == "ok":
            series[tuple(str(record[key]) for key in _SERIES)].append(record)
    for key, rows in sorted(series.items()):
        kind, workload, *states = key
        names = LEADING.get(kind) or [f"probe.{name}" for name in sorted(rows[0]["probe"]["metrics"])]
        for name in names:
            if medians := boot_medians(by_boot(rows, metric(name).value)):
                yield f"{name} of {workload}, host {states[0]}, guest {states[1]}", medians
