"""summary.json.

What a run found, as a pure function of its stored records. The same records give the same bytes, on any machine.
"""

from __future__ import annotations

import json
import math
import statistics as plain
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from . import adaptive, statistics
from .comparisons import DISTINGUISHABLE, aa, against_baseline
from .dax_window import dax_window, is_dax_window
from .density import density, is_density
from .metrics import LEDGERS, confidence, metric, wall_seconds
from .ranking import is_comparison, ranking
from .stored_run import PARTS, STATUSES, Record, Run, by_boot, group
from .verdicts import judge

SCHEMA = 1
_STATE = ("host", "system", "label", "guests", "workload", "host_cache", "guest_cache")
# Nine digits are more than any trial carries and fewer than what differs between versions of the mathematics libraries.
_DIGITS = 9


def summarise(run: Run, claims: Mapping[str, Any]) -> dict[str, Any]:
    """The summary of ``run``, judged by ``claims`` (the document of experiments/claims.yml).

    Numbers that do not exist are absent.
    """
    outcome = aa(run, claims["thresholds"])
    summary: dict[str, Any] = rounded(
        {
            "schema": SCHEMA,
            "experiment": run.experiment,
            "run_id": run.run_id,
            "accelerator": run.accelerator,
            "hosts": list(run.hosts),
            "trials": trials(run),
            **({"adaptive": boots(run)} if run.adaptive else {}),
            "aa": outcome,
            "copies": copies(run),
            "timings": timings(run),
            **({"memory": found} if (found := memory(run)) else {}),
            **({"open_ledgers": open_ledgers(run)} if any(_is_judged(record) for record in run.records) else {}),
            "io_path": io_path(run),
            **({"probes": probes(run)} if run.plan.get("probes") else {}),
            **({"density": density(run)} if is_density(run) else {}),
            **({"dax_window": dax_window(run)} if is_dax_window(run) else {}),
            **({"ranking": ranking(run)} if is_comparison(run) else {}),
            "comparisons": against_baseline(
                run, claims["thresholds"], is_trusted=outcome["outcome"] != DISTINGUISHABLE
            ),
            "claims": judge(run, claims, outcome),
        }
    )
    return summary


def dump(summary: Mapping[str, Any]) -> str:
    """The bytes of summary.json."""
    return json.dumps(summary, indent=1, sort_keys=True, ensure_ascii=False) + "\n"


def trials(run: Run) -> dict[str, int]:
    """Trials by what became of them.

    ``pending`` were planned and have no record; ``planned`` counts neither of the last two. Of an adaptive run
    ``left_out`` were not needed any more.
    """
    needless = _left_out(run)
    planned = len(run.plan["trials"]) * len(run.hosts) - needless
    counts = {status: sum(record["status"] == status for record in run.records) for status in STATUSES}
    return {
        "planned": planned,
        **counts,
        "pending": planned - len(run.records),
        **({"left_out": needless} if run.adaptive else {}),
        "torn_lines": run.torn,
        "unsupported": sum(entry["trials"] for entry in run.plan["unsupported"]) * len(run.hosts),
        "not_applicable": sum(entry["trials"] for entry in run.plan["excluded"]) * len(run.hosts),
    }


def boots(run: Run) -> list[dict[str, Any]]:
    """Of an adaptive run: how often each label was booted, and what ended that. Empty for a fixed number of boots."""
    if not run.adaptive:
        return []
    rows = []
    for host, found in _outcomes(run).items():
        for (label, guests), outcome in sorted(found.items()):
            row: dict[str, Any] = {"host": host, "label": label, "guests": guests, "boots": outcome.boots}
            row["stopped_by"] = outcome.reason or "not_yet"
            if outcome.half_width is not None and math.isfinite(outcome.half_width):
                row |= {"half_width": outcome.half_width, "widest": outcome.widest}
            rows.append(row)
    return rows


