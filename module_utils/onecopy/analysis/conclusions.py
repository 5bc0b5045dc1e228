"""From the comparisons of a claim, each decided, to its one verdict with the reason in words."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

Verdict = Literal["supported", "refuted", "inconclusive"]


@dataclass(frozen=True)
class Finding:
    """One comparison of one claim on one host: what was found, before and after the decision."""

    claim: str
    comparison: Mapping[str, Any]
    host: str
    numbers: dict[str, Any] = field(default_factory=dict)
    inside: bool | None = None
    p: float | None = None
    verdict: Verdict = "inconclusive"
    because: str = ""

    @property
    def decides(self) -> bool:
        return bool(self.comparison.get("decides", True))


def conclude(claim: Mapping[str, Any], findings: Sequence[Finding]) -> dict[str, Any]:
    """Of one claim: id, text, verdict, because, numbers (one per comparison and host).

    One refuted comparison refutes, all supported ones support. A claim that says why it may be ``contradictory`` is refuted only
    where the comparisons that differ in their labels alone, which stand for CPU models, agree that it is.
    """
    deciding = [finding for finding in findings if finding.decides]
    verdicts = [finding.verdict for finding in deciding]
    split = _split(deciding) if "contradictory" in claim else []
    refuted = [finding for finding in deciding if finding.verdict == "refuted" and finding not in split]
    verdict: Verdict = "inconclusive"
    if refuted:
        verdict = "refuted"
    elif verdicts and all(each == "supported" for each in verdicts):
        verdict = "supported"
    if any(_leans_inside(finding) for finding in split) and not refuted:
        because = f"{claim['contradictory']}: {_because(split)}"
    else:
        because = _because(refuted or [finding for finding in deciding if finding.verdict == verdict])
    if not claim["comparisons"]:
        because = f"not measured in this run: it takes {claim['awaits']}"
    if verdict in claim.get("means", {}):
        because = f"{claim['means'][verdict]}: {because}"
    return {
        "id": claim["id"],
        "text": claim["text"],
        "verdict": verdict,
        "because": because,
        "numbers": [_row(finding) for finding in findings],
    }


def _split(findings: Sequence[Finding]) -> list[Finding]:
    """Those that ask the same of the same systems, where one is refuted and another one is not on its side, or was not measured.

    What is the same but for the labels and workloads is the same question, asked of guests whose CPU models write a copying loop in other ways.
    """
    same: dict[tuple[Any, ...], list[Finding]] = {}
    for finding in findings:
        systems = [finding.comparison.get(side, {}).get("system") for side in ("of", "to")]
        same.setdefault((finding.host, finding.comparison["metric"], *systems), []).append(finding)
    return [
        finding
        for group in same.values()
        if any(one.verdict == "refuted" for one in group) and any(_leans_inside(one) is not False for one in group)
        for finding in group
    ]


def _leans_inside(finding: Finding) -> bool | None:
    """Whether what was found, whatever its interval, lies within the bounds; None where nothing was found."""
    low, high = bounds(finding.comparison)
    found = [finding.numbers[name] for name in ("ratio", "per_guest", "least", "most") if name in finding.numbers]
    return all(low <= value <= high for value in found) if found else None


def _because(findings: Sequence[Finding]) -> str:
    """The reasons, each with the comparisons that gave it."""
    reasons: dict[str, list[str]] = {}
    for finding in findings:
        reasons.setdefault(finding.because, []).append(_found(finding))
    return "; ".join(f"{reason} ({'; '.join(found)})" for reason, found in reasons.items())


def _row(finding: Finding) -> dict[str, Any]:
    return {
        "name": finding.comparison["name"],
        "metric": finding.comparison["metric"],
        "host": finding.host,
        "claimed": _claimed(finding.comparison),
        "decides": finding.decides,
        "verdict": finding.verdict,
        "because": finding.because,
        **finding.numbers,
    }


def _claimed(comparison: Mapping[str, Any]) -> dict[str, float]:
    least, most = comparison["within"]
    claimed = {"at_least": least, "at_most": most, "reaching": comparison.get("reaches")}
    return {name: value for name, value in claimed.items() if value is not None}


def _found(finding: Finding) -> str:
    numbers, claimed = finding.numbers, _claimed(finding.comparison)
    name = finding.comparison["name"]
    wanted = " and ".join(f"{bound.replace('_', ' ')} {value:g}" for bound, value in claimed.items())
    if "per_guest" in numbers:
        return f"{name}: {numbers['per_guest']:.3g} per guest{_limits(numbers)}, claimed {wanted}"
    if "low" in numbers:
        return f"{name}: {numbers['ratio']:.3g}{_limits(numbers)}, claimed {wanted}"
    if "ratio" in numbers:
        return f"{name}: {numbers['ratio']:.3g}, claimed {wanted}"
    if "least" in numbers:
        span = sorted({f"{numbers['least']:.3g}", f"{numbers['most']:.3g}"})
        return f"{name}: {' to '.join(span)}, claimed {wanted}"
    return f"{name}: claimed {wanted}"


def _limits(numbers: Mapping[str, Any]) -> str:
    return f" [{numbers['low']:.3g}, {numbers['high']:.3g}]" if "low" in numbers else ""


def bounds(comparison: Mapping[str, Any]) -> tuple[float, float]:
    """At least, at most; infinite where there is none."""
    low, high = comparison["within"]
    return float(-math.inf if low is None else low), float(math.inf if high is None else high)
