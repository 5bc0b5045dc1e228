"""A playbook whose reader goes away ends at once, with its worker: no orphan goes on, and nothing waits for ever."""

from __future__ import annotations

import os
import pty
import signal
import sys
import time
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]
# The task's process tells its worker's pid: the worker is in a session of its own.
PLAY = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars: {ansible_python_interpreter: "%s"}
  tasks:
    - ansible.builtin.debug: {msg: begun}
    - ansible.builtin.shell: ps -o sid= -p $$ > %s/part && mv %s/part %s/session && sleep 60
"""


def start(tmp_path: Path, reader: str) -> tuple[int, int]:
    """A playbook at work, whose output goes to a pipe or a terminal; its pid, and the descriptor at which it is read."""
    (tmp_path / "play.yml").write_text(PLAY % (sys.executable, tmp_path, tmp_path, tmp_path))
    argv = ["ansible-playbook", "-i", "localhost,", str(tmp_path / "play.yml")]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg")}
    if reader == "pipe":
        end, output = os.pipe()
        pid = os.fork()
    else:
        pid, end = pty.fork()
    if pid == 0:
        if reader == "pipe":
            os.setsid()
            os.dup2(output, 1)
            os.dup2(output, 2)
        if reader == "ignored":
            signal.signal(signal.SIGHUP, signal.SIG_IGN)
        os.execvpe(argv[0], argv, environment)
    if reader == "pipe":
        os.close(output)
    return pid, end


def ended(pid: int, seconds: float) -> int | None:
    """How a child ended; None when it goes on."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status)
        time.sleep(0.02)
    return None


def session_members(session: int) -> list[int]:
    members = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text(errors="replace").rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue
        if int(fields[3]) == session and fields[0] != "Z":
            members.append(int(stat.parent.name))
    return members


@pytest.mark.parametrize("reader", ["pipe", "terminal", "ignored"])
def test_it_ends_with_its_worker(tmp_path: Path, reader: str) -> None:
    """``ignored``: a terminal's hang-up that is ignored, which leaves a terminal that cannot be written to."""
    pid, end = start(tmp_path, reader)
    session, seen = None, b""
    try:
        deadline = time.monotonic() + 60
        while not (tmp_path / "session").exists():
            assert time.monotonic() < deadline, seen.decode()
            assert ended(pid, 0.02) is None, seen.decode()
            os.set_blocking(end, False)
            try:
                seen += os.read(end, 65536)
            except BlockingIOError:
                continue
        session = int((tmp_path / "session").read_text())
        assert session != pid
        assert session_members(session)
        os.close(end)
        assert ended(pid, 20) == -signal.SIGTERM
        deadline = time.monotonic() + 10
        while session_members(session):
            assert time.monotonic() < deadline, f"the worker goes on: {session_members(session)}"
            time.sleep(0.02)
    finally:
        for left in [*session_members(pid), *(session_members(session) if session else [])]:
            os.kill(left, signal.SIGKILL)
