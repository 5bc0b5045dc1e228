"""What a trial counts: frames in the first one of a boot alone; and again what the host's own reclaim spoilt."""

from __future__ import annotations

from typing import Any

import pytest
import test_slices
from ansible.module_utils.onecopy import dataset_frames
from ansible.module_utils.onecopy.host_data import ShareData
from ansible.module_utils.onecopy.paths import HostPaths
from fake_testbed import FakeTestbed

paths = test_slices.paths


def run(paths: HostPaths, *systems: str) -> list[dict[str, Any]]:
    test_slices.go(test_slices.make(systems=list(systems)), paths, FakeTestbed(paths.state))
    return test_slices.found(paths)


def physical(record: dict[str, Any]) -> int | None:
    found: int | None = record.get("copies", {}).get("all", {}).get("physical_pages")
    return found


def test_frames_are_counted_in_the_first_trial_of_a_boot_alone(
    paths: HostPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(dataset_frames, "around", lambda *args: {"physical_pages": 42})
    every = run(paths, "virtiofs_auto", "hfs")
    counted = [record for record in every if physical(record) is not None]
    said = [(record["label"], record["status"], record.get("message")) for record in every]
    assert [record["label"] for record in counted] == list(dict.fromkeys(record["label"] for record in every)), said
    assert {physical(record) for record in counted} == {42}
    assert all("frames" in record["phases"] for record in counted)


def test_a_host_that_hides_frame_numbers_has_no_physical_count(paths: HostPaths) -> None:
    # The tiny data set has no manifest of page digests.
    assert {physical(record) for record in run(paths, "hfs")} == {None}


def test_a_count_that_the_hosts_own_reclaim_spoilt_is_taken_again(
    paths: HostPaths, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = iter([40, 40, 0])
    monkeypatch.setattr(ShareData, "reclaimed_pages", lambda self, parts: next(gone, 0))
    test_slices.go(test_slices.make(systems=["hfs"], timed=[], host_cache=["warm"]), paths, FakeTestbed(paths.state))
    (record,) = test_slices.found(paths)
    assert (record["status"], record["reclaimed_pages"]) == ("ok", 0)
    assert len((paths.state / "runs.log").read_text().splitlines()) == 3


def test_a_host_that_goes_on_reclaiming_voids_the_trial(paths: HostPaths, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ShareData, "reclaimed_pages", lambda self, parts: 40)
    test_slices.go(test_slices.make(systems=["hfs"], timed=[], host_cache=["warm"]), paths, FakeTestbed(paths.state))
    (record,) = test_slices.found(paths)
    assert (record["status"], record["reason"]) == ("invalid", "disturbed")
    assert "reclaimed 40 of 79 pages" in record["message"]


def test_what_the_data_of_a_share_take_is_in_every_record(paths: HostPaths) -> None:
    """Two trees of 300,000 bytes and five times 3,000, in blocks of 4,096; nothing of the scratch."""
    (paths.share("tiny") / "scratch/left").write_bytes(b"x" * 9000)
    every = run(paths, "hfs", "virtiofs_never")
    share = {"files": 12, "needed_bytes": 2 * (300_000 + 5 * 3000), "allocated_bytes": 2 * (74 + 5) * 4096}
    assert every
    assert [record["storage"]["share"] for record in every] == [share] * len(every)
