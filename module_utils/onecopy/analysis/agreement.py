"""Does a repeated run agree with the archived one? Claim by claim, figure by figure, as a pure function of two
summaries.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from .comparisons import DISTINGUISHABLE
from .verdicts import TCG_REASON

Outcome = Literal["agrees", "disagrees", "not comparable"]
Summary = Mapping[str, Any]
SCHEMA = 1
AGREES: Outcome = "agrees"
DISAGREES: Outcome = "disagrees"
NOT_COMPARABLE: Outcome = "not comparable"
# Stated beforehand: two copies figures nearer than this agree although their intervals do not meet.
COPIES_TOLERANCE = 0.03
# The same for ratios of times, as a factor.
RATIO_TOLERANCE = 1.05
# The same for what probes found, as a part of the larger figure.
PROBE_TOLERANCE = 0.05

_CIRCUMSTANCES = (
    "cpu_model",
    "memory",
    "kernel",
    "distribution",
    "versions.qemu",
    "versions.virtiofsd",
    "guest.suite",
    "guest.kernel",
    "guest.root_sha256",
    "images",
)
_COPIES_KEY = ("label", "guests", "workload", "part", "host_cache", "guest_cache")
_PROBE_KEY = ("label", "guests", "probe", "metric")
_RATIO_KEY = ("metric", "of", "to", "workload", "host_cache", "guest_cache")


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two runs: the documents summary.json, plan.json and manifest.json."""

    summary: Mapping[str, Any]
    plan: Mapping[str, Any]
    manifest: Mapping[str, Any]


class SideError(Exception):
    """A run that cannot be compared; one line: what, where, cure."""


def load_side(directory: Path) -> Side:
    """The run in ``directory``. Raises SideError for a missing or unreadable document."""
    documents = []
    for name in ("summary.json", "plan.json", "manifest.json"):
        try:
            documents.append(json.loads((directory / name).read_text(encoding="utf-8")))
        except FileNotFoundError:
            cure = (
                "render its report first (./onecopy report)"
                if name == "summary.json"
                else "is this the directory of a run?"
            )
            raise SideError(f"{directory / name}: is not there: {cure}") from None
        except (OSError, ValueError) as error:
            raise SideError(f"{directory / name}: cannot be read as JSON: {error}") from None
    return Side(*documents)


def agreement(archived: Side, repeated: Side) -> dict[str, Any]:
    """Outcomes of ``claims``, ``copies``, ``ratios`` (times of a system divided by the baseline's) and ``probes`` (their
    metrics), each with both sets of figures.

    An outcome is ``agrees``, ``disagrees`` or ``not comparable``, and ``because`` says why. Absolute times are never
    compared: two machines differ by right. ``remarks`` say what makes the runs as a whole differ, ``circumstances``
    name both sides' machines.
    """
    data = _other_data(archived.plan, repeated.plan) or _other_guest(archived.manifest, repeated.manifest)
    one, other = archived.summary, repeated.summary
    claims = _claims(one, other)
    copies = [_copies(*pair, data) for pair in _pairs(one["copies"], other["copies"], _COPIES_KEY)]
    ratios = [_ratio(*pair, data, (one, other)) for pair in _pairs(_times(one), _times(other), _RATIO_KEY)]
    probes = [
        _probe(*pair, data, (one, other)) for pair in _pairs(one.get("probes", []), other.get("probes", []), _PROBE_KEY)
    ]
    rows = {"claims": claims, "copies": copies, "ratios": ratios, "probes": probes}
    return {
        "schema": SCHEMA,
        "archived": _about(one),
        "repeated": _about(other),
        "remarks": _remarks(archived, repeated),
        "circumstances": _circumstances(archived.manifest, repeated.manifest),
        "counts": {name: _count(found) for name, found in rows.items()},
        **rows,
    }


def lines(result: Mapping[str, Any]) -> list[str]:
    """The outcome for a terminal: remarks, one line per claim with both verdicts and figures, one per copies figure
    that does not agree.
    """
    text = [f"archived {_name(result['archived'])}, repeated {_name(result['repeated'])}", *result["remarks"]]
    for row in result["circumstances"]:
        if not row["equal"]:
            text.append(f"{row['name']}: archived {_values(row['archived'])}; repeated {_values(row['repeated'])}")
    for claim in result["claims"]:
        text.append(f"{claim['id']}: {claim['outcome']}: {claim['because']}")
        text += [
            f"  {side}: {claim[side]['verdict']}: {claim[side]['because']}"
            for side in ("archived", "repeated")
            if side in claim
        ]
    for row in result["copies"]:
        if row["outcome"] != AGREES:
            state = f"{row['label']}, {row['part']} files, host {row['host_cache']}, guest {row['guest_cache']}"
            text.append(f"copies of {state}: {row['outcome']}: {row['because']}")
    for row in result["probes"]:
        if row["outcome"] == DISAGREES:
            text.append(f"{row['probe']} of {row['label']}, {row['metric']}: {row['outcome']}: {row['because']}")
    for name, counts in result["counts"].items():
        text.append(f"{name}: " + ", ".join(f"{number} {outcome}" for outcome, number in counts.items()))
    return text


