"""A terminal that goes away while the launcher is at work in it."""

from __future__ import annotations

import os
import pty
import subprocess
import time
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import cgroups, host_settings, loop_devices, nspawn
from lab import PROJECT, RUN_SECONDS, Lab, Run
from points import Told

_PREPARE_SECONDS = 300.0
_END_SECONDS = 90.0


@pytest.mark.long
@pytest.mark.fault("terminal that goes away during ./onecopy run")
def test_terminal_goes_away(lab: Lab, tmp_path: Path, told: Told) -> None:
    before = lab.snapshot()
    # A limit of the store's device belongs to the machine: it must not outlive the box.
    run = Run(lab, tmp_path, systems=["gfs"], device=["hdd"])
    argv = run.command("./onecopy", "run", str(run.file))
    pid, terminal = pty.fork()
    if pid == 0:
        os.chdir(PROJECT)
        os.execve(argv[0], argv, lab.environment)
    os.set_blocking(terminal, False)
    seen = b""
    deadline = time.monotonic() + _PREPARE_SECONDS
    while not run.on_host():
        assert time.monotonic() < deadline, seen[-3000:].decode()
        time.sleep(0.1)
        try:
            seen += os.read(terminal, 1 << 20)
        except BlockingIOError:
            continue
    kept = run.on_host()
    assert lab.device_limit() != before["device limit"]
    os.close(terminal)
    deadline = time.monotonic() + _END_SECONDS
    while os.waitpid(pid, os.WNOHANG)[0] == 0:
        assert time.monotonic() < deadline, f"it goes on: {lab.controllers()}"
        time.sleep(0.1)
    assert nspawn.running_pid(lab.box) is None, "the box was left"
    assert loop_devices.backed_below(lab.box.root) == []
    assert cgroups.members(lab.box.machine) == []
    assert lab.controllers() == []
    assert host_settings.current() == before["settings"]
    assert lab.device_limit() == before["device limit"]

    again = subprocess.run(
        argv, cwd=PROJECT, env=lab.environment, capture_output=True, text=True, check=False, timeout=RUN_SECONDS
    )
    assert again.returncode == 0, again.stdout[-3000:] + again.stderr[-1000:]
    run.expect_complete(kept)
    lab.play("box")
    lab.expect_quiet(before)
    told("launcher, controller and box ended in order, the same command completed the run", len(kept))
