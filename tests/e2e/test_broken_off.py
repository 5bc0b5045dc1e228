"""A run that loses its guest and its controller finishes by the same command, and no finished record is lost or double."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

import pytest

PROJECT = Path(__file__).resolve().parents[2]
# Slices of one trial, so that a line is printed while its guest still runs.
RUN = [
    str(PROJECT / "onecopy"),
    "run",
    str(Path(__file__).parent / "data/tiny.yml"),
    "-e",
    "experiment_slice_seconds=1",
]
TRIALS = 12
# Longer than the run needs here: a hang must fail the test, not stop it.
DEADLINE_SECONDS = 900.0


def kill_first(*needles: str) -> None:
    """SIGKILL to the first process whose arguments hold every needle; the box's processes are the machine's too."""
    for entry in sorted(Path("/proc").glob("[0-9]*/cmdline"), key=lambda path: int(path.parent.name)):
        try:
            words = entry.read_bytes().decode(errors="replace")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if all(needle in words for needle in needles):
            os.kill(int(entry.parent.name), signal.SIGKILL)
            return
    raise AssertionError(f"no process has {needles} in its command line")


def follow(events: Iterator[Callable[[subprocess.Popen[str]], None]]) -> int:
    """Start the run; at every line that tells of a finished trial let the next event happen. Returns the exit status."""
    with subprocess.Popen(
        RUN, cwd=PROJECT, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True
    ) as process:
        guard = threading.Timer(DEADLINE_SECONDS, os.killpg, (process.pid, signal.SIGKILL))
        guard.start()
        try:
            assert process.stdout is not None
            for line in process.stdout:
                print("  " + line, end="", flush=True)
                if f"/{TRIALS} " in line:
                    next(events, lambda _: None)(process)
            return process.wait()
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        finally:
            guard.cancel()


def stored() -> list[dict[str, Any]]:
    directory = max((PROJECT / "reports/tiny").iterdir())
    return [json.loads(line) for line in (directory / "results.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def broken_off(shown: Callable[[], AbstractContextManager[None]]) -> dict[str, Any]:
    """A guest is killed, later the controller's whole session, then the same command once more."""
    kills = (
        lambda _: kill_first("qemu-system-x86_64", "guest=onecopy-"),
        lambda _: None,
        lambda process: os.killpg(process.pid, signal.SIGKILL),
    )
    with shown():
        code = follow(iter(kills))
        before = stored()
        return {"first_code": code, "before": before, "second_code": follow(iter(())), "after": stored()}


def test_the_controller_was_killed_in_the_middle(broken_off: dict[str, Any]) -> None:
    assert broken_off["first_code"] == -signal.SIGKILL
    assert 0 < len(broken_off["before"]) < TRIALS


def test_the_same_command_finishes_it(broken_off: dict[str, Any]) -> None:
    assert broken_off["second_code"] == 0
    assert len(broken_off["after"]) == TRIALS


def test_no_finished_record_is_lost_or_double(broken_off: dict[str, Any]) -> None:
    assert broken_off["after"][: len(broken_off["before"])] == broken_off["before"]
    assert set(Counter(record["id"] for record in broken_off["after"]).values()) == {1}


def test_the_dead_guest_is_one_failed_trial_and_no_more(broken_off: dict[str, Any]) -> None:
    reasons = Counter(record.get("reason", "ok") for record in broken_off["after"])
    assert reasons == {"ok": TRIALS - 1, "guest_died": 1}
