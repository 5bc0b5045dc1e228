"""How often an adaptive run boots: repeat by repeat, from what its records say, and never otherwise when asked again."""

from __future__ import annotations

from typing import Any

import invented
import numpy as np
import pytest
from ansible.module_utils.onecopy.analysis import adaptive, statistics
from ansible.module_utils.onecopy.plan import make_plan

RULE = {"cap": 8, "half_width": 0.05, "minimum": 5}


def adaptive_plan(**changes: Any) -> dict[str, Any]:
    small = {"systems": ["gfs", "gfs_direct"], "host_cache": ["cold"], "timed": ["cat"], "residency": ["cat"]}
    document = invented.experiment(**(small | changes)) | {"adaptive": RULE}
    del document["repeats"]
    return make_plan(document, invented.capabilities())


def run_through(plan: dict[str, Any], seconds: Any) -> tuple[list[dict[str, Any]], list[list[int]]]:
    """Work as the loop does, ``seconds`` of (label, repeat) being what a timed trial takes; records and the repeats of every step."""
    every = {record["id"]: record for record in invented.records(plan)}
    for record in every.values():
        if record["kind"] == "timed":
            record["result"]["wall_seconds"] = seconds(record["label"], record["repeat"])
        for counted in record.get("copies", {}).values():
            counted |= {"host_pages": counted["accessed_pages"], "guest_pages": 0, "daemon_pages": 0}
    done: list[dict[str, Any]] = []
    steps = []
    while (step := adaptive.next_step(plan, done)).is_open:
        ids = {record["id"] for record in done}
        todo = [one for one in plan["trials"] if one["block"] not in step.leave_out and one["id"] not in ids]
        assert todo, "nothing to do, and yet not over"
        steps.append(sorted({trial["repeat"] for trial in todo}))
        done += [every[trial["id"]] for trial in todo]
    return done, steps


def boots(records: list[dict[str, Any]]) -> dict[str, int]:
    return {label: len({r["block"] for r in records if r["label"] == label}) for label in ("gfs", "gfs_direct")}


def test_each_system_stops_when_its_own_intervals_are_narrow() -> None:
    plan = adaptive_plan()
    assert (plan["repeats"], plan["adaptive"]) == (8, RULE)
    records, steps = run_through(plan, lambda label, repeat: 1.0 if label == "gfs" else 1.0 + repeat % 2 * (repeat < 6))
    assert boots(records) == {"gfs": 5, "gfs_direct": 8}
    assert all(len(step) == 1 for step in steps), "a repeat began before the one before it was decided on"
    found = adaptive.outcomes(plan, records)
    assert (found["gfs", 1].reason, found["gfs", 1].boots) == ("half_width", 5)
    assert (found["gfs_direct", 1].reason, found["gfs_direct", 1].boots) == ("cap", 8)
    assert found["gfs_direct", 1].widest == "wall_seconds of cat, host cold, guest cold"
    assert len(records) + len(adaptive.needless_trials(plan, found)) == len(plan["trials"])


def test_a_decision_stays_whatever_comes_later() -> None:
    plan = adaptive_plan()
    records, _ = run_through(plan, lambda label, repeat: 1.0)
    late = [record for record in invented.records(plan) if record["repeat"] == 5]
    for record in late:
        if record["kind"] == "timed":
            record["result"]["wall_seconds"] = 50.0
    assert adaptive.outcomes(plan, records + late)["gfs", 1] == adaptive.outcomes(plan, records)["gfs", 1]


def test_half_a_repeat_decides_nothing() -> None:
    plan = adaptive_plan()
    records, _ = run_through(plan, lambda label, repeat: 1.0)
    part = [record for record in records if record["repeat"] < 4 or record["kind"] == "timed"]
    assert adaptive.outcomes(plan, part)["gfs", 1].reason is None
    assert adaptive.outcomes(plan, part)["gfs", 1].boots == 4


def test_failed_boots_do_not_count_as_boots() -> None:
    plan = adaptive_plan()
    every, _ = run_through(plan, lambda label, repeat: 1.0)
    failed = [
        {**record, "status": "failed"} if record["repeat"] == 0 and record["label"] == "gfs" else record
        for record in every
    ]
    assert adaptive.outcomes(plan, failed)["gfs", 1].reason is None
    step = adaptive.next_step(plan, failed)
    assert step.is_open
    assert "5-gfs" not in step.leave_out
    assert {"6-gfs", "5-gfs_direct"} <= step.leave_out


def test_a_system_that_never_works_goes_to_the_cap() -> None:
    plan = adaptive_plan()
    records = [record | {"status": "failed"} for record in invented.records(plan)]
    found = adaptive.outcomes(plan, records)["gfs", 1]
    assert (found.boots, found.reason, found.half_width) == (8, "cap", None)


@pytest.mark.parametrize("spread", [0.02, 0.05, 0.1])
def test_an_interval_covers_what_it_says_where_several_figures_decide_together(spread: float) -> None:
    """Figures of one boot share its luck; a cell stops when all of them allow it."""
    generator = np.random.default_rng(int(1000 * spread))
    hits = []
    for _ in range(1500):
        series = 1 + spread * (0.5 * generator.normal(size=(12, 1)) + generator.normal(size=(12, 3)))
        stopped = next(
            (
                count
                for count in range(5, 12)
                if all(statistics.stop(one[:count], cap=12).reason == "half_width" for one in series.T)
            ),
            12,
        )
        for one in series.T:
            sample = {str(boot): [float(value)] for boot, value in enumerate(one[:stopped])}
            found = statistics.estimate(sample, confidence=statistics.ADAPTIVE_CONFIDENCE)
            assert found.low is not None
            assert found.high is not None
            hits.append(found.low <= 1 <= found.high)
    assert 0.92 <= np.mean(hits) <= 0.98
