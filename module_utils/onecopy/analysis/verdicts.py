"""Verdicts on the paper's claims, computed from records against effects that claims.yml states beforehand.

A comparison claims that a ratio, a level or a slope lies within bounds. Its interval inside the bounds supports it, outside
refutes it, across them leaves it open; Holm's correction over the t-tests of all comparisons of the run guards against
finding something by looking often.

Every test is against the nearest bound. Where all boots gave the same number its p is 0, the limit of the test. Two things have
no p, stay out of Holm's family, and are decided as they stand: a figure that is the bound itself in every boot, for bounds
belong to what they bound; and a spread, which is a fact about the boots that there were.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from statistics import median
from typing import Any

from . import statistics
from .comparisons import ABSENT, DISTINGUISHABLE, NO_INTERVAL, system_of
from .conclusions import Finding, Verdict, bounds, conclude
from .density import fit
from .metrics import Metric, confidence, metric
from .stored_run import Record, Run, by_boot

_SIGNIFICANCE = 0.05
# One setting is nobody's best.
_LEAST_SETTINGS = 2
# Two boots that agree may do so by chance.
_LEAST_BOOTS = 3
# What a verdict must say of an A/A pair that shows nothing.
_CAVEATS = {ABSENT: ", without an A/A pair", NO_INTERVAL: ", with an A/A pair of one boot each, which shows nothing"}
TCG_REASON = "times under TCG are not claims"


def judge(run: Run, claims: Mapping[str, Any], aa: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One dictionary per claim, in their order: id, text, verdict, because, numbers (one per comparison and host)."""
    findings = [finding for claim in claims["claims"] for finding in _find(run, claim)]
    findings = _decide(findings, aa)
    return [
        conclude(claim, [finding for finding in findings if finding.claim == claim["id"]]) for claim in claims["claims"]
    ]


def _find(run: Run, claim: Mapping[str, Any]) -> Iterator[Finding]:
    for comparison in claim["comparisons"]:
        measured = metric(comparison["metric"])
        for host in run.hosts:
            yield _measure(run, Finding(claim["id"], comparison, host), measured)


def _measure(run: Run, finding: Finding, measured: Metric) -> Finding:
    comparison = finding.comparison
    sides = {
        side: _records(run, measured, finding.host, comparison[side]) for side in ("of", "to") if side in comparison
    }
    missing = [_missing(run, comparison[side]) for side, labels in sides.items() if not labels]
    found = finding
    if not missing:
        if measured.per_guest:
            found = _growth(run, finding, measured)
        elif measured.is_spread:
            found = _spread(finding, sides["of"])
        elif "to" in sides:
            found = _ratio(run, finding, measured, sides)
        else:
            found = _level(run, finding, measured, sides["of"])
    if measured.clock and run.accelerator == "tcg":
        return replace(found, p=None, inside=None, because=TCG_REASON)
    return replace(found, because="; ".join(missing)) if missing else found


def _records(
    run: Run, measured: Metric, host: str, selector: Mapping[str, Any]
) -> dict[str, dict[str, statistics.Sample]]:
    """Samples by label and workload.

    A system means the label of its own name, or the ``label`` that is given; ``best: true`` means every label it ran under.
    """
    wanted = {key: selector[key] for key in ("host_cache", "guest_cache") if key in selector}
    found: dict[str, dict[str, list[Record]]] = {}
    for record in run.ok(measured.kind):
        own = record["label"] == selector.get("label", selector["system"]) or (
            selector.get("best") and system_of(run, record["label"]) == selector["system"]
        )
        if own and record["host"] == host and all(record[key] == value for key, value in wanted.items()):
            found.setdefault(record["label"], {}).setdefault(record["workload"], []).append(record)
    samples: dict[str, dict[str, statistics.Sample]] = {}
    for label, workloads in sorted(found.items()):
        for name, records in sorted(workloads.items()):
            if sample := by_boot(records, measured.value):
                samples.setdefault(label, {})[name] = sample
    return samples


def _missing(run: Run, selector: Mapping[str, Any]) -> str:
    system = selector["system"]
    for entry in run.plan["unsupported"]:
        if entry["system"] == system:
            return f"{system} is unsupported here: {entry['reason']}"
    state = " ".join(
        f"{key.removesuffix('_cache')}-{selector[key]}" for key in ("host_cache", "guest_cache") if key in selector
    )
    return f"{selector.get('label', system)} {state} was not measured in this run".replace("  ", " ")


