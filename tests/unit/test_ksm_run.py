"""KSM switched on and off on a machine of plain files: what is set, in which order, and that all of it comes back."""

from __future__ import annotations

import itertools
import os
import signal
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.module_utils.onecopy import host_settings, knobs, ksm, ksm_run

OWN = {"run": "0", "pages_to_scan": "100", "sleep_millisecs": "20", "smart_scan": "1", "use_zero_pages": "0"}
RUN = {"ksm_run": 0, "swappiness": 10}
COUNTERS = ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile", "full_scans")


@pytest.fixture
def root(tmp_path: Path) -> Path:
    directory = tmp_path / "root/sys/kernel/mm/ksm"
    directory.mkdir(parents=True)
    (tmp_path / "root/proc").mkdir()
    for name, value in OWN.items() | {(counter, "0") for counter in COUNTERS}:
        (directory / name).write_text(f"{value}\n")
    return tmp_path / "root"


def values(root: Path) -> dict[str, str]:
    return {name: (root / "sys/kernel/mm/ksm" / name).read_text().strip() for name in OWN}


def test_the_settings_hold_inside_and_the_hosts_own_come_back(root: Path, tmp_path: Path) -> None:
    with ksm_run.scanning({"pages_to_scan": 500, "use_zero_pages": 1}, tmp_path / "knobs", RUN, root) as scanner:
        assert values(root) == OWN | {"run": "1", "pages_to_scan": "500", "use_zero_pages": "1"}
        scanner.set(sleep_millisecs=5)
        assert scanner.settings()["ksm_sleep_millisecs"] == "5"
    assert values(root) == OWN
    assert knobs.restore(tmp_path / "knobs") == [], "all that is remembered is the switch, which the host had off"
    assert not list((tmp_path / "knobs").iterdir())


