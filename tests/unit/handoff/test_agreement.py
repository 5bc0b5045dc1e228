"""Claim by claim and figure by figure: agrees, disagrees, not comparable."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import invented
import pytest
import yaml
from ansible.module_utils.onecopy.analysis.agreement import Side, agreement, lines
from ansible.module_utils.onecopy.analysis.stored_run import load
from ansible.module_utils.onecopy.analysis.summary import summarise
from invented_kit import CLAIMS


@pytest.fixture(scope="module")
def kvm(tmp_path_factory: pytest.TempPathFactory) -> Side:
    """A run with five boots under KVM: some of its claims are decided."""
    plan = invented.plan("kvm", repeats=5)
    return side(tmp_path_factory.mktemp("kvm"), plan, invented.records(plan))


def side(directory: Path, plan: dict[str, Any], records: list[dict[str, Any]]) -> Side:
    run = load(invented.store(directory, plan, records))
    return Side(summarise(run, yaml.safe_load(CLAIMS)), run.plan, run.manifest)


def changed(one: Side) -> Side:
    return copy.deepcopy(one)


def claim(result: dict[str, Any], name: str) -> dict[str, Any]:
    return next(row for row in result["claims"] if row["id"] == name)


def test_a_run_agrees_with_itself(kvm: Side) -> None:
    result = agreement(kvm, kvm)
    assert result["remarks"] == []
    for name in ("copies", "ratios"):
        assert result["counts"][name]["agrees"] == len(result[name]) > 0
    decided = [row for row in result["claims"] if row["archived"]["verdict"] != "inconclusive"]
    assert decided
    assert all(row["outcome"] == "agrees" for row in decided)
    assert all(row["equal"] for row in result["circumstances"])


def test_another_boot_of_the_same_machine_agrees(kvm: Side, tmp_path: Path) -> None:
    again = side(tmp_path, dict(kvm.plan), invented.records(kvm.plan, seed=2))
    result = agreement(kvm, again)
    assert result["counts"]["copies"]["disagrees"] == 0
    assert result["counts"]["claims"]["disagrees"] == 0
    assert any(row["archived"]["ratio"] != row["repeated"]["ratio"] for row in result["ratios"])


def test_probes_agree_by_their_metrics(kvm: Side) -> None:
    def probed(accelerator: str, **values: float) -> Side:
        one = changed(kvm)
        row = {"host": "h", "system": "gfs", "label": "gfs", "guests": 1, "probe": "idle", "n": 1}
        rows = [row | {"metric": name, "value": value} for name, value in values.items()]
        return Side({**one.summary, "probes": rows, "accelerator": accelerator}, one.plan, one.manifest)

    first = probed("tcg", backed_bytes=100.0, boot_seconds=5.0, pages=1.0)
    result = agreement(first, probed("tcg", backed_bytes=104.0, boot_seconds=5.0, pages=1.2))
    outcomes = {row["metric"]: row["outcome"] for row in result["probes"]}
    assert outcomes == {"backed_bytes": "agrees", "boot_seconds": "not comparable", "pages": "disagrees"}
    assert "idle of gfs, pages: disagrees: 1 and 1.2: further apart than 5%, and no common interval" in lines(result)
    assert agreement(kvm, first)["probes"][0]["because"] == "measured in the repeated run alone"


def test_another_guest_makes_figures_not_comparable(kvm: Side) -> None:
    one, other = changed(kvm), changed(kvm)
    for side, version in ((one, "6.12.1"), (other, "6.12.2")):
        for host in side.manifest["hosts"].values():
            host["guest"] = {"packages": ["python3 3.13", f"linux {version}"]}
    result = agreement(one, other)
    assert {row["outcome"] for row in result["copies"]} == {"not comparable"}
    assert result["copies"][0]["because"] == "another guest: 1 packages differ (linux 6.12.1 archived)"
    assert {row["outcome"] for row in agreement(one, one)["copies"]} == {"agrees"}


def test_open_claims_are_not_comparable_and_say_where(kvm: Side) -> None:
    row = claim(agreement(kvm, kvm), "C9")
    assert row["outcome"] == "not comparable"
    assert row["because"] == "inconclusive in the archived and in the repeated run"


def test_other_verdict_disagrees_with_both_sets_of_figures(kvm: Side) -> None:
    other = changed(kvm)
    there = next(row for row in other.summary["claims"] if row["id"] == "C3.virtiofs_never")
    assert there["verdict"] == "supported"
    there["verdict"] = "refuted"
    row = claim(agreement(kvm, other), "C3.virtiofs_never")
    assert row["outcome"] == "disagrees"
    assert row["because"] == "supported in the archived run, refuted in the repeated one"
    assert row["archived"]["numbers"]
    assert row["repeated"]["numbers"]


def test_failed_aa_makes_claims_not_comparable(kvm: Side) -> None:
    other = changed(kvm)
    other.summary["aa"]["outcome"] = "distinguishable"
    row = claim(agreement(kvm, other), "C3.virtiofs_never")
    assert row["outcome"] == "not comparable"
    assert "A/A pair of the repeated run failed" in row["because"]


def test_claim_of_one_side_alone(kvm: Side) -> None:
    other = changed(kvm)
    other.summary["claims"].pop()
    assert agreement(kvm, other)["claims"][-1]["because"] == "only the archived run has this claim"


@pytest.mark.parametrize(
    ("shift", "outcome"), [(0.0, "agrees"), (0.029, "agrees"), (-0.029, "agrees"), (0.2, "disagrees")]
)
def test_copies_agree_within_the_tolerance(kvm: Side, shift: float, outcome: str) -> None:
    other = changed(kvm)
    for name in ("copies", "low", "high"):
        other.summary["copies"][0][name] += shift
    assert agreement(kvm, other)["copies"][0]["outcome"] == outcome


def test_copies_agree_when_intervals_meet(kvm: Side) -> None:
    other = changed(kvm)
    row = other.summary["copies"][0]
    row["low"], row["copies"], row["high"] = row["copies"] - 0.01, row["copies"] + 0.3, row["copies"] + 0.6
    assert agreement(kvm, other)["copies"][0]["because"].endswith("their intervals meet")


def test_state_of_one_side_alone_is_not_comparable(kvm: Side) -> None:
    other = changed(kvm)
    gone = other.summary["copies"].pop(0)
    row = agreement(kvm, other)["copies"][0]
    assert (row["label"], row["outcome"], row["because"]) == (
        gone["label"],
        "not comparable",
        "measured in the archived run alone",
    )
    back = agreement(other, kvm)["copies"][-1]
    assert (back["label"], back["because"], "archived" in back) == (
        gone["label"],
        "measured in the repeated run alone",
        False,
    )


def test_emulated_times_and_another_data_set_are_not_comparable(kvm: Side, tmp_path: Path) -> None:
    plan = invented.plan("tcg", repeats=5)
    plan["dataset"] = plan["dataset"] | {"large_mib": 12}
    result = agreement(kvm, side(tmp_path, plan, invented.records(plan)))
    assert result["remarks"] == ["accelerators differ: kvm archived, tcg repeated"]
    assert {row["because"] for row in result["ratios"]} == {"times under TCG are not claims"}
    assert {row["because"] for row in result["copies"]} == {"another dataset: the runs did not measure the same thing"}
    assert result["counts"]["copies"]["not comparable"] == len(result["copies"])


def test_another_experiment_is_said(kvm: Side, tmp_path: Path) -> None:
    plan = invented.plan("kvm", repeats=5, seed=7, timed=["cat"])
    remarks = agreement(kvm, side(tmp_path, plan, invented.records(plan)))["remarks"]
    assert remarks[0].startswith("the experiments differ")
    assert "the plans share" in remarks[1]


def test_other_machines_are_shown_side_by_side(kvm: Side) -> None:
    other = changed(kvm)
    (facts,) = other.manifest["hosts"].values()
    facts["kernel"] = "7.0.0-other"
    result = agreement(kvm, other)
    row = next(row for row in result["circumstances"] if row["name"] == "kernel")
    assert not row["equal"]
    assert list(row["repeated"].values()) == ["7.0.0-other"]
    assert "kernel: archived 6.12.0-invented; repeated 7.0.0-other" in lines(result)


def test_lines_name_every_claim(kvm: Side) -> None:
    text = lines(agreement(kvm, kvm))
    assert all(any(line.startswith(f"{row['id']}: ") for line in text) for row in kvm.summary["claims"])
    assert text[-4].startswith("claims: ")
    assert all("\n" not in line for line in text)
