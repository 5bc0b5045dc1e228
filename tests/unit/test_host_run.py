"""A run on a KVM host: what is refused before anything starts, and settings that would disturb are off while it lasts."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import tiny
from ansible.module_utils.onecopy import host_run, knobs, lock, records, slices
from ansible.module_utils.onecopy import plan as planning
from ansible.module_utils.onecopy.paths import HostPaths
from tiny import ABLE, RUN

EXPERIMENT = tiny.experiment(systems=["hfs", "virtiofs_auto"], timed=["cat"])
PLAN = planning.make_plan(EXPERIMENT, ABLE)


@pytest.fixture
def paths(disk_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostPaths:
    """A prepared host with systemd, seen by root."""
    found = HostPaths(disk_path / "state")
    tiny.lay_out(found)
    monkeypatch.setattr(host_run.os, "geteuid", lambda: 0)
    monkeypatch.setattr(host_run.shutil, "which", lambda program: f"/usr/bin/{program}")
    return found


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Path]:
    """The machine's directory; the run's unit holds the lock in it already."""
    (tmp_path / "machine").mkdir()
    fd = lock.acquire(tmp_path / "machine/lock", {"run_id": RUN, "host": "box1", "experiment": "tiny", "pid": 7})
    yield tmp_path / "machine"
    os.close(fd)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A host on which KSM runs, as QEMU's package of Ubuntu leaves it."""
    switch = tmp_path / "root/sys/kernel/mm/ksm/run"
    switch.parent.mkdir(parents=True)
    switch.write_text("1\n")
    has_available(tmp_path / "root", 8000)
    return tmp_path / "root"


def has_available(root: Path, mib: int) -> None:
    (root / "proc").mkdir(parents=True, exist_ok=True)
    (root / "proc/meminfo").write_text(f"MemTotal: 16384000 kB\nMemFree: 1024 kB\nMemAvailable: {mib << 10} kB\n")


def start(
    paths: HostPaths, machine: Path, root: Path, run_id: str = RUN, plan: dict[str, Any] = PLAN
) -> dict[str, Any]:
    return host_run.start(plan, run_id, "box1", paths, machine=machine, runtime=machine, root=root)


def test_ksm_is_off_while_a_run_lasts_and_comes_back(paths: HostPaths, machine: Path, root: Path) -> None:
    switch = root / "sys/kernel/mm/ksm/run"
    facts = start(paths, machine, root)["facts"]
    assert (switch.read_text(), facts["quieted"], facts["settings"]["ksm_run"]) == ("0", {"ksm_run": "1"}, "0")
    again = start(paths, machine, root)
    assert again["resumed"]
    assert "quieted" not in again["facts"], "going on must not forget what the host had before"
    # What the unit's ExecStopPost does.
    knobs.restore(machine / "knobs")
    assert switch.read_text() == "1"


def test_huge_pages_are_the_same_on_every_host_and_come_back(paths: HostPaths, machine: Path, root: Path) -> None:
    top = root / "sys/kernel/mm/transparent_hugepage"
    top.mkdir(parents=True)
    (top / "enabled").write_text("[always] madvise never\n")
    (top / "shmem_enabled").write_text("always [advise] never\n")
    facts = start(paths, machine, root)["facts"]
    assert facts["quieted"] == {"ksm_run": "1", "thp_enabled": "always", "thp_shmem_enabled": "advise"}
    assert facts["settings"]["thp_enabled"] == "madvise"
    knobs.restore(machine / "knobs")
    assert [(top / name).read_text() for name in ("enabled", "shmem_enabled")] == ["always", "advise"]


