"""One run per machine: who holds the lock, what a second one is told, and how an orphan is ended."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import knobs, lock, run_unit

HOLDER = {"run_id": "R1", "experiment": "paper", "host": "box1", "since": "2026-01-01T00:00:00+00:00"}
UTILS = Path(lock.__file__).parent


def test_second_one_learns_who_holds_it(tmp_path: Path) -> None:
    fd = lock.acquire(tmp_path / "lock", {**HOLDER, "pid": 7})
    with pytest.raises(lock.LockHeldError) as held:
        lock.acquire(tmp_path / "lock", HOLDER)
    text = lock.describe(held.value.holder)
    assert "\n" not in text
    assert "run R1 of experiment 'paper' on box1, since 2026-01-01T00:00:00+00:00 (pid 7)" in text
    assert "systemctl stop onecopy-run@R1.service" in text
    os.close(fd)
    assert lock.holder_of(tmp_path / "lock") is None


def test_nobody_holds_what_is_not_there(tmp_path: Path) -> None:
    assert lock.holder_of(tmp_path / "lock") is None
    assert lock.stop_holder(tmp_path / "lock") is None


def test_text_of_a_dead_holder_is_not_believed(tmp_path: Path) -> None:
    os.close(lock.acquire(tmp_path / "lock", {"pid": os.getpid()}))
    assert (tmp_path / "lock").read_text()
    assert lock.stop_holder(tmp_path / "lock") is None


def start_holder(path: Path, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """The unit's program, as the unit runs it: from a copy of its source."""
    argv = [sys.executable, str(UTILS / "lock.py"), str(path), json.dumps(HOLDER)]
    return subprocess.Popen(argv, env={**os.environ, **(environment or {})}, stderr=subprocess.PIPE, text=True)


def wait_for(path: Path) -> None:
    deadline = time.monotonic() + 10
    while not lock.holder_of(path):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_program_tells_systemd_holds_and_ends(tmp_path: Path) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as systemd:
        systemd.bind(str(tmp_path / "notify"))
        systemd.settimeout(10)
        holder = start_holder(tmp_path / "lock", {"NOTIFY_SOCKET": str(tmp_path / "notify")})
        assert systemd.recv(100) == b"READY=1"
    assert lock.holder_of(tmp_path / "lock") == {**HOLDER, "pid": holder.pid}
    second = start_holder(tmp_path / "lock")
    assert second.wait(10) == 1
    assert second.stderr is not None
    assert "this machine already measures" in second.stderr.read()
    holder.terminate()
    assert holder.wait(10) == 0
    assert lock.holder_of(tmp_path / "lock") is None


def test_orphan_is_ended(tmp_path: Path) -> None:
    holder = start_holder(tmp_path / "lock")
    wait_for(tmp_path / "lock")
    assert lock.stop_holder(tmp_path / "lock") == holder.pid
    assert holder.wait(10) == 0


def test_orphan_that_ignores_sigterm_is_killed(tmp_path: Path) -> None:
    pid = os.fork()
    if pid == 0:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        lock.acquire(tmp_path / "lock", {"pid": os.getpid()})
        time.sleep(60)
        os._exit(0)
    wait_for(tmp_path / "lock")
    assert lock.stop_holder(tmp_path / "lock", grace_seconds=0.3) == pid
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def test_unit_command() -> None:
    command = run_unit.start_command("R1", HOLDER, Path("/m/lock"), Path("/m/knobs"), Path("/run/onecopy/lib"))
    assert command[:4] == ["systemd-run", "--quiet", "--collect", "--unit=onecopy-run@R1.service"]
    assert "--service-type=notify" in command
    assert "--property=ExecStopPost=/usr/bin/python3 -m onecopy.knobs /m/knobs" in command
    assert "--property=ExecStopPost=/usr/bin/python3 -m onecopy.device_limit" in command
    assert command[-5:] == ["/usr/bin/python3", "-m", "onecopy.lock", "/m/lock", json.dumps(HOLDER)]


