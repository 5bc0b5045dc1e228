"""Verdicts by arithmetic: a claim is supported, refuted or left open by its interval, never by hope."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import invented
import pytest
from ansible.module_utils.onecopy.analysis import report, stored_run, summary

Change = Callable[[dict[str, Any]], None]
EVERYTHING = [*invented.experiment()["systems"], "gfs_pmem_dax", "myfs"]


def judged(
    directory: Path, claims: dict[str, Any], accelerator: str = "kvm", change: Change | None = None, **experiment: Any
) -> dict[str, Any]:
    plan = invented.plan(accelerator, **{"systems": EVERYTHING, **experiment})
    records = invented.records(plan, change=change)
    found = summary.summarise(stored_run.load(invented.store(directory, plan, records)), claims)
    return {claim["id"]: claim for claim in found["claims"]} | {"aa": found["aa"]}


def slow(label: str, factor: float) -> Change:
    def change(record: dict[str, Any]) -> None:
        if record["label"] == label and record["kind"] == "timed":
            record["result"]["wall_seconds"] *= factor

    return change


def held(label: str, host: float, guest: float) -> Change:
    def change(record: dict[str, Any]) -> None:
        for counts in record.get("copies", {}).values() if record["label"] == label else ():
            counts |= {
                "host_pages": int(host * counts["accessed_pages"]),
                "guest_pages": int(guest * counts["accessed_pages"]),
            }

    return change


def test_every_claim_of_the_paper_has_a_verdict_and_a_reason(tmp_path: Path, claims: dict[str, Any]) -> None:
    found = judged(tmp_path, claims)
    for number in range(1, 10):
        claim = found[f"C{number}"]
        assert claim["verdict"] in ("supported", "refuted", "inconclusive")
        assert claim["because"]


def test_copies_decide_c3_for_every_mode_of_virtiofs_and_myfs(tmp_path: Path, claims: dict[str, Any]) -> None:
    found = judged(tmp_path, claims, "tcg")
    assert found["C3"]["verdict"] == "supported"
    assert found["C3.virtiofs_never"]["verdict"] == "supported"
    for mode in ("auto", "always"):
        claim = found[f"C3.virtiofs_{mode}"]
        assert claim["verdict"] == "refuted"
        assert "plain virtiofs duplicates just as GFS does" in claim["because"]


def test_a_second_copy_in_myfs_refutes_c3(tmp_path: Path, claims: dict[str, Any]) -> None:
    assert judged(tmp_path, claims, change=held("myfs", 1, 1))["C3"]["verdict"] == "refuted"


def test_times_under_tcg_are_inconclusive_with_that_reason(tmp_path: Path, claims: dict[str, Any]) -> None:
    found = judged(tmp_path, claims, "tcg", change=slow("gfs", 10))
    for claim in ("C1", "C2", "C4"):
        assert found[claim]["verdict"] == "inconclusive"
        assert "times under TCG are not claims" in found[claim]["because"]
        assert "ratio" in found[claim]["numbers"][0]


def test_the_same_times_under_kvm_decide(tmp_path: Path, claims: dict[str, Any]) -> None:
    tuned = {"system": "gfs_direct", "label": "gfs_direct_tuned", "options": {"aio": "threads"}}
    systems = ["hfs", "gfs", "gfs_direct", tuned, "myfs", "virtiofs_auto"]
    found = judged(tmp_path, claims, change=slow("gfs", 10), systems=systems)
    assert found["C1"]["verdict"] == "refuted"
    assert found["C2"]["verdict"] == "supported"
    assert found["C4"]["verdict"] == "supported"


def test_an_effect_below_the_one_stated_beforehand_refutes(tmp_path: Path, claims: dict[str, Any]) -> None:
    # gfs takes 1.0 s and myfs 0.6 s of invented time: 1.2 times as slow is real, and not "far slower".
    found = judged(tmp_path, claims, change=slow("gfs", 0.72), systems=["hfs", "gfs", "myfs", "virtiofs_auto"])
    assert found["C2"]["verdict"] == "refuted"
    ratio = found["C2"]["numbers"][0]
    assert 1.1 < ratio["low"] < ratio["high"] < 1.5


def test_an_interval_across_the_bound_is_inconclusive(tmp_path: Path, claims: dict[str, Any]) -> None:
    found = judged(
        tmp_path, claims, change=slow("gfs", 0.9), systems=["hfs", "gfs", "myfs", "virtiofs_auto"], repeats=2
    )
    assert found["C2"]["verdict"] == "inconclusive"
    assert "crosses the bound" in found["C2"]["because"]


def lengths(run: dict[str, float]) -> Callable[[dict[str, Any]], None]:
    """Invented path lengths by label."""

    def change(record: dict[str, Any]) -> None:
        record["probe"] = {
            "metrics": {
                "cold_instructions_per_byte": run[record["label"]] + record["repeat"] * 1e-4,
                "cold_by_warm_ratio": 1.1 if record["system"] == "myfs" else 2.0,
                "throttled_by_plain_ratio": 1.01,
            }
        }

    return change


@pytest.mark.parametrize(
    ("longer", "verdict", "because"),
    [(0.9, "supported", "as claimed"), (3.0, "inconclusive", "the sign depends on how the CPU model writes")],
)
def test_a_sign_that_flips_between_cpu_models_leaves_a_mechanism_open(
    tmp_path: Path, claims: dict[str, Any], longer: float, verdict: str, because: str
) -> None:
    systems = [
        {"system": system, "label": f"{system}{ending}", "options": {"icount": True, "cpu_model": model}}
        for system in ("gfs", "myfs", "gfs_direct")
        for ending, model in (("", "max"), ("_no_erms", "max,-erms,-fsrm"))
    ]
    invented_lengths = {"gfs": 2.0, "gfs_direct": 2.0, "myfs": 1.0, "gfs_no_erms": 1.5, "gfs_direct_no_erms": 4.5}
    found = judged(
        tmp_path,
        claims,
        "tcg",
        lengths(invented_lengths | {"myfs_no_erms": longer}),
        systems=systems,
        residency=[],
        timed=[],
        probes=[{"probe": "path_length", "label": "path_large"}],
    )
    assert (found["C2.mechanism"]["verdict"], found["C4.mechanism"]["verdict"]) == (verdict, "supported")
    assert because in found["C2.mechanism"]["because"]
    assert found["C6.mechanism"]["verdict"] == "supported"
    assert found["C2"]["verdict"] == "inconclusive"


@pytest.mark.parametrize(
    ("step", "repeats", "verdict", "because"),
    [
        (0.009, 3, "supported", "as claimed"),
        (0.011, 3, "refuted", "spread over boots, myfs: 0.02"),
        (0.0, 2, "inconclusive", "a spread takes 3 boots at least"),
    ],
)
def test_boots_that_execute_different_lengths_refute_the_instrument(
    tmp_path: Path, claims: dict[str, Any], step: float, repeats: int, verdict: str, because: str
) -> None:
    def change(record: dict[str, Any]) -> None:
        metrics = {"cold_instructions_per_byte": 1 + step * (record["repeat"] - 2), "throttled_by_plain_ratio": 1.0}
        record["probe"] = {"metrics": metrics}

    systems = ["gfs", "gfs_direct", "virtiofs_auto", "myfs"]
    probes = [{"probe": "path_length", "label": "path_large"}]
    found = judged(
        tmp_path, claims, "tcg", change, systems=systems, residency=[], timed=[], probes=probes, repeats=repeats
    )
    assert found["path.instrument"]["verdict"] == verdict
    assert because in found["path.instrument"]["because"]


def test_one_boot_decides_nothing(tmp_path: Path, claims: dict[str, Any]) -> None:
    found = judged(tmp_path, claims, repeats=1)
    for claim in ("C1", "C2", "C3", "C6"):
        assert found[claim]["verdict"] == "inconclusive"
    assert "one boot has no interval" in found["C3"]["because"]
    assert found["C3"]["numbers"][0]["ratio"] == 2.0


def test_a_failed_aa_pair_leaves_everything_open(tmp_path: Path, claims: dict[str, Any]) -> None:
    found = judged(tmp_path, claims, change=held("gfs_again", 1, 0.5))
    assert found["aa"]["outcome"] == "distinguishable"
    assert "gfs and gfs_again are the same system, yet differ" in found["aa"]["because"]
    assert {found[f"C{number}"]["verdict"] for number in range(1, 10)} == {"inconclusive"}
    assert "the A/A pair failed" in found["C3"]["because"]


def test_a_failed_aa_pair_makes_every_comparison_inconclusive_and_opens_the_report(
    tmp_path: Path, claims: dict[str, Any]
) -> None:
    plan = invented.plan("kvm", systems=EVERYTHING)
    directory = invented.store(tmp_path, plan, invented.records(plan, change=held("gfs_again", 1, 0.5)))
    run = stored_run.load(directory)
    found = summary.summarise(run, claims)
    assert {row["outcome"] for row in found["comparisons"]} == {"inconclusive"}
    assert len(found["comparisons"]) > 20
    first = report.document(run, found).opening[0]
    assert first.tone == "bad"
    assert "Every comparison of this run is inconclusive" in first.text


@pytest.mark.parametrize(("again", "outcome"), [(2000, "distinguishable"), (1010, "not distinguishable")])
def test_probes_take_part_in_the_aa_pair(tmp_path: Path, claims: dict[str, Any], again: int, outcome: str) -> None:
    systems = ["gfs", {"system": "gfs", "label": "gfs_again"}]
    plan = invented.plan("tcg", systems=systems, probes=["idle_guest"], residency=[], timed=[])

    def change(record: dict[str, Any]) -> None:
        for part in ("copies", "io_path"):
            record.pop(part, None)
        pages = again if record["label"] == "gfs_again" else 1000
        record["probe"] = {"metrics": {"guest_free_bytes": pages + record["repeat"]}}

    directory = invented.store(tmp_path, plan, invented.records(plan, change=change))
    assert summary.summarise(stored_run.load(directory), claims)["aa"]["outcome"] == outcome


def test_one_guest_and_two_are_not_taken_for_repeats_of_each_other(tmp_path: Path, claims: dict[str, Any]) -> None:
    systems = ["gfs", {"system": "gfs", "label": "gfs_again"}]
    plan = invented.plan("tcg", systems=systems, probes=["idle_guest"], residency=[], timed=[], guests=[1, 2])

    def change(record: dict[str, Any]) -> None:
        for part in ("copies", "io_path"):
            record.pop(part, None)
        record["probe"] = {"metrics": {"guest_free_bytes": 1000 * record["guests"] + record["repeat"]}}

    found = summary.summarise(
        stored_run.load(invented.store(tmp_path, plan, invented.records(plan, change=change))), claims
    )
    rows = {row["workload"]: row for row in found["aa"]["comparisons"]}
    assert set(rows) == {"idle_guest", "idle_guest with 2 guests"}
    assert {row["n_of"] for row in rows.values()} == {3}


def test_times_alone_can_fail_the_aa_pair(tmp_path: Path, claims: dict[str, Any]) -> None:
    found = judged(tmp_path, claims, change=slow("gfs_again", 1.5), repeats=6)
    assert found["aa"]["outcome"] == "distinguishable"
    assert found["C2"]["verdict"] == "inconclusive"


def test_a_difference_too_small_to_matter_passes_the_aa_pair(tmp_path: Path, claims: dict[str, Any]) -> None:
    found = judged(tmp_path, claims, change=held("gfs_again", 1, 1.01))
    assert found["aa"]["outcome"] == "not distinguishable"


def test_an_aa_pair_seldom_fails_by_chance(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan = invented.plan("kvm", systems=["gfs", {"system": "gfs", "label": "gfs_again"}], residency=["cat"])
    failed = 0
    for seed in range(40):
        directory = invented.store(tmp_path / str(seed), plan, invented.records(plan, noise=0.2, seed=seed))
        failed += summary.summarise(stored_run.load(directory), claims)["aa"]["outcome"] == "distinguishable"
    assert failed <= 5


@pytest.mark.parametrize(("repeats", "has_power", "tone"), [(2, False, "open"), (10, True, "good")])
def test_an_aa_pair_that_could_hardly_fail_says_so(
    tmp_path: Path, claims: dict[str, Any], repeats: int, has_power: bool, tone: str
) -> None:
    plan = invented.plan("kvm", systems=["gfs", {"system": "gfs", "label": "gfs_again"}], repeats=repeats)
    run = stored_run.load(invented.store(tmp_path, plan, invented.records(plan)))
    found = summary.summarise(run, claims)
    power = {row["metric"]: row for row in found["aa"]["power"]}
    assert set(power) == {"wall_seconds", "copies.all"}
    assert power["wall_seconds"]["has_power"] is has_power
    # Copies came out the same in all boots: the threshold is all that they have to pass.
    assert (power["copies.all"]["tells_apart"], power["copies.all"]["has_power"]) == (1.02, True)
    assert ("(no power: 1.05 would matter)" in found["aa"]["because"]) is not has_power
    opening = report.document(run, found).opening[0]
    assert (opening.tone, found["aa"]["because"] in opening.text) == (tone, True)


def test_what_an_aa_pair_could_tell_apart_is_what_it_does(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan = invented.plan(
        "kvm",
        systems=["gfs", {"system": "gfs", "label": "gfs_again"}],
        timed=["cat"],
        host_cache=["cold"],
        residency=[],
    )

    def aa(directory: Path, factor: float) -> dict[str, Any]:
        made = invented.records(plan, change=slow("gfs_again", factor))
        return dict(summary.summarise(stored_run.load(invented.store(directory, plan, made)), claims)["aa"])

    plain = aa(tmp_path / "plain", 1.0)
    least, (row,) = plain["power"][0]["tells_apart"], plain["comparisons"]
    assert aa(tmp_path / "below", 0.98 * least * row["ratio"])["outcome"] == "not distinguishable"
    assert aa(tmp_path / "above", 1.02 * least * row["ratio"])["outcome"] == "distinguishable"


def test_tuned_labels_are_no_aa_pair(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan = invented.plan("kvm", systems=["gfs", {"system": "gfs", "label": "gfs_again"}])
    plan["labels"]["gfs_again"]["options"] = {"aio": "native"}
    directory = invented.store(tmp_path, plan, invented.records(plan))
    assert summary.summarise(stored_run.load(directory), claims)["aa"]["outcome"] == "absent"


def test_verdicts_without_an_aa_pair_open_the_report(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan = invented.plan("tcg", systems=["gfs", "myfs", "virtiofs_never"])
    run = stored_run.load(invented.store(tmp_path, plan, invented.records(plan)))
    found = summary.summarise(run, claims)
    decided = [claim for claim in found["claims"] if claim["verdict"] != "inconclusive"]
    assert decided
    assert all("without an A/A pair" in claim["because"] for claim in decided)
    assert "Every verdict of this run was reached without one" in report.document(run, found).opening[0].text


def test_c4_takes_gfs_direct_at_its_best(tmp_path: Path, claims: dict[str, Any]) -> None:
    systems = [
        "gfs_direct",
        {"system": "gfs_direct", "label": "gfs_direct_tuned", "options": {"aio": "threads"}},
        "myfs",
    ]
    found = judged(tmp_path, claims, change=slow("gfs_direct_tuned", 0.2), systems=systems)
    timed = found["C4"]["numbers"][1]
    assert timed["of"] == "gfs_direct_tuned"
    assert timed["ratio"] < 1
    assert timed["verdict"] == "refuted", timed["because"]


def test_c4_is_not_decided_against_a_baseline_that_nobody_tuned(tmp_path: Path, claims: dict[str, Any]) -> None:
    found = judged(tmp_path, claims, systems=["gfs_direct", "myfs"])
    assert found["C4"]["verdict"] == "inconclusive"
    assert "gfs_direct ran with one setting alone" in found["C4"]["because"]
    assert found["C4"]["numbers"][1]["low"] > 0


def test_what_this_host_cannot_run_is_the_reason(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan, records = invented.golden_run()
    found = summary.summarise(stored_run.load(invented.store(tmp_path, plan, records)), claims)
    c3 = next(claim for claim in found["claims"] if claim["id"] == "C3")
    assert c3["verdict"] == "inconclusive"
    assert "myfs is unsupported here: vhost_user_shmem: invented: this QEMU cannot" in c3["because"]


def test_hosts_that_disagree_do_not_support(tmp_path: Path, claims: dict[str, Any]) -> None:
    plan = invented.plan("kvm", systems=EVERYTHING)
    second = invented.records(plan, host="invented-second", change=held("myfs", 1, 1))
    directory = invented.store(tmp_path, plan, invented.records(plan) + second)
    found = {claim["id"]: claim for claim in summary.summarise(stored_run.load(directory), claims)["claims"]}
    assert found["C3"]["verdict"] == "refuted"
    assert {row["host"]: row["verdict"] for row in found["C3"]["numbers"] if row["decides"]} == {
        "invented-host": "supported",
        "invented-second": "refuted",
    }


@pytest.mark.parametrize(("blocks", "verdict"), [(20, "supported"), (8192, "refuted")])
def test_c6_counts_what_crosses_the_guest_block_device(
    tmp_path: Path, claims: dict[str, Any], blocks: int, verdict: str
) -> None:
    def change(record: dict[str, Any]) -> None:
        if record["label"] == "myfs" and "io_path" in record:
            record["io_path"]["guest"]["read_bytes"] = blocks * 4096

    assert judged(tmp_path, claims, "tcg", change=change)["C6"]["verdict"] == verdict


def test_an_aa_pair_of_which_one_half_failed_is_absent(tmp_path: Path, claims: dict[str, Any]) -> None:
    def change(record: dict[str, Any]) -> None:
        if record["label"] == "gfs_again":
            record |= {"status": "failed", "reason": "guest_died", "message": "invented"}

    found = judged(tmp_path, claims, change=change)
    assert found["aa"]["outcome"] == "absent"
    assert "no state in which both were measured" in found["aa"]["because"]


@pytest.mark.parametrize(("read", "verdict"), [(0, "supported"), (2, "refuted")])
def test_a_single_read_request_of_a_warm_re_read_refutes_that_there_is_none(
    tmp_path: Path, claims: dict[str, Any], read: int, verdict: str
) -> None:
    def change(record: dict[str, Any]) -> None:
        is_mapped = record["label"] == "myfs"
        counted = {"read_requests": read if is_mapped else 256, "map_requests": 0, "guest_faults": 40}
        record["probe"] = {"metrics": {f"reread_{name}": number for name, number in counted.items()}}

    systems = ["myfs", {"system": "myfs", "label": "myfs_no_window", "options": {"window_mib": 0}}]
    found = judged(
        tmp_path, claims, "tcg", change, systems=systems, residency=[], timed=[], probes=["reread"], repeats=2
    )["C6.reread"]
    assert found["verdict"] == verdict
    faults = next(row for row in found["numbers"] if row["metric"] == "probe.reread_guest_faults")
    assert (faults["least"], faults["decides"]) == (40, False)