def _ratio(
    run: Run, finding: Finding, measured: Metric, sides: Mapping[str, Mapping[str, Mapping[str, statistics.Sample]]]
) -> Finding:
    low, high = bounds(finding.comparison)
    choices = []
    for of, of_samples in sides["of"].items():
        for to, to_samples in sides["to"].items():
            common = sorted(set(of_samples) & set(to_samples) & set(finding.comparison.get("workloads", of_samples)))
            try:
                both = {name: of_samples[name] for name in common}, {name: to_samples[name] for name in common}
                choices.append((statistics.geometric_mean_ratio(*both, confidence=confidence(run)), of, to))
            except ValueError as error:
                problem = str(error)
    if not choices:
        return replace(finding, because=f"no ratio: {problem}")
    # A system at its best has the lowest figure: the lowest ratio when it stands above the line, the highest when
    # below.
    ratio, of, to = min(
        choices, key=lambda choice: choice[0].value if "best" in finding.comparison["of"] else -choice[0].value
    )
    numbers = {
        "of": of,
        "to": to,
        "workloads": ratio.workloads,
        "ratio": ratio.value,
        "n_of": ratio.n_of,
        "n_to": ratio.n_to,
    }
    if ratio.low is None or ratio.high is None:
        return replace(finding, numbers=numbers, because="one boot has no interval")
    if finding.comparison["of"].get("best") and len(sides["of"]) < _LEAST_SETTINGS:
        system = finding.comparison["of"]["system"]
        return replace(
            finding,
            numbers=numbers | {"low": ratio.low, "high": ratio.high},
            because=f"{system} ran with one setting alone, and the claim is held against its best (experiment tuned)",
        )
    assert ratio.test is not None
    if "reaches" in finding.comparison:
        reached = finding.comparison["reaches"]
        inside = False if ratio.low > reached else True if ratio.value <= high else None
        p_value = ratio.p_against(reached)
        return replace(finding, numbers=numbers | {"low": ratio.low, "high": ratio.high}, inside=inside, p=p_value)
    inside = _side(ratio.low, ratio.high, low, high)
    p_value = _p_value(ratio.test, *(math.log(bound) if bound > 0 else -math.inf for bound in (low, high)))
    return replace(finding, numbers=numbers | {"low": ratio.low, "high": ratio.high}, inside=inside, p=p_value)


def _level(
    run: Run, finding: Finding, measured: Metric, samples: Mapping[str, Mapping[str, statistics.Sample]]
) -> Finding:
    low, high = bounds(finding.comparison)
    label, chosen = _chosen(finding, samples)
    estimates = [statistics.estimate(sample, confidence=confidence(run)) for sample in chosen.values()]
    if not estimates:
        return replace(finding, because="its workloads were not measured in this run")
    values = [estimate.value for estimate in estimates]
    numbers = {
        "of": label,
        "workloads": sorted(chosen),
        "least": min(values),
        "most": max(values),
        "n_of": min(estimate.n for estimate in estimates),
    }
    tests = [estimate.test for estimate in estimates if estimate.test is not None]
    if len(tests) < len(estimates):
        return replace(finding, numbers=numbers, because="one boot has no interval")
    sides = [_side(*test.interval(confidence(run)), low, high) for test in tests]
    p_values = [_p_value(test, low, high) for test in tests]
    if False not in sides:
        # Every workload must lie inside, so the least certain one counts.
        inside = None if None in sides else True
        return replace(
            finding, numbers=numbers, inside=inside, p=max((p for p in p_values if p is not None), default=None)
        )
    # One that lies outside is enough against the claim, so there are as many chances of it as workloads.
    outside = [p for p, side in zip(p_values, sides, strict=True) if side is False and p is not None]
    return replace(finding, numbers=numbers, inside=False, p=min(1.0, len(tests) * min(outside)))


