"""What a host is told before anything is installed."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import preflight
from ansible.module_utils.onecopy.systems import SYSTEMS

NEEDS = {need for system in SYSTEMS.values() for need in system.needs} | {"device_limit"}
GOOD = preflight.Host(
    release={"ID": "ubuntu", "VERSION_ID": "24.04"},
    kernel="6.8.0",
    residency_by="cachestat",
    memory_mib=32000,
    disk_mib=100000,
    swap_mib=0,
    settings={"KSM": "0", "frequency governor": "performance"},
)


def capabilities(**missing: str) -> dict[str, Any]:
    answers = {need: {"supported": need not in missing, "reason": missing.get(need, "")} for need in NEEDS}
    return {"accelerator": "kvm", "accelerator_reason": "a guest ran under KVM in 0.2 s", **answers}


def test_a_good_host_has_nothing_but_yes() -> None:
    found = preflight.lines(GOOD, capabilities())
    assert found[0] == "accelerator kvm: a guest ran under KVM in 0.2 s"
    assert found[1:] == [*(f"{name}: yes" for name in SYSTEMS), "the store's device slowed down: yes"]


def test_the_guests_kernel_is_not_asked_of_the_host() -> None:
    answers = {need: answer for need, answer in capabilities().items() if not need.startswith("guest_")}
    assert "gfs_pmem_erofs: yes" in preflight.lines(GOOD, answers)


def test_a_missing_need_names_systems_and_reason() -> None:
    found = preflight.lines(GOOD, capabilities(virtiofsd="no virtiofsd here"))
    assert "virtiofs_auto: no: no virtiofsd here" in found
    assert "gfs: yes" in found


def test_what_was_not_tried_is_neither_yes_nor_no() -> None:
    untried = {"supported": False, "tried": False, "reason": "not tried: preflight only reads"}
    found = preflight.lines(GOOD, capabilities() | {"erofs": untried, "device_limit": untried})
    assert "gfs_pmem_erofs: not tried: preflight only reads" in found
    assert "the store's device slowed down: not tried: preflight only reads" in found
    found = preflight.lines(GOOD, capabilities(virtio_pmem="no such device") | {"erofs": untried})
    assert "gfs_pmem_erofs: no: no such device" in found


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"release": {"ID": "debian", "VERSION_ID": "12"}}, "debian 12: no table of packages"),
        ({"residency_by": "mincore"}, "has no cachestat"),
        ({"memory_mib": 1000}, "1000 MiB of memory available"),
        ({"disk_mib": 10}, "10 MiB free on disk"),
        ({"swap_mib": 2048}, "2048 MiB of swap"),
        ({"settings": {"KSM": "1"}}, "KSM is 1"),
        ({"settings": {"frequency governor": "powersave"}}, "frequency governor is powersave"),
        ({"settings": {"SMT": "on"}}, "SMT is on"),
    ],
)
def test_what_disturbs_is_named_with_its_cure(change: dict[str, Any], says: str) -> None:
    found = preflight.lines(replace(GOOD, **change), capabilities())
    assert [line for line in found if line.startswith(says) or says in line]
    assert len(found) == len(SYSTEMS) + 3


def test_emulation_is_said_at_once() -> None:
    found = preflight.lines(GOOD, capabilities() | {"accelerator": "tcg"})
    assert "times are not claims here" in found[1]


def test_this_machine_is_read_without_being_changed(run_module: Any) -> None:
    result = run_module("preflight_info", capabilities=capabilities())
    assert result["changed"] is False
    assert result["lines"][0].startswith("accelerator kvm")
    assert preflight.read().memory_mib > 0


def test_a_setting_that_is_not_there_is_absent(tmp_path: Path) -> None:
    for path, text in {
        "etc/os-release": "ID=debian\nVERSION_ID=13\n",
        "proc/meminfo": "MemAvailable: 2048 kB\nSwapTotal: 0 kB\nHugePages_Total: 0\n",
        "proc/sys/kernel/osrelease": "6.12.0\n",
        "sys/kernel/mm/ksm/run": "1\n",
    }.items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
    host = preflight.read(tmp_path, tmp_path)
    assert (host.settings, host.memory_mib, host.swap_mib) == ({"KSM": "1"}, 2, 0)


@pytest.mark.parametrize(
    ("document", "message"), [({}, "accelerator is missing; pass what host_capabilities returned"), ("x", "dict")]
)
def test_bad_capabilities_are_refused(run_module: Any, document: Any, message: str) -> None:
    result = run_module("preflight_info", capabilities=document)
    assert result["failed"]
    assert message in result["msg"]