def test_what_broke_inside_restores_and_unmerges(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    written = []
    write = knobs._write

    def spy(knob: Path, value: str) -> None:
        written.append((knob.name, value))
        write(knob, value)

    monkeypatch.setattr(knobs, "_write", spy)
    with pytest.raises(RuntimeError), ksm_run.scanning({"pages_to_scan": 500}, tmp_path / "knobs", RUN, root):
        raise RuntimeError
    assert values(root) == OWN
    assert written == [
        *(("run", "2"), ("pages_to_scan", "500"), ("run", "1")),
        *(("run", "2"), ("pages_to_scan", "100"), ("run", "0")),
    ]


def test_after_a_kill_the_next_one_brings_the_hosts_own_back(root: Path, tmp_path: Path) -> None:
    killed = ksm_run.scanning({"pages_to_scan": 500}, tmp_path / "knobs", RUN, root)
    killed.__enter__()  # and never left
    assert values(root)["run"] == "1"
    with ksm_run.scanning({"pages_to_scan": 900}, tmp_path / "knobs", RUN, root):
        pass
    assert values(root) == OWN


def test_after_a_kill_the_runs_unit_unmerges_and_brings_the_hosts_own_back(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    child = os.fork()
    if child == 0:
        with ksm_run.scanning({"pages_to_scan": 500, "smart_scan": 0}, tmp_path / "knobs", RUN, root):
            os.kill(os.getpid(), signal.SIGKILL)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    assert values(root) == OWN | {"run": "1", "pages_to_scan": "500", "smart_scan": "0"}
    written = []
    monkeypatch.setattr(
        knobs, "_write", lambda knob, value: (written.append((knob.name, value)), knob.write_text(value))
    )
    # What ExecStopPost of the run's unit does.
    knobs.restore(tmp_path / "knobs")
    assert (written[0], written[-1]) == (("run", "2"), ("run", "0")), (
        "stopping alone would leave merged what was merged"
    )
    assert values(root) == OWN


def test_the_runs_settings_hold_again_afterwards_and_the_hosts_own_when_it_ends(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (root / "sys/kernel/mm/ksm/run").write_text("1\n")
    host = values(root)
    run = RUN | {"ksm_pages_to_scan": 300}
    host_settings.apply(run, tmp_path / "knobs", root=root)
    written = []
    write = knobs._write
    monkeypatch.setattr(knobs, "_write", lambda knob, value: (written.append((knob.name, value)), write(knob, value)))
    with ksm_run.scanning({"pages_to_scan": 500, "sleep_millisecs": 5}, tmp_path / "knobs", run, root):
        assert values(root) == host | {"pages_to_scan": "500", "sleep_millisecs": "5"}
        written.clear()
    assert values(root) == host | {"run": "0", "pages_to_scan": "300"}
    assert ("run", "1") not in written, "not for a moment"
    knobs.restore(tmp_path / "knobs")
    assert values(root) == host


def test_what_cannot_be_set_while_pages_are_merged_comes_back_on_a_host_that_merges(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    directory = root / "sys/kernel/mm/ksm"
    (directory / "run").write_text("1\n")
    (directory / "max_page_sharing").write_text("256\n")
    write = knobs._write

    def busy(knob: Path, value: str) -> None:
        if knob.name == "max_page_sharing" and knobs.read(directory / "run") != "2":
            raise knobs.KnobError("Device or resource busy")
        write(knob, value)

    monkeypatch.setattr(knobs, "_write", busy)
    for is_killed in (False, True):
        host_settings.apply(RUN, tmp_path / "knobs", root=root)
        scan = ksm_run.scanning({"max_page_sharing": 512}, tmp_path / "knobs", RUN, root)
        scan.__enter__()
        assert (directory / "max_page_sharing").read_text() == "512"
        if not is_killed:
            scan.__exit__(None, None, None)
            assert ((directory / "max_page_sharing").read_text(), values(root)["run"]) == ("256", "0")
        # What ExecStopPost of the run's unit does.
        knobs.restore(tmp_path / "knobs")
        assert ((directory / "max_page_sharing").read_text(), values(root)["run"]) == ("256", "1")


def test_other_settings_of_the_run_stay(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "swappiness"
    other.write_text("60\n")
    knobs.set_knob(tmp_path / "knobs", other, "0")
    with ksm_run.scanning({}, tmp_path / "knobs", RUN, root):
        pass
    assert other.read_text() == "0"
    assert knobs.restore(tmp_path / "knobs") == [str(other)]


def test_a_kernel_without_ksm_is_left_alone(tmp_path: Path) -> None:
    with (
        pytest.raises(ksm.KsmAbsentError),
        ksm_run.scanning({}, tmp_path / "knobs", RUN, tmp_path),
    ):
        pass
    assert not (tmp_path / "knobs").exists()


@pytest.mark.parametrize(
    ("smart_scan", "scans_per_step", "steps"),
    [("0", 1, 3), ("1", 1, 19), ("1", 9, 3), (None, 1, 3), ("0", 0, None), ("1", 0, None)],
)
def test_watching_ends_at_the_plateau_or_when_the_time_is_over(
    root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    smart_scan: str | None,
    scans_per_step: int,
    steps: int | None,
) -> None:
    directory = root / "sys/kernel/mm/ksm"
    if smart_scan is None:
        (directory / "smart_scan").unlink()
    else:
        (directory / "smart_scan").write_text(f"{smart_scan}\n")
    clock = SimpleNamespace(now=0.0)
    count = itertools.count(1)

    def sleep(seconds: float) -> None:
        clock.now += seconds
        (directory / "full_scans").write_text(str(next(count) * scans_per_step))

    monkeypatch.setattr(ksm_run, "time", SimpleNamespace(monotonic=lambda: clock.now, sleep=sleep))
    samples, plateau = ksm_run.Scanner(tmp_path / "knobs", root).watch(limit_seconds=6.0)
    assert plateau == (None if steps is None else 0)
    assert (samples[-1].seconds >= 6.0) if steps is None else (len(samples) == steps + 1)