def _values(by_host: Mapping[str, str]) -> str:
    return ", ".join(sorted(set(by_host.values()))) or "unknown"


def _claims(archived: Summary, repeated: Summary) -> list[dict[str, Any]]:
    sides = (
        {claim["id"]: claim for claim in archived.get("claims", [])},
        {claim["id"]: claim for claim in repeated.get("claims", [])},
    )
    aa_failed = [
        name
        for name, summary in (("archived", archived), ("repeated", repeated))
        if summary.get("aa", {}).get("outcome") == DISTINGUISHABLE
    ]
    return [_claim(sides[0].get(key), sides[1].get(key), aa_failed) for key in dict.fromkeys([*sides[0], *sides[1]])]


def _claim(
    archived: Mapping[str, Any] | None, repeated: Mapping[str, Any] | None, aa_failed: Sequence[str]
) -> dict[str, Any]:
    named = {name: claim for name, claim in (("archived", archived), ("repeated", repeated)) if claim is not None}
    open_sides = [name for name, claim in named.items() if claim["verdict"] == "inconclusive"]
    outcome, because = NOT_COMPARABLE, ""
    if archived is None or repeated is None:
        because = f"only the {next(iter(named))} run has this claim"
    elif aa_failed:
        because = f"the A/A pair of the {' and of the '.join(aa_failed)} run failed: its differences mean nothing"
    elif open_sides:
        because = f"inconclusive in the {' and in the '.join(open_sides)} run"
    elif archived["verdict"] == repeated["verdict"]:
        outcome, because = AGREES, f"{archived['verdict']} in both runs"
    else:
        outcome, because = (
            DISAGREES,
            f"{archived['verdict']} in the archived run, {repeated['verdict']} in the repeated one",
        )
    head = next(iter(named.values()))
    kept = {name: {key: claim[key] for key in ("verdict", "because", "numbers")} for name, claim in named.items()}
    return {"id": head["id"], "text": head["text"], "outcome": outcome, "because": because, **kept}


def _copies(archived: Mapping[str, Any] | None, repeated: Mapping[str, Any] | None, data: str) -> dict[str, Any]:
    near = (
        archived is not None
        and repeated is not None
        and abs(archived["copies"] - repeated["copies"]) <= COPIES_TOLERANCE
    )
    return _figure(
        _COPIES_KEY,
        ("copies", "low", "high", "n"),
        archived,
        repeated,
        near=near,
        within=f"{COPIES_TOLERANCE}",
        hopeless=data,
    )


def _ratio(
    archived: Mapping[str, Any] | None, repeated: Mapping[str, Any] | None, data: str, runs: tuple[Summary, Summary]
) -> dict[str, Any]:
    near = (
        archived is not None
        and repeated is not None
        and abs(math.log(archived["ratio"] / repeated["ratio"])) <= math.log(RATIO_TOLERANCE)
    )
    hopeless = TCG_REASON if any(run["accelerator"] == "tcg" for run in runs) else data
    fields = ("ratio", "low", "high", "n_of", "n_to")
    return _figure(
        _RATIO_KEY, fields, archived, repeated, near=near, within=f"a factor of {RATIO_TOLERANCE}", hopeless=hopeless
    )


def _probe(
    archived: Mapping[str, Any] | None, repeated: Mapping[str, Any] | None, data: str, runs: tuple[Summary, Summary]
) -> dict[str, Any]:
    values = [row["value"] for row in (archived, repeated) if row is not None]
    near = len(values) == 2 and abs(values[0] - values[1]) <= PROBE_TOLERANCE * max(map(abs, values))
    metric = str((archived or repeated or {})["metric"])
    is_emulated = "seconds" in metric and any(run["accelerator"] == "tcg" for run in runs)
    return _figure(
        _PROBE_KEY,
        ("value", "low", "high", "n"),
        archived,
        repeated,
        near=near,
        within=f"{PROBE_TOLERANCE:.0%}",
        hopeless=TCG_REASON if is_emulated else data,
    )


def _figure(
    key: Sequence[str],
    fields: Sequence[str],
    archived: Mapping[str, Any] | None,
    repeated: Mapping[str, Any] | None,
    *,
    near: bool,
    within: str,
    hopeless: str,
) -> dict[str, Any]:
    """One figure of both runs. ``near``: they differ by less than ``within``. ``hopeless``: why no figure of this kind
    can be compared.
    """
    value = fields[0]
    outcome, because = NOT_COMPARABLE, hopeless
    if archived is None or repeated is None:
        because = f"measured in the {'repeated' if archived is None else 'archived'} run alone"
    elif not hopeless:
        both = f"{archived[value]:.4g} and {repeated[value]:.4g}"
        meet = _intervals_meet(archived, repeated)
        outcome = AGREES if near or meet else DISAGREES
        because = f"{both}: " + (
            f"within {within}"
            if near
            else "their intervals meet"
            if meet
            else f"further apart than {within}, and no common interval"
        )
    head: Mapping[str, Any] = archived or repeated or {}
    sides = {
        name: _kept(row, fields) for name, row in (("archived", archived), ("repeated", repeated)) if row is not None
    }
    return {name: head[name] for name in key if name in head} | {"outcome": outcome, "because": because, **sides}


