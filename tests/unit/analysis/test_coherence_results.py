"""The report's table on coherence: cases down, systems across, broken promises marked."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

from ansible.module_utils.onecopy import coherence
from ansible.module_utils.onecopy.analysis.coherence_results import coherence_sections
from ansible.module_utils.onecopy.analysis.probe_results import probe_sections
from ansible.module_utils.onecopy.analysis.stored_run import Run

PARAMETERS = {"writer": "host", "observer": "guest", "file_kib": 64, "seconds": 6.0}


def record(label: str, broken: int = 0, **stale: float) -> dict[str, Any]:
    metrics = {coherence.metric_name(*case): 0.0 for case in coherence.CASES if case[1] != "mapped"}
    metrics |= {f"{name}_stale_seconds": seconds for name, seconds in stale.items()}
    return {
        "system": "virtiofs_auto" if label == "slow" else label, "label": label, "guests": 2, "host": "kvm1",
        "workload": "to_guest", "probe": {"metrics": {**metrics, "broken_promises_count": broken}},
    }  # fmt: skip


def a_run(*records: dict[str, Any]) -> Run:
    plan = {
        "probes": {"to_guest": {"probe": "coherence", "parameters": PARAMETERS}},
        "labels": {entry["label"]: {"system": entry["system"], "options": {}} for entry in records},
    }
    return cast(Run, SimpleNamespace(hosts=["kvm1"], plan=plan, accelerator="tcg", ok=lambda kind: list(records)))


def test_the_worst_boot_is_shown_and_held_against_the_promise() -> None:
    run = a_run(
        record("virtiofs_never"),
        record("virtiofs_never", 1, append_stat=0.04),
        record("virtiofs_always", append_stat=6.0),
        record("slow", 1, append_stat=0.9, overwrite_open=3.0),
    )
    (section,) = coherence_sections(run)
    _, verdict, table = section.blocks
    assert (verdict.text.split()[0], verdict.tone) == ("2", "bad")
    assert "the host changes in files of 64 KiB, seen by a guest" in table.caption
    assert [column.title for column in table.columns][2:] == ["virtiofs_never", "slow", "virtiofs_always"]
    rows = {(cells[0].text, cells[1].text): [(cell.text, cell.tone) for cell in cells[2:]] for cells in table.rows}
    assert len(rows) == len(coherence.CASES)
    assert rows["bytes appended", "stat"] == [
        ("< 0.1 s (promised: at once)", "bad"), ("0.9 s", "plain"), ("not within 6 s", "plain"),
    ]  # fmt: skip
    assert rows["first bytes overwritten in place", "opened anew and read"][1] == ("3.0 s (promised: at once)", "bad")
    assert rows["created", "directory listing"] == [("at once", "plain")] * 3
    assert rows["first bytes overwritten in place", "mapped page"] == [("-", "plain")] * 3


def test_a_run_that_keeps_its_promises_says_so_once() -> None:
    run = a_run(record("virtiofs_never"))
    (section,) = coherence_sections(run)
    assert section.blocks[1].tone == "good"
    row = {"label": "virtiofs_never", "guests": 2, "host": "kvm1", "probe": "to_guest", "metric": "x_count", "value": 1}
    assert not list(probe_sections(run, {"probes": [row]})), "the general table would say the same again"


def test_other_runs_have_no_such_section() -> None:
    run = cast(Run, SimpleNamespace(plan={"probes": {"idle_guest": {"probe": "idle_guest"}}}, ok=lambda kind: []))
    assert not list(coherence_sections(run))
