"""One stored run against another: refused unless they are comparable, or unless the user wants it anyway."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from .comparability import require_comparable
from .comparisons import DISTINGUISHABLE, NOT_DISTINGUISHABLE, aa, between_runs
from .document import Block, Cell, Column, Document, Section, Table, Text, Tone, text_row
from .metrics import metric
from .results import TCG_BANNER
from .stored_run import Run
from .summary import rounded

SCHEMA = 1
_TONES: dict[str, Tone] = {DISTINGUISHABLE: "warning", NOT_DISTINGUISHABLE: "good"}


class SameRunError(Exception):
    """A run against itself shows nothing; one line."""


def compare(first: Run, second: Run, claims: Mapping[str, Any], *, anyway: bool = False) -> dict[str, Any]:
    """``schema``, ``of`` and ``to`` (who they are, with their A/A outcome), ``warnings``, ``comparisons``: rows of between_runs().

    Raises NotComparableError unless wanted ``anyway``, and SameRunError.
    """
    if first.run_id == second.run_id:
        raise SameRunError(f"{first.run_id} against itself: name two runs")
    warnings = require_comparable(_circumstances(first), _circumstances(second), anyway=anyway)
    sides = {name: _side(run, claims) for name, run in (("of", first), ("to", second))}
    is_trusted = all(side["aa"]["outcome"] != DISTINGUISHABLE for side in sides.values())
    rows = between_runs(first, second, claims["thresholds"], is_trusted=is_trusted)
    compared: dict[str, Any] = rounded({"schema": SCHEMA, **sides, "warnings": warnings, "comparisons": rows})
    return compared


def document(compared: Mapping[str, Any]) -> Document:
    """What compare() found, to be laid out as any report; what keeps the runs from being compared stands on top."""
    of, to = compared["of"], compared["to"]
    opening = [Text(f"{warning}.".capitalize(), "bad") for warning in compared["warnings"]]
    for side in (of, to):
        failed = side["aa"]["outcome"] == DISTINGUISHABLE
        outcome = f"A/A pair of {side['run_id']}, {side['aa']['outcome']}: {side['aa']['because']}."
        outcome += " Every comparison is inconclusive." if failed else ""
        opening.append(Text(outcome, "bad" if failed else _TONES.get(side["aa"]["outcome"], "open")))
    if "tcg" in (of["accelerator"], to["accelerator"]):
        opening.append(Text(TCG_BANNER, "warning"))
    return Document(
        f"onecopy: {of['run_id']} against {to['run_id']}",
        "Every figure of the first run divided by the same figure of the second",
        [
            (name, f"{side['experiment']}/{side['run_id']} ({side['accelerator'].upper()})")
            for name, side in (("of", of), ("to", to))
        ],
        opening,
        _sections(compared["comparisons"]),
        "Made by onecopy from the stored records of the two runs alone; the same records give the same page.",
    )


def dump(compared: Mapping[str, Any]) -> str:
    """The bytes of the JSON file."""
    return json.dumps(compared, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def lines(compared: Mapping[str, Any]) -> list[str]:
    """The outcome for a person at a terminal."""
    rows = compared["comparisons"]
    outcomes = [row["outcome"] for row in rows]
    counts = (
        ", ".join(f"{outcomes.count(outcome)} {outcome}" for outcome in dict.fromkeys(outcomes)) or "nothing in common"
    )
    different = [row for row in rows if row["outcome"] == DISTINGUISHABLE]
    return [
        *compared["warnings"],
        f"{compared['of']['run_id']} against {compared['to']['run_id']}: {counts}",
        *(f"  {_name(row)}: {row['metric']} {row['ratio']:.3g} times" for row in different),
    ]


def _circumstances(run: Run) -> dict[str, Any]:
    return {**run.manifest, "plan": {name: run.plan.get(name) for name in ("dataset", "guest")}}


def _side(run: Run, claims: Mapping[str, Any]) -> dict[str, Any]:
    outcome = aa(run, claims["thresholds"])
    about = {"experiment": run.experiment, "run_id": run.run_id, "accelerator": run.accelerator}
    return about | {"aa": {name: outcome[name] for name in ("outcome", "because")}}


def _sections(rows: Sequence[Mapping[str, Any]]) -> list[Section]:
    sections = []
    for name in dict.fromkeys(row["metric"] for row in rows):
        blocks: list[Block] = [_table([row for row in rows if row["metric"] == name])]
        sections.append(
            Section(f"metric-{name.replace('.', '-').replace('_', '-')}", metric(name).title.capitalize(), blocks)
        )
    return sections or [Section("nothing", "Nothing to compare", [Text("The runs have no state in common.", "open")])]


def _table(rows: Sequence[Mapping[str, Any]]) -> Table:
    columns = [Column("system and state"), Column("ratio", align="right"), Column("95 % interval", align="right")]
    columns += [Column("boots", "of, to", "right"), Column("compared", "Holm, all of this table")]
    cells = []
    for row in rows:
        limits = f"[{row['low']:.3g}, {row['high']:.3g}]" if "low" in row else ""
        plain = text_row(_name(row), f"{row['ratio']:.3g}", limits, f"{row['n_of']}, {row['n_to']}")
        cells.append([*plain, Cell(row["outcome"], _TONES.get(row["outcome"], "open"))])
    return Table(columns, cells)


def _name(row: Mapping[str, Any]) -> str:
    return f"{row['label']}, {row['workload']}, host {row['host_cache']}, guest {row['guest_cache']}"