def _intervals_meet(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    if "low" not in one or "low" not in other:
        return False
    return bool(one["low"] <= other["high"] and other["low"] <= one["high"])


def _kept(row: Mapping[str, Any], fields: Sequence[str]) -> dict[str, Any]:
    return {name: row[name] for name in ("host", *fields) if name in row}


def _pairs(
    archived: Sequence[Mapping[str, Any]], repeated: Sequence[Mapping[str, Any]], key: Sequence[str]
) -> Iterable[tuple[Mapping[str, Any] | None, Mapping[str, Any] | None]]:
    """Rows of the same state: every archived host with every repeated one, and what one side alone measured."""

    def name(row: Mapping[str, Any]) -> tuple[Any, ...]:
        return tuple(row.get(part) for part in key)

    for row in archived:
        others: list[Mapping[str, Any] | None] = [other for other in repeated if name(other) == name(row)]
        yield from ((row, other) for other in others or [None])
    known = {name(row) for row in archived}
    yield from ((None, other) for other in repeated if name(other) not in known)


def _times(summary: Summary) -> list[Mapping[str, Any]]:
    return [row for row in summary.get("comparisons", []) if row["metric"] == "wall_seconds"]


def _other_data(archived: Mapping[str, Any], repeated: Mapping[str, Any]) -> str:
    """Why figures of the two plans cannot be compared; empty where they can."""
    differing = [name for name in ("dataset", "guest") if archived.get(name) != repeated.get(name)]
    return f"another {' and another '.join(differing)}: the runs did not measure the same thing" if differing else ""


def _other_guest(archived: Mapping[str, Any], repeated: Mapping[str, Any]) -> str:
    """Why guests of the two runs are not the same machine; empty where they are, or where a run does not tell."""
    sides = [
        {
            tuple(host["guest"]["packages"])
            for host in manifest.get("hosts", {}).values()
            if "packages" in host.get("guest", {})
        }
        for manifest in (archived, repeated)
    ]
    if not all(sides) or sides[0] & sides[1]:
        return ""
    first, second = (set(next(iter(sorted(side)))) for side in sides)
    changed = sorted(first - second)
    return f"another guest: {len(changed)} packages differ ({', '.join(changed[:3])}{' …' if changed[3:] else ''} archived)"


def _remarks(archived: Side, repeated: Side) -> list[str]:
    remarks = []
    if archived.plan.get("digest") != repeated.plan.get("digest"):
        remarks.append("the experiments differ: this is no repetition of the archived one")
    if archived.summary["accelerator"] != repeated.summary["accelerator"]:
        remarks.append(
            f"accelerators differ: {archived.summary['accelerator']} archived, {repeated.summary['accelerator']} repeated"
        )
    planned = [{trial["id"] for trial in side.plan["trials"]} for side in (archived, repeated)]
    if planned[0] != planned[1]:
        common = len(planned[0] & planned[1])
        remarks.append(
            f"the plans share {common} trials of {len(planned[0])} archived and {len(planned[1])} repeated ones"
        )
    return remarks


def _circumstances(archived: Mapping[str, Any], repeated: Mapping[str, Any]) -> list[dict[str, Any]]:
    """What both manifests say about their hosts: ``name``, ``equal``, and each side's values by host."""
    rows = []
    for name in _CIRCUMSTANCES:
        sides = [
            {host: value for host, facts in sorted(manifest.get("hosts", {}).items()) if (value := _fact(facts, name))}
            for manifest in (archived, repeated)
        ]
        if any(sides):
            equal = bool(sides[0] and sides[1]) and len({*sides[0].values(), *sides[1].values()}) == 1
            rows.append({"name": name, "equal": equal, "archived": sides[0], "repeated": sides[1]})
    return rows


def _fact(facts: Any, name: str) -> str:
    for part in name.split("."):
        facts = facts.get(part) if isinstance(facts, Mapping) else None
    return "" if facts is None else str(facts)


def _about(summary: Summary) -> dict[str, Any]:
    return {
        name: summary[name] for name in ("experiment", "run_id", "accelerator", "hosts", "trials") if name in summary
    }


def _name(about: Mapping[str, Any]) -> str:
    trials = f"{about['trials']['ok']} of {about['trials']['planned']} trials ok"
    return f"{about['experiment']}/{about['run_id']} ({about['accelerator']}, {trials})"


def _count(rows: Sequence[Mapping[str, Any]]) -> dict[str, int]:
    return {outcome: sum(row["outcome"] == outcome for row in rows) for outcome in (AGREES, DISAGREES, NOT_COMPARABLE)}