def test_ksm_is_off_again_after_a_probe_was_killed(
    paths: HostPaths, machine: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    start(paths, machine, root)
    knobs.set_knob(machine / "knobs", root / "sys/kernel/mm/ksm/run", "1")
    seen = []

    def run_slice(*_: Any, **__: Any) -> slices.Slice:
        seen.append((root / "sys/kernel/mm/ksm/run").read_text())
        return slices.Slice(0, 0)

    monkeypatch.setattr(host_run.slices, "run_slice", run_slice)
    host_run.work(RUN, "box1", paths, seconds=1, skip=0, machine=machine, root=root)
    assert seen == ["0"]


def test_what_an_experiment_sets_lasts_as_long_as_its_run(paths: HostPaths, machine: Path, root: Path) -> None:
    device = os.stat(paths.store).st_dev
    knob = root / f"sys/class/bdi/{os.major(device)}:{os.minor(device)}/read_ahead_kb"
    knob.parent.mkdir(parents=True)
    knob.write_text("128\n")
    plan = planning.make_plan(EXPERIMENT | {"settings": {"read_ahead_kb": 0}}, ABLE)
    facts = start(paths, machine, root, plan=plan)["facts"]
    assert knob.read_text() == "0"
    assert facts["quieted"] == {"ksm_run": "1", "read_ahead_kb": "128"}
    knobs.restore(machine / "knobs")
    assert knob.read_text() == "128"


def test_a_host_without_ksm_is_no_error(paths: HostPaths, machine: Path, tmp_path: Path) -> None:
    has_available(tmp_path / "empty", 8000)
    facts = start(paths, machine, tmp_path / "empty")["facts"]
    assert "quieted" not in facts
    assert not (machine / "knobs").exists()


def fleets(*guests: int) -> dict[str, Any]:
    """A plan with one trial for each number of guests of 256 MiB."""
    trials = [{**PLAN["trials"][0], "id": f"{number:016}", "guests": number} for number in guests]
    return {**PLAN, "trials": trials}


def test_a_fleet_that_the_free_memory_cannot_hold_is_refused_before_anything_starts(
    paths: HostPaths, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept: list[HostPaths] = []
    monkeypatch.setattr(host_run.testbed, "sweep", swept.append)
    monkeypatch.setattr(host_run.run_unit, "start", lambda *_: pytest.fail("the run was started"))
    has_available(root, 1600)
    with pytest.raises(host_run.HostRunError) as caught:
        start(paths, tmp_path / "idle", root, plan=fleets(1, 8, 4))
    assert str(caught.value) == (
        "8 guests at once may need 3072 MiB, and 1600 MiB of memory are available now: end what else uses it, or plan 4 guests at most"
    )
    assert swept == [paths], "what a killed run left is ended before a run is refused for it"
    assert not paths.run(RUN).exists()
    has_available(root, 100)
    with pytest.raises(
        host_run.HostRunError, match=r"1 guest at once may need 384 MiB, and 100 MiB .* plan smaller guests"
    ):
        start(paths, tmp_path / "idle", root, plan=fleets(1))


def test_memory_is_asked_for_what_is_left_to_do_and_a_run_that_holds_the_lock_has_it(
    paths: HostPaths, machine: Path, tmp_path: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(host_run.run_unit, "start", lambda *_: True)
    has_available(root, 1600)
    directory = paths.run(RUN)
    directory.mkdir(parents=True)
    records.append(directory / "results.jsonl", {"id": f"{8:016}"})
    start(paths, tmp_path / "idle", root, plan=fleets(1, 8, 4))
    has_available(root, 100)
    start(paths, machine, root, plan=fleets(1, 8, 4))


def nobody(monkeypatch: pytest.MonkeyPatch, _: HostPaths) -> None:
    monkeypatch.setattr(host_run.os, "geteuid", lambda: 1000)


def no_systemd(monkeypatch: pytest.MonkeyPatch, _: HostPaths) -> None:
    monkeypatch.setattr(host_run.shutil, "which", lambda program: None)


def no_room(monkeypatch: pytest.MonkeyPatch, _: HostPaths) -> None:
    monkeypatch.setattr(host_run.os, "statvfs", lambda path: SimpleNamespace(f_bavail=5 << 8, f_frsize=4096))


def no_role(_: pytest.MonkeyPatch, paths: HostPaths) -> None:
    paths.state.rename(paths.state.with_name("gone"))


def no_room_for_own_images(_: pytest.MonkeyPatch, paths: HostPaths) -> None:
    image = paths.image("tiny", "gfs_private")
    image.parent.mkdir(parents=True)
    image.write_bytes(b"x" * 8192)
    PLAN["trials"].append({**PLAN["trials"][0], "system": "gfs_private", "guests": 1 << 40})


def no_data(_: pytest.MonkeyPatch, paths: HostPaths) -> None:
    paths.share("tiny").rename(paths.share("other"))


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (nobody, "trials need root on the KVM host: set become"),
        (no_systemd, "systemd-run is missing: a KVM host runs systemd; run role kvm_host first"),
        (no_room, "5 MiB are free, 64 MiB are needed: make room"),
        (no_role, "No such file or directory: run role kvm_host first"),
        (no_room_for_own_images, "are free: give the store more room, or plan fewer guests"),
        (no_data, "make the data set (role dataset) first"),
    ],
)
def test_what_is_missing_is_one_line_and_starts_nothing(
    paths: HostPaths, machine: Path, root: Path, monkeypatch: pytest.MonkeyPatch, spoil: Any, says: str
) -> None:
    monkeypatch.setitem(PLAN, "trials", list(PLAN["trials"]))
    spoil(monkeypatch, paths)
    with pytest.raises(host_run.HostRunError) as caught:
        start(paths, machine, root)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert (root / "sys/kernel/mm/ksm/run").read_text() == "1\n"
    assert not paths.run(RUN).exists()


def test_a_second_run_is_told_who_measures(paths: HostPaths, machine: Path, root: Path) -> None:
    with pytest.raises(host_run.HostRunError) as caught:
        start(paths, machine, root, "20260202T000000Z")
    assert f"this machine already measures: run {RUN} of experiment 'tiny' on box1" in str(caught.value)
    assert f"systemctl stop onecopy-run@{RUN}.service" in str(caught.value)
    assert (root / "sys/kernel/mm/ksm/run").read_text() == "1\n"


def test_a_slice_without_the_lock_is_refused(paths: HostPaths, tmp_path: Path, root: Path) -> None:
    with pytest.raises(host_run.HostRunError, match="does not hold it any more: run the same command again"):
        host_run.work(RUN, "box1", paths, seconds=1, skip=0, machine=tmp_path, root=root)


def test_a_setting_that_cannot_be_changed_is_one_line(
    paths: HostPaths, machine: Path, root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise knobs.KnobError("/sys/kernel/mm/ksm/run: cannot be set to '0': Read-only file system")

    monkeypatch.setattr(host_run.host_settings, "apply", refuse)
    with pytest.raises(host_run.HostRunError, match="Read-only file system"):
        start(paths, machine, root)
    assert json.loads((machine / "lock").read_text())["run_id"] == RUN