def _growth(run: Run, finding: Finding, measured: Metric) -> Finding:
    """How much the figure grows with every guest, by a line through all trials of the label."""
    label = finding.comparison["of"].get("label", finding.comparison["of"]["system"])
    own = [one for one in run.ok(measured.kind) if (one["label"], one["host"]) == (label, finding.host)]
    points = sorted([one["guests"], value] for one in own if (value := measured.value(one)) is not None)
    if len({guests for guests, _ in points}) < 2:
        return replace(finding, because=f"{label} ran with one number of guests alone: growth takes two at least")
    per_guest, fixed, test = fit(points)
    numbers = {"of": label, "per_guest": per_guest, "fixed": fixed, "n_of": len(points)}
    if test is None:
        return replace(finding, numbers=numbers, because="two trials have no interval")
    low, high = test.interval(confidence(run))
    within = bounds(finding.comparison)
    inside = _side(low, high, *within)
    return replace(finding, numbers=numbers | {"low": low, "high": high}, inside=inside, p=_p_value(test, *within))


def _spread(finding: Finding, samples: Mapping[str, Mapping[str, statistics.Sample]]) -> Finding:
    """How far boots are apart: a fact about the boots there were, so it has no interval, and takes enough of them."""
    low, high = bounds(finding.comparison)
    label, chosen = _chosen(finding, samples)
    if not chosen:
        return replace(finding, because="its workloads were not measured in this run")
    medians = [statistics.boot_medians(sample) for sample in chosen.values()]
    spreads = [(max(each) - min(each)) / median(each) for each in medians]
    boots = min(len(each) for each in medians)
    numbers = {"of": label, "workloads": sorted(chosen), "least": min(spreads), "most": max(spreads), "n_of": boots}
    if boots < _LEAST_BOOTS:
        return replace(finding, numbers=numbers, because=f"a spread takes {_LEAST_BOOTS} boots at least")
    return replace(finding, numbers=numbers, inside=low <= min(spreads) and max(spreads) <= high)


def _chosen(
    finding: Finding, samples: Mapping[str, Mapping[str, statistics.Sample]]
) -> tuple[str, dict[str, statistics.Sample]]:
    """The label, and its samples of the workloads that the comparison is about."""
    (label, by_workload), *_ = samples.items()
    wanted = finding.comparison.get("workloads", by_workload)
    return label, {name: sample for name, sample in by_workload.items() if name in wanted}


def _side(low: float, high: float, least: float, most: float) -> bool | None:
    """True inside the bounds, False outside, None across one of them."""
    if least <= low and high <= most:
        return True
    return False if high < least or low > most else None


def _p_value(test: statistics.TTest, low: float, high: float) -> float | None:
    """p against the bound that is nearest; None where the figure is a bound in every boot, which no test can tell from the bound."""
    if test.error == 0 and test.center in (low, high):
        return None
    return max(test.p_against(bound) for bound in (low, high) if math.isfinite(bound))


def _decide(findings: Sequence[Finding], aa: Mapping[str, Any]) -> list[Finding]:
    tested = [(finding, finding.p) for finding in findings if finding.p is not None]
    adjusted = dict(zip((id(one) for one, _ in tested), statistics.holm([p for _, p in tested]), strict=True))
    return [_decided(finding, adjusted.get(id(finding)), aa) for finding in findings]


def _decided(finding: Finding, p_holm: float | None, aa: Mapping[str, Any]) -> Finding:
    if finding.because:
        return finding
    if p_holm is not None:
        finding = replace(finding, numbers=finding.numbers | {"p_holm": p_holm})
    if aa["outcome"] == DISTINGUISHABLE:
        return replace(finding, because=f"the A/A pair failed: {aa['because']}")
    reaches = "reaches" in finding.comparison
    if finding.inside is None:
        crossing = "the interval crosses the bound that was stated beforehand"
        return replace(
            finding,
            because="the interval reaches as far as claimed, the figure itself does not" if reaches else crossing,
        )
    # To reach something is not to differ from it: that takes no significance, and not to reach it does.
    if p_holm is not None and p_holm >= _SIGNIFICANCE and not (reaches and finding.inside):
        return replace(finding, because=f"not significant among all comparisons of this run (Holm p {p_holm:.2g})")
    verdict: Verdict = "supported" if finding.inside else "refuted"
    because = "as claimed" if finding.inside else "against the claim"
    return replace(finding, verdict=verdict, because=because + _CAVEATS.get(aa["outcome"], ""))
