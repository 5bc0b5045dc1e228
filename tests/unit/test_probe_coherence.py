"""Who sees whose changes: the probe with guests that are played on one directory, and the promises that it is held against."""

from __future__ import annotations

import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible.module_utils.onecopy import coherence
from ansible.module_utils.onecopy.probes import Probed, ProbeError, Scene, why_unsuitable
from ansible.module_utils.onecopy.probes import coherence as probe
from ansible.module_utils.onecopy.runner_coherence import UNMAPPABLE, Onlooker, alter
from ansible.module_utils.onecopy.systems import SYSTEMS

SECONDS = 0.6


class Guest:
    """A guest whose eyes are ``stale_seconds`` late; the directory that it calls /share lies at ``share``."""

    def __init__(self, share: Path, stale_seconds: float = 0.0, maps: bool = True) -> None:
        self.share, self.stale_seconds, self.maps = share, stale_seconds, maps
        self.plan = SimpleNamespace(share=share, share_scratch=share / "scratch/t1")
        self.runner = self
        self.onlooker = Onlooker()
        self.seen: list[str] = []
        self.since = 0.0
        self.watched = 0

    def call(self, op: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        for entry in arguments.get("cases") or arguments.get("changes") or ():
            assert entry["path"].startswith("/share/scratch/t1/coherence_host_to_guest/")
            entry["path"] = str(self.share / entry["path"].removeprefix("/share/"))
        if op == "alter":
            alter(arguments["changes"])
            return {}
        if op == "watch":
            self.watched = len(arguments["cases"])
            self.seen, self.since = self.onlooker.watch(arguments["cases"]), time.monotonic()
        elif time.monotonic() - self.since >= self.stale_seconds:
            self.seen = self.onlooker.look()
        if not self.maps:
            observers = [observer for _, observer in coherence.CASES]
            self.seen = [
                UNMAPPABLE if observer == "mapped" else seen
                for observer, seen in zip(observers, self.seen, strict=False)
            ]
        return {"seen": self.seen}


def run(guests: list[Guest], system: str, writer: str = "host", observer: str = "guest", **options: Any) -> Probed:
    parameters = {"writer": writer, "observer": observer, "file_kib": options.pop("file_kib", 8), "seconds": SECONDS}
    phases = SimpleNamespace(clock=time.monotonic, measure=lambda phase, since: None)
    trial = {"workload": "host_to_guest"}
    scene = SimpleNamespace(
        boots=guests, system=SYSTEMS[system], parameters=parameters, options=options, phases=phases, trial=trial
    )
    found = probe.run(cast(Scene, scene))
    assert not list(guests[0].plan.share_scratch.iterdir()), "something was left in the share"
    return found


def guests(share: Path, **how: Any) -> list[Guest]:
    return [Guest(share, **how), Guest(share)]


@pytest.mark.parametrize(("writer", "observer"), [("host", "guest"), ("guest", "guest"), ("guest", "host")])
def test_who_sees_everything_at_once_keeps_every_promise(tmp_path: Path, writer: str, observer: str) -> None:
    pair = guests(tmp_path)
    metrics = dict(run(pair, "virtiofs_never", writer, observer).metrics)
    assert metrics.pop("broken_promises_count") == 0
    assert metrics == {coherence.metric_name(*case): 0.0 for case in coherence.CASES}
    assert pair[0].watched == 0, "files are still held"


def test_who_never_looks_again_is_found_out(tmp_path: Path) -> None:
    metrics = dict(run(guests(tmp_path, stale_seconds=99), "virtiofs_never").metrics)
    assert metrics.pop("broken_promises_count") == len(coherence.CASES)
    assert set(metrics.values()) == {SECONDS}
    assert run(guests(tmp_path, stale_seconds=99), "virtiofs_always").metrics["broken_promises_count"] == 0


def test_a_time_out_is_measured_and_held_against_the_mode(tmp_path: Path) -> None:
    late = dict(run(guests(tmp_path, stale_seconds=0.2), "virtiofs_auto").metrics)
    # Data of a file that is opened anew have no time-out.
    assert late.pop("broken_promises_count") == 2
    assert all(0.05 < seconds < SECONDS for seconds in late.values())


def test_a_page_that_cannot_be_mapped_is_no_case(tmp_path: Path) -> None:
    metrics = run(guests(tmp_path, maps=False), "virtiofs_never").metrics
    assert not [name for name in metrics if "mapped" in name]
    assert len(metrics) == len([case for case in coherence.CASES if case[1] != "mapped"]) + 1


def test_a_mapped_file_is_held_to_more_than_the_mode(tmp_path: Path) -> None:
    stale = guests(tmp_path, stale_seconds=99)
    small = run(stale, "myfs", cache="always").metrics["broken_promises_count"]
    large = run(stale, "myfs", cache="always", inode_dax_kib=4).metrics["broken_promises_count"]
    # Overwritten first bytes: by descriptor, opened anew, mapped. The last bytes have a second, which this test does not last.
    assert (small, large) == (0, 3)


@pytest.mark.parametrize(("writer", "observer"), [("host", "host"), ("guest", "moon")])
def test_parties_that_make_no_sense_are_refused(tmp_path: Path, writer: str, observer: str) -> None:
    with pytest.raises(ProbeError, match="not both the host"):
        run(guests(tmp_path), "virtiofs_auto", writer, observer)


def test_only_shares_are_probed() -> None:
    assert "no file system in common" in str(why_unsuitable(probe.PROBE, SYSTEMS["gfs"], {}, 2))
    assert why_unsuitable(probe.PROBE, SYSTEMS["myfs"], {}, 2) is None
    assert "2 guests" in str(why_unsuitable(probe.PROBE, SYSTEMS["myfs"], {}, 1))


def test_promises_grow_weaker_from_never_to_always() -> None:
    def rank(promise: float | None) -> float:
        return float("inf") if promise is None else promise

    for case in coherence.CASES:
        never, auto, always = (coherence.promised(mode, False, False, *case) for mode in ("never", "auto", "always"))
        assert (never, always) == (0.0, None)
        assert rank(never) <= rank(auto) <= rank(always)
    assert coherence.promised("auto", False, False, "overwrite", "open") == 0.0, "close-to-open"
    assert coherence.promised("auto", False, False, "overwrite", "mapped") is None
    assert coherence.promised("auto", True, False, "overwrite", "mapped") == 0.0, "no copy in the guest"
    assert coherence.promised("auto", True, False, "append", "stat") == 1.0


@pytest.mark.parametrize(
    ("promise", "stale", "kept"),
    [(0.0, 0.0, True), (0.0, 0.01, False), (1.0, 1.9, True), (1.0, 2.1, False), (None, 99.0, True)],
)
def test_a_promise_is_kept_or_not(promise: float | None, stale: float, kept: bool) -> None:
    assert coherence.is_kept(promise, stale) is kept
