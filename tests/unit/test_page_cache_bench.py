"""The bench's parts: what the tools said, and what is made of it. Its times are no test."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import page_cache_bench as subject

DATA = Path(__file__).resolve().parents[1] / "data"
has_tools = all(shutil.which(tool) for tool in subject.TOOLS)


def test_the_tools_answers_are_understood() -> None:
    assert subject.vmtouch_pages((DATA / "vmtouch-1.3.1.txt").read_text("utf-8")) == 4096
    assert subject.fincore_pages((DATA / "fincore-util-linux-2.38.1.json").read_text("utf-8")) == 4097
    with pytest.raises(subject.BenchError, match="said nothing of resident pages: hm"):
        subject.vmtouch_pages("hm")


def _result(answers_agree: bool, vmtouch: float, fincore: float) -> dict[str, Any]:
    ours: dict[str, Any] = {"seconds_median": 0.01, "seconds_min": 0.009, "resident_pages": [5]}
    ways = {
        "page_cache_info": ours,
        "vmtouch": {**ours, "times_slower": vmtouch},
        "fincore": {**ours, "times_slower": fincore},
    }
    return {"case": "c", "rounds": 3, "method": "cachestat", "is_same_answer": answers_agree, "ways": ways}


@pytest.mark.parametrize(
    ("agree", "vmtouch", "fincore", "fast"),
    [(True, 1.5, 9, True), (True, 1.49, 9, False), (True, 9, 1, False), (False, 9, 9, False)],
)
def test_fast_is_fast_against_both_with_the_same_answer(
    agree: bool, vmtouch: float, fincore: float, fast: bool
) -> None:
    assert subject.is_fast(_result(agree, vmtouch, fincore)) is fast


def test_a_person_reads_milliseconds() -> None:
    lines = subject.describe(_result(True, 2.5, 3))
    assert lines[0] == "c, 3 rounds, cachestat"
    assert lines[2] == "  vmtouch             10.000 ms median     9.000 ms best  2.50 times as long"
    assert lines[-1] == "  same answer"


def test_missing_tools_are_named(
    run_module: Callable[..., dict[str, Any]], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(subject.shutil, "which", lambda name: None)
    result = run_module("page_cache_bench", directory=str(tmp_path))
    assert result["msg"].startswith("vmtouch, fincore: not installed")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not has_tools, reason="vmtouch or fincore is missing: ./onecopy test installs both")
def test_all_ways_agree_on_real_files_and_leave_nothing(disk_path: Path) -> None:
    result = subject.run(subject.Case("small", 5, 10_000), disk_path, rounds=2)
    assert result["is_same_answer"] is True
    assert result["ways"]["fincore"]["resident_pages"] == [15]
    assert list(disk_path.iterdir()) == []
