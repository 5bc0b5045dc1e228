"""Who differs from whom: the A/A pair that says whether a run can be trusted, and every system against the baseline."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from statistics import median
from typing import Any

from . import statistics
from .metrics import LEADING, Metric, confidence, metric
from .stored_run import Run, by_boot, system_order

BASELINE = "gfs"
GEOMETRIC_MEAN = "geometric mean"
NOT_DISTINGUISHABLE = "not distinguishable"
DISTINGUISHABLE = "distinguishable"
NO_INTERVAL = "no interval"
INCONCLUSIVE = "inconclusive"
ABSENT = "absent"
_METRICS = tuple(name for names in LEADING.values() for name in names)
_SIGNIFICANCE = 0.05
# A pair that cannot tell three thresholds (in logs) apart would have come out as the same system whatever happened.
_POWER_THRESHOLDS = 3
_NAMED_PROBES = 3
_NO_MATTER_HOW_MUCH = 1000

# host, label, host_cache, guest_cache → workload → sample
States = Mapping[tuple[str, str, str, str], Mapping[str, statistics.Sample]]


def aa(run: Run, thresholds: Mapping[str, float]) -> dict[str, Any]:
    """The same system under two labels: did it come out as the same?

    ``outcome`` is distinguishable, not distinguishable, no interval or absent; ``because`` says why. ``power``: of every metric with an
    interval the smallest factor that the pair could have told apart, the median over its comparisons. ``thresholds`` maps a metric's first
    word to the ratio below which a difference does not matter.
    """
    pairs = _twins(run)
    if not pairs:
        because = "no system ran under two labels: nothing shows that a difference seen here is a real one"
        return {"outcome": ABSENT, "because": because, "comparisons": [], "power": []}
    rows = []
    for name in (*_METRICS, *_probe_metrics(run)):
        measured = metric(name)
        states = _states(run, measured)
        for one, other in pairs:
            rows += [
                row
                for key in states
                if key[1] == one
                for row in _compare(run, measured, states, key, (key[0], other, *key[2:]))
            ]
    power = _power(rows, thresholds)
    _decide(rows, thresholds)
    names = ", ".join(f"{one} and {other}" for one, other in pairs)
    if not rows:
        because = f"{names} have no state in which both were measured"
        return {"outcome": ABSENT, "because": because, "comparisons": [], "power": []}
    different = [row for row in rows if row["outcome"] == DISTINGUISHABLE]
    if different:
        worst = max(different, key=lambda row: abs(row["ratio"] - 1))
        difference = f"{worst['metric']} of {worst['workload']} by a factor of {worst['ratio']:.3g}"
        because = f"{names} are the same system, yet differ: {difference}"
        return {"outcome": DISTINGUISHABLE, "because": because, "comparisons": rows, "power": power}
    if all(row["outcome"] == NO_INTERVAL for row in rows):
        because = f"{names}: one boot each gives no interval, so the pair shows nothing yet"
        return {"outcome": NO_INTERVAL, "because": because, "comparisons": rows, "power": power}
    because = f"{names} are the same system and came out as such in {len(rows)} comparisons; {_in_words(power)}"
    return {"outcome": NOT_DISTINGUISHABLE, "because": because, "comparisons": rows, "power": power}


def against_baseline(run: Run, thresholds: Mapping[str, float], *, is_trusted: bool = True) -> list[dict[str, Any]]:
    """Ratio of every label to the baseline (``gfs`` where it ran) in the same state, by workload and over all.

    Every outcome is inconclusive unless the run ``is_trusted``: unless its A/A pair came out as the same system.
    """
    rows: list[dict[str, Any]] = []
    for name in _METRICS:
        measured = metric(name)
        states = _states(run, measured)
        labels = sorted({key[1] for key in states}, key=lambda label: (system_order(system_of(run, label)), label))
        if not labels:
            continue
        baseline = BASELINE if BASELINE in labels else labels[0]
        family: list[dict[str, Any]] = []
        for label in labels:
            if label != baseline:
                for key in sorted(key for key in states if key[1] == label):
                    family += _compare(run, measured, states, key, _counterpart(states, key, baseline))
        _decide(family, thresholds, is_trusted=is_trusted)
        rows += family
    return rows


def between_runs(
    first: Run, second: Run, thresholds: Mapping[str, float], *, is_trusted: bool = True
) -> list[dict[str, Any]]:
    """Ratio of every label in ``first`` to the same label and state in ``second``; rows as of against_baseline().

    Runs of one host each are compared whatever the hosts are called; otherwise host by host.
    """
    rows: list[dict[str, Any]] = []
    twin = dict(zip(first.hosts, second.hosts, strict=True)) if len(first.hosts) == len(second.hosts) == 1 else {}
    for name in (*_METRICS, *(found for found in _probe_metrics(first) if found in _probe_metrics(second))):
        measured = metric(name)
        one, other = _states(first, measured), _states(second, measured)
        family = [
            row | {"host": key[0], "label": key[1], "host_cache": key[2], "guest_cache": key[3]}
            for key in sorted(one, key=lambda key: (system_order(system_of(first, key[1])), key))
            for row in _ratios(first, measured, one[key], other.get((twin.get(key[0], key[0]), *key[1:]), {}))
        ]
        _decide(family, thresholds, is_trusted=is_trusted)
        rows += family
    return rows


def system_of(run: Run, label: str) -> str:
    """The system that ran under ``label``."""
    entry = run.plan["labels"].get(label)
    return str(entry["system"]) if entry else label


def task(row: Mapping[str, Any]) -> str:
    """What was done, by how a comparison calls it: the workload, and how many guests were alive where it was not one."""
    return f"{row['workload']} with {row['guests']} guests" if row["guests"] > 1 else str(row["workload"])


def _twins(run: Run) -> list[tuple[str, str]]:
    """Pairs of labels of one system with the same options: the first label against each other one."""
    equal: dict[str, list[str]] = defaultdict(list)
    for label, entry in run.plan["labels"].items():
        equal[f"{entry['system']} {sorted(entry['options'].items())}"].append(label)
    # The label that is the system's own name comes first, so that ratios read "again / original".
    ordered = [sorted(labels, key=lambda label: (label != system_of(run, label), label)) for labels in equal.values()]
    return sorted((labels[0], other) for labels in ordered for other in labels[1:])


def _states(run: Run, measured: Metric) -> States:
    rows: dict[tuple[str, str, str, str], dict[str, list[Any]]] = defaultdict(lambda: defaultdict(list))
    for record in run.ok(measured.kind):
        rows[record["host"], record["label"], record["host_cache"], record["guest_cache"]][task(record)].append(record)
    return {
        key: {
            name: sample for name, records in sorted(workloads.items()) if (sample := by_boot(records, measured.value))
        }
        for key, workloads in rows.items()
    }


def _counterpart(states: States, key: tuple[str, str, str, str], label: str) -> tuple[str, str, str, str]:
    """The same state under another label; a system without a guest stands beside a cold guest."""
    host, _, host_cache, guest_cache = key
    same = (host, label, host_cache, guest_cache)
    if same in states:
        return same
    return host, label, host_cache, "cold" if guest_cache == "none" else "none"


def _compare(
    run: Run, measured: Metric, states: States, of: tuple[str, str, str, str], to: tuple[str, str, str, str]
) -> Iterator[dict[str, Any]]:
    for row in _ratios(run, measured, states.get(of, {}), states.get(to, {})):
        yield row | {"host": of[0], "of": of[1], "to": to[1], "host_cache": of[2], "guest_cache": of[3]}


def _ratios(
    run: Run, measured: Metric, one: Mapping[str, statistics.Sample], other: Mapping[str, statistics.Sample]
) -> Iterator[dict[str, Any]]:
    """The ratio of each common workload, and of all of them."""
    common = sorted(set(one) & set(other))
    groups = [(name, [name]) for name in common] + ([(GEOMETRIC_MEAN, common)] if len(common) > 1 else [])
    for title, names in groups:
        sides = {name: one[name] for name in names}, {name: other[name] for name in names}
        try:
            ratio = statistics.geometric_mean_ratio(*sides, confidence=confidence(run))
        except ValueError:
            continue
        row: dict[str, Any] = {"metric": measured.name, "workload": title}
        row |= {"ratio": ratio.value, "n_of": ratio.n_of, "n_to": ratio.n_to}
        if title == GEOMETRIC_MEAN:
            row["workloads"] = list(ratio.workloads)
        p_value = ratio.p_against(1)
        if p_value is not None:
            row |= {"low": ratio.low, "high": ratio.high, "p": p_value, "measured": ratio}
        yield row


def _power(rows: Sequence[Mapping[str, Any]], thresholds: Mapping[str, float]) -> list[dict[str, Any]]:
    """By metric: the smallest factor that alone would have passed Holm's correction, the median over its rows, and the threshold.

    Not that of the best row: with two boots some row of many scatters little by luck.
    """
    tested = [row for row in rows if "measured" in row]
    power = []
    for name in dict.fromkeys(row["metric"] for row in tested):
        threshold = thresholds[name.split(".")[0]]
        factors = [row["measured"].tells_apart(_SIGNIFICANCE / len(tested)) for row in tested if row["metric"] == name]
        factor = max(threshold, median(factors))
        has_power = math.log(factor) <= _POWER_THRESHOLDS * math.log(threshold)
        power.append({"metric": name, "tells_apart": factor, "threshold": threshold, "has_power": has_power})
    return power


def _in_words(power: Sequence[Mapping[str, Any]]) -> str:
    """Probes have many figures: beyond a few only their range is told."""
    probes = sorted((row for row in power if row["metric"].startswith("probe.")), key=lambda row: row["tells_apart"])
    named = [row for row in power if row not in probes or len(probes) <= _NAMED_PROBES]
    words = [f"{metric(row['metric']).title} by a factor of {_factor(row)}{_lacks_power([row])}" for row in named]
    if len(probes) > _NAMED_PROBES:
        least, most = _factor(probes[0]), _factor(probes[-1])
        words.append(f"{len(probes)} figures of probes by factors of {least} to {most}{_lacks_power(probes)}")
    return f"the least that it could have told apart (median of the comparisons): {', '.join(words)}"


def _factor(row: Mapping[str, Any]) -> str:
    return f"{row['tells_apart']:.3g}" if row["tells_apart"] < _NO_MATTER_HOW_MUCH else f"over {_NO_MATTER_HOW_MUCH}"


def _lacks_power(rows: Sequence[Mapping[str, Any]]) -> str:
    without = [row for row in rows if not row["has_power"]]
    if not without:
        return ""
    over = f" over {len(without)} of them" if len(rows) > 1 else ""
    return f" (no power{over}: {without[0]['threshold']:g} would matter)"


def _probe_metrics(run: Run) -> list[str]:
    return sorted({f"probe.{name}" for record in run.ok("probe") for name in record["probe"]["metrics"]})


def _decide(rows: Iterable[dict[str, Any]], thresholds: Mapping[str, float], *, is_trusted: bool = True) -> None:
    """Give each row its Holm-adjusted p and its outcome; the rows are one family."""
    family = [row for row in rows if "p" in row]
    for row, adjusted in zip(family, statistics.holm([row["p"] for row in family]), strict=True):
        threshold = thresholds[row["metric"].split(".")[0]]
        small = max(row["ratio"], 1 / row["ratio"]) < threshold
        contains_one = row["low"] <= 1 <= row["high"]
        row["p_holm"] = adjusted
        row["outcome"] = NOT_DISTINGUISHABLE if contains_one or small or adjusted >= _SIGNIFICANCE else DISTINGUISHABLE
        del row["p"], row["measured"]
    for row in itertools.filterfalse(lambda row: "outcome" in row, rows):
        row["outcome"] = NO_INTERVAL
    for row in rows if not is_trusted else ():
        row["outcome"] = INCONCLUSIVE
