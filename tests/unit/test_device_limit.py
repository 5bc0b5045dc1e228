"""The store as another class of device: a label per class, the exact rules, a mark that outlives a kill, and the real kernel."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import tiny
from ansible.module_utils.onecopy import device_limit, experiment
from ansible.module_utils.onecopy import plan as planning
from ansible.module_utils.onecopy.device_limit import Limit

DEVICE = os.makedev(7, 3)
EXPERIMENT = tiny.experiment(
    systems=["hfs", {"system": "gfs", "label": "own", "options": {"queues": 2}}], device=["as_is", "hdd"], timed=["cat"]
)


def test_every_device_is_a_label_of_its_own() -> None:
    assert experiment.labelled_systems(EXPERIMENT) == [
        {"system": "hfs", "label": "hfs", "options": {}},
        {"system": "gfs", "label": "own", "options": {"queues": 2}},
        {"system": "hfs", "label": "hfs_hdd", "options": {"device": "hdd"}},
        {"system": "gfs", "label": "own_hdd", "options": {"queues": 2, "device": "hdd"}},
    ]


@pytest.mark.parametrize("can", [True, False])
def test_a_host_that_cannot_limit_leaves_out_those_labels_alone_with_the_reason(can: bool) -> None:
    able = {"accelerator": "tcg", "qemu": {"supported": True}}
    plan = planning.make_plan(EXPERIMENT, able | {"device_limit": {"supported": can, "reason": "no such controller"}})
    assert {trial["label"] for trial in plan["trials"]} == {"hfs", "own"} | ({"hfs_hdd", "own_hdd"} if can else set())
    reasons = {item["label"]: item["reason"] for item in plan["unsupported"]}
    assert reasons == ({} if can else dict.fromkeys(("hfs_hdd", "own_hdd"), "device_limit: no such controller"))


def test_the_rules_of_both_kinds_of_cgroup() -> None:
    assert device_limit.legacy_rules(DEVICE, Limit(1000, 20)) == {
        "blkio.throttle.read_bps_device": "7:3 1000",
        "blkio.throttle.read_iops_device": "7:3 20",
        "blkio.throttle.write_bps_device": "7:3 1000",
        "blkio.throttle.write_iops_device": "7:3 20",
    }
    assert set(device_limit.legacy_rules(DEVICE, None).values()) == {"7:3 0"}
    assert device_limit.slice_argv(DEVICE, Limit(1000, 20)) == [
        "systemctl",
        "set-property",
        "--runtime",
        "onecopy.slice",
        "IOReadBandwidthMax=/dev/block/7:3 1000",
        "IOReadIOPSMax=/dev/block/7:3 20",
        "IOWriteBandwidthMax=/dev/block/7:3 1000",
        "IOWriteIOPSMax=/dev/block/7:3 20",
    ]
    assert device_limit.slice_argv(DEVICE, None)[-1] == "IOWriteIOPSMax="


def test_a_limit_is_found_and_lifted_after_a_kill(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[tuple[int, Limit | None]] = []
    monkeypatch.setattr(device_limit, "_MARK", tmp_path / "machine/device_limit")
    monkeypatch.setattr(device_limit, "_set", lambda device, wanted: done.append((device, wanted)))
    device_limit.lift()
    assert done == []
    device_limit.limit(tmp_path, "hdd")
    device_limit.lift()
    device_limit.lift()
    device = os.stat(tmp_path).st_dev
    assert done == [(device, device_limit.PROFILES["hdd"]), (device, None)]


def test_a_limit_without_effect_is_no_limit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    @contextmanager
    def any_device(directory: Path) -> Iterator[str]:
        yield "/dev/null"

    seconds = iter((0.1, 0.2, 0.1, 0.7))
    monkeypatch.setattr(device_limit, "_loop_device", any_device)
    monkeypatch.setattr(device_limit, "_set", lambda device, wanted: None)
    monkeypatch.setattr(device_limit, "_read_seconds", lambda node: next(seconds))
    can, reason = device_limit.probe(tmp_path)
    assert not can
    assert "has no effect: 0.10 s without, 0.20 s with it" in reason
    assert device_limit.probe(tmp_path) == (True, "")


def test_without_systemd_the_probe_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    can, reason = device_limit.probe(tmp_path)
    assert not can
    assert "is not installed" in reason


@pytest.mark.skipif(
    "io" in device_limit._unified_controllers(), reason="cgroup v2 limits the kit's slice, which systemd makes"
)
def test_the_kernel_slows_a_real_device_down_and_lets_it_go_again(disk_path: Path) -> None:
    with device_limit._loop_device(disk_path) as node:

        def seconds() -> float:
            started = time.monotonic()
            subprocess.run(["dd", f"if={node}", "of=/dev/null", "bs=64K", "iflag=direct", "status=none"], check=True)
            return time.monotonic() - started

        device = os.stat(node).st_rdev
        device_limit._set(device, Limit(2 << 20, 1_000_000))
        try:
            assert seconds() > 0.35
        finally:
            device_limit._set(device, None)
        assert seconds() < 0.35