def copies(run: Run) -> list[dict[str, Any]]:
    """Copies per page of each part of the data set, with the share of each party.

    All are ratios to the pages that were accessed.
    """
    rows = []
    for key, records in group(run.ok("residency"), _STATE).items():
        for part in PARTS:
            counted = [record for record in records if part in record["copies"]]
            if counted:
                rows.append(dict(zip(_STATE, key, strict=True)) | {"part": part} | _copies(run, counted, part))
    return rows


def timings(run: Run) -> list[dict[str, Any]]:
    """Wall seconds of every workload in every state: the median over boots, its interval, and how its repeats ended."""
    rows = []
    decided = {(row["host"], row["label"], row["guests"]): row["stopped_by"] for row in boots(run)}
    for key, records in group(run.ok("timed"), _STATE).items():
        sample = by_boot(records, wall_seconds)
        estimate = statistics.estimate(sample, logs=True, confidence=confidence(run))
        row = dict(zip(_STATE, key, strict=True)) | {
            "wall_seconds_median": estimate.value,
            **_limits(estimate),
            "stopped_by": decided[key[0], key[2], key[3]] if run.adaptive else "fixed",
        }
        if estimate.n >= statistics.BOOTSTRAP_MINIMUM_BOOTS:
            row["bootstrap_low"], row["bootstrap_high"] = statistics.bootstrap(
                sample, seed=run.plan["seed"], confidence=confidence(run)
            )
        flagged = statistics.outliers([wall_seconds(record) for record in records])
        if flagged:
            row["outliers"] = [records[index]["id"] for index in flagged]
        rows.append(row)
    return rows


def memory(run: Run) -> list[dict[str, Any]]:
    """Of residency trials whose ledger has every party: medians over boots of its change, and of what each party held afterwards."""
    rows = []
    told = [record for record in run.ok("residency") if "change" in record.get("ledger", {})]
    for key, records in group(told, _STATE).items():
        remainders = [record["ledger"]["change"]["remainder_bytes"] for record in records]
        rows.append(
            dict(zip(_STATE, key, strict=True))
            | {
                "change": _middles(records, lambda record: record["ledger"]["change"]),
                "after": {
                    party: _middles(records, partial(_held, party=party))
                    for party in ("host", "guests", "qemu", "daemons")
                    if _held(records[0], party)
                },
                "worst_remainder_bytes": max(remainders, key=abs),
                "n": len(by_boot(records, lambda record: 1.0)),
            }
        )
    return rows


def open_ledgers(run: Run) -> list[dict[str, Any]]:
    """Every trial of whatever kind, ok or not, of whose change of memory more is unexplained than its record allows; the worst first."""
    opened = [record for record in run.records if _is_judged(record) and not record["ledger"]["is_closed"]]
    rows = [
        {name: record[name] for name in ("id", "kind", "status", *_STATE)}
        | {"remainder_bytes": record["ledger"]["change"]["remainder_bytes"]}
        for record in opened
    ]
    return sorted(rows, key=lambda row: (-abs(row["remainder_bytes"]), row["host"], row["id"]))


def io_path(run: Run) -> list[dict[str, Any]]:
    """Medians over boots of everything counted at each layer during timed trials.

    ``per_wanted_byte`` where bytes were wanted.
    """
    rows = []
    for key, records in group([record for record in run.ok("timed") if record.get("io_path")], _STATE).items():
        layers: dict[str, dict[str, float]] = {}
        for layer, name in sorted({name for record in records for name in _counters(record)}):
            layers.setdefault(layer, {})[name] = _middle(records, metric(f"io_path.{layer}.{name}").value)
        row = dict(zip(_STATE, key, strict=True)) | {"layers": layers, "n": len(by_boot(records, lambda record: 1.0))}
        wanted = records[0]["result"].get("wanted_bytes")
        rows.append(row | {"wanted_bytes": wanted} if wanted else row)
    return rows


