"""From decided comparisons to the verdict on a claim."""

from __future__ import annotations

from typing import Any

import pytest
from ansible.module_utils.onecopy.analysis.conclusions import Finding, Verdict, conclude

SIGN = "the sign depends on how the CPU model writes a copying loop"
Found = tuple[Verdict, float | None]


def mechanism(claims: dict[str, Any], name: str, *found: Found) -> dict[str, Any]:
    """The verdict on a claim of which the first comparisons were found so: verdict and value, None where not measured."""
    claim = next(claim for claim in claims["claims"] if claim["id"] == name)
    findings = []
    for comparison, (verdict, value) in zip(claim["comparisons"], found, strict=False):
        names = ("ratio",) if "to" in comparison else ("least", "most")
        numbers = {} if value is None else dict.fromkeys(names, value)
        findings.append(Finding(name, comparison, "kvm1", numbers, verdict=verdict, because="invented"))
    return conclude(claim, findings)


@pytest.mark.parametrize(
    ("max_", "no_erms", "verdict", "flips"),
    [
        (("refuted", 0.9), ("refuted", 1.0), "refuted", False),
        (("refuted", 0.9), ("inconclusive", 1.05), "refuted", False),
        (("refuted", 0.9), ("inconclusive", 1.2), "inconclusive", True),
        (("inconclusive", 1.2), ("refuted", 0.9), "inconclusive", True),
        (("refuted", 0.9), ("supported", 1.3), "inconclusive", True),
        (("refuted", 0.9), ("inconclusive", None), "inconclusive", False),
        (("supported", 1.3), ("supported", 1.3), "supported", False),
    ],
)
@pytest.mark.parametrize("claim", ["C2.mechanism", "C4.mechanism"])
def test_a_mechanism_is_refuted_where_the_cpu_models_agree(
    claims: dict[str, Any], claim: str, max_: Found, no_erms: Found, verdict: str, flips: bool
) -> None:
    found = mechanism(claims, claim, max_, no_erms)
    assert found["verdict"] == verdict
    assert found["because"].startswith(SIGN) is flips


@pytest.mark.parametrize(
    ("found", "verdict", "flips"),
    [
        # myfs, myfs without fast copies (both at most 1.3), gfs and gfs without them (both at least 1.3)
        ((("supported", 1.1), ("supported", 1.1), ("refuted", 1.0), ("refuted", 1.1)), "refuted", False),
        ((("refuted", 1.6), ("inconclusive", 1.2), ("supported", 2.0), ("supported", 2.0)), "inconclusive", True),
        ((("supported", 1.1), ("supported", 1.1), ("refuted", 1.0), ("inconclusive", 1.4)), "inconclusive", True),
        ((("refuted", 1.6), ("supported", 1.2), ("refuted", 1.0), ("refuted", 1.0)), "refuted", False),
    ],
)
def test_cpu_models_are_held_against_each_other_system_by_system(
    claims: dict[str, Any], found: tuple[Found, ...], verdict: str, flips: bool
) -> None:
    concluded = mechanism(claims, "C6.mechanism", *found)
    assert concluded["verdict"] == verdict
    assert concluded["because"].startswith(SIGN) is flips


def test_a_claim_that_cannot_be_contradictory_is_refuted_by_one_comparison(claims: dict[str, Any]) -> None:
    assert mechanism(claims, "path.instrument", ("refuted", 1.5), ("supported", 1.0))["verdict"] == "refuted"


def test_hosts_are_judged_apart(claims: dict[str, Any]) -> None:
    claim = next(claim for claim in claims["claims"] if claim["id"] == "C2.mechanism")
    verdicts: dict[str, Verdict] = {"kvm1": "refuted", "kvm2": "supported"}
    findings = [
        Finding(claim["id"], comparison, host, {"ratio": 0.9 if verdict == "refuted" else 1.3}, verdict=verdict)
        for host, verdict in verdicts.items()
        for comparison in claim["comparisons"][:2]
    ]
    assert conclude(claim, findings)["verdict"] == "refuted"