def test_what_is_copied_for_the_unit_runs_alone(tmp_path: Path) -> None:
    library = run_unit._copy_sources(tmp_path / "lib")
    answer = subprocess.run(
        [
            sys.executable,
            "-I",
            "-c",
            "import sys; sys.path.insert(0, sys.argv[1]); import onecopy.lock, onecopy.knobs, onecopy.device_limit",
            library,
        ],
        check=False,
        capture_output=True,
        text=True,
    )
    assert answer.stderr == ""


@pytest.mark.parametrize(("run_id", "host"), [("R2", "box1"), ("R1", "box2")])
def test_other_run_or_other_box_of_this_machine_is_refused(tmp_path: Path, run_id: str, host: str) -> None:
    fd = lock.acquire(tmp_path / "lock", HOLDER)
    with pytest.raises(lock.LockHeldError):
        run_unit.start(run_id, {**HOLDER, "host": host}, tmp_path, tmp_path / "run")
    assert run_unit.start("R1", HOLDER, tmp_path, tmp_path / "run") is False
    os.close(fd)


def test_knob_comes_back(tmp_path: Path) -> None:
    knob, memory = tmp_path / "run", tmp_path / "knobs"
    knob.write_text("0\n")
    assert knobs.set_knob(memory, knob, "1") is True
    assert knobs.set_knob(memory, knob, "1") is False
    assert knobs.set_knob(memory, knob, "2") is True
    assert knob.read_text() == "2"
    assert knobs.restore(memory) == [str(knob)]
    assert knob.read_text() == "0"
    assert knobs.restore(memory) == []


def test_knob_comes_back_after_a_kill(tmp_path: Path) -> None:
    knob, memory = tmp_path / "run", tmp_path / "knobs"
    knob.write_text("0\n")
    pid = os.fork()
    if pid == 0:
        knobs.set_knob(memory, knob, "1")
        os._exit(9)
    os.waitpid(pid, 0)
    assert knob.read_text() == "1"
    assert subprocess.run([sys.executable, str(UTILS / "knobs.py"), str(memory)], check=False).returncode == 0
    assert knob.read_text() == "0"


def test_knob_that_does_not_take_the_value_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(knobs.KnobError, match="cannot be read"):
        knobs.set_knob(tmp_path / "knobs", tmp_path / "none", "1")
    with pytest.raises(knobs.KnobError, match=r"was set to '1' and is ''|cannot be set"):
        knobs.set_knob(tmp_path / "knobs", Path("/dev/null"), "1")


def test_choice_is_read_by_its_brackets(tmp_path: Path) -> None:
    knob = tmp_path / "enabled"
    knob.write_text("always [madvise] never\n")
    assert knobs.set_knob(tmp_path / "knobs", knob, "madvise") is False


def test_knob_that_cannot_be_restored_is_kept_and_named(tmp_path: Path) -> None:
    good, gone, memory = tmp_path / "good", tmp_path / "gone", tmp_path / "knobs"
    for knob in (good, gone):
        knob.write_text("0")
        knobs.set_knob(memory, knob, "1")
    gone.unlink()
    with pytest.raises(knobs.KnobError, match="gone: cannot be read"):
        knobs.restore(memory)
    assert good.read_text() == "0"
    assert len(list(memory.glob("*.json"))) == 1


def test_a_start_first_brings_back_what_a_killed_unit_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    knob, values = tmp_path / "run", []
    knob.write_text("0\n")
    knobs.set_knob(tmp_path / "machine" / "knobs", knob, "1")

    def systemd_run(command: list[str], **options: object) -> subprocess.CompletedProcess[str]:
        values.append(knob.read_text())
        return subprocess.CompletedProcess(command, 0, "", "")

    monkeypatch.setattr(run_unit.subprocess, "run", systemd_run)
    assert run_unit.start("R1", HOLDER, tmp_path / "machine", tmp_path / "runtime") is True
    assert values == ["0"]
    knobs.set_knob(tmp_path / "machine" / "knobs", knob, "1")
    knob.unlink()
    with pytest.raises(run_unit.RunUnitError, match="settings of an earlier run are not back"):
        run_unit.start("R1", HOLDER, tmp_path / "machine", tmp_path / "runtime")
    assert values == ["0"]