def probes(run: Run) -> list[dict[str, Any]]:
    """Every metric of every probe: the median over boots and its interval."""
    rows = []
    for key, records in group(run.ok("probe"), ("host", "system", "label", "guests", "workload")).items():
        host, system, label, guests, probe = key
        for name in sorted({name for record in records for name in record["probe"]["metrics"]}):
            estimate = statistics.estimate(by_boot(records, metric(f"probe.{name}").value), confidence=confidence(run))
            row = {"host": host, "system": system, "label": label, "guests": guests, "probe": probe, "metric": name}
            rows.append(row | {"value": estimate.value, **_limits(estimate)})
    return rows


def rounded(value: Any) -> Any:
    """``value`` with every float cut to the digits that are the same everywhere."""
    if isinstance(value, float):
        return float(f"{value:.{_DIGITS}g}")
    if isinstance(value, Mapping):
        return {key: rounded(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [rounded(item) for item in value]
    return value


def _outcomes(run: Run) -> dict[str, dict[adaptive.Cell, adaptive.Outcome]]:
    """By host."""
    return {
        host: adaptive.outcomes(run.plan, [record for record in run.records if record["host"] == host])
        for host in run.hosts
    }


def _left_out(run: Run) -> int:
    if not run.adaptive:
        return 0
    return sum(len(adaptive.needless_trials(run.plan, found)) for found in _outcomes(run).values())


def _copies(run: Run, records: Sequence[Record], part: str) -> dict[str, Any]:
    def per_page(pages: Callable[[Record], float]) -> float:
        return _middle(records, lambda record: pages(record) / float(record["copies"][part]["accessed_pages"]))

    def ledger(name: str) -> float:
        return per_page(lambda record: record["copies"][part][name])

    sample = by_boot(records, metric(f"copies.{part}").value)
    estimate = statistics.estimate(sample, confidence=confidence(run))
    row = {"copies": estimate.value, **_limits(estimate)}
    row |= {f"copies_{name.removesuffix('_pages')}": ledger(name) for name in LEDGERS}
    physical = [record for record in records if "physical_pages" in record["copies"][part]]
    if physical:
        row["copies_physical"] = _middle(
            physical,
            lambda record: record["copies"][part]["physical_pages"] / float(record["copies"][part]["accessed_pages"]),
        )
    if part == "all":
        row["extra"] = per_page(lambda record: record["extra_pages"])
        row["overhead"] = per_page(lambda record: record["overhead_pages"])
    return row


def _counters(record: Record) -> list[tuple[str, str]]:
    """(layer, name) of every number that the record's I/O path holds."""
    layers = record["io_path"].items()
    return [(layer, name) for layer, counters in layers for name, value in counters.items() if _is_number(value)]


def _middle(records: Sequence[Record], value: Callable[[Record], float | None]) -> float:
    return plain.median(statistics.boot_medians(by_boot(records, value)))


def _middles(records: Sequence[Record], numbers: Callable[[Record], Mapping[str, float]]) -> dict[str, float]:
    """Every number by name."""

    def one(record: Record, name: str) -> float:
        return numbers(record)[name]

    return {name: _middle(records, partial(one, name=name)) for name in numbers(records[0])}


def _is_judged(record: Record) -> bool:
    return "is_closed" in record.get("ledger", {})


def _held(record: Record, party: str) -> dict[str, float]:
    """Used, cache and free of a party after the workload; guests, QEMUs and daemons added up."""
    found = record["ledger"]["after"][party]
    each = found if isinstance(found, list) else [found]
    return {name: sum(one[name] for one in each) for name in (each[0] if each else ())}


def _limits(estimate: statistics.Estimate) -> dict[str, Any]:
    limits: dict[str, Any] = {"n": estimate.n}
    if estimate.low is not None and estimate.high is not None:
        limits |= {"low": estimate.low, "high": estimate.high}
    return limits


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
