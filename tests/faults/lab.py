"""The box of this checkout, prepared for the suite's experiment; controllers that run it; and what must be as it was after a fault."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import tempfile
import time
import uuid
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import machine
import yaml
from ansible.module_utils.onecopy import host_settings, lock, loop_devices, nspawn, records
from ansible.module_utils.onecopy.nspawn import MACHINE_DIRECTORY, Box

PROJECT = Path(__file__).resolve().parents[2]
EXPERIMENT: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("faults.yml").read_text())
KSM = Path("/sys/kernel/mm/ksm/run")
# Limits of devices as a whole, where the machine has cgroup v1 for them.
THROTTLES = sorted(Path("/sys/fs/cgroup/blkio").glob("blkio.throttle.*_device"))
MARK = "ONECOPY_FAULT_CONTROLLER"
# Of a whole run, on a machine that others use too; nothing of it is a measurement.
RUN_SECONDS = 240.0
_QUIET_SECONDS = 30.0


def wait_until(condition: Callable[[], Any], seconds: float, what: str) -> Any:
    """Wait for ``condition``; its value. Fails with ``what`` when the time is over."""
    deadline = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < deadline, f"not within {seconds:g} s: {what}"
        time.sleep(0.02)
    return value


class Lab:
    """The started box."""

    def __init__(self) -> None:
        self.box = Box("onecopy-box1", PROJECT / ".onecopy/box/onecopy-box1", 22221)
        self._ksm = KSM.read_text().strip() if KSM.exists() else None
        self._sockets = tempfile.TemporaryDirectory(prefix="onecopy-faults-", dir="/tmp")
        self._mark = uuid.uuid4().hex
        self.environment = {**os.environ, "ANSIBLE_SSH_CONTROL_PATH_DIR": self._sockets.name, MARK: self._mark}

    def start(self) -> None:
        """Start the box and prepare it; what is there already is quick. KSM is switched on, as on many hosts: every run switches it off."""
        if self._ksm is not None:
            KSM.write_text("1")
        self.play("box")
        self.play("prepare", "-e", f"experiment_file={Path(__file__).with_name('faults.yml')}")
        # What a run that was broken off before has left.
        self.module("guest_sweep")
        self.hang_up()

    def stop(self) -> None:
        """Stop the box, and give the machine back as it was."""
        self.hang_up()
        self.play("box", "-e", "box_state=stopped")
        self._sockets.cleanup()
        if self._ksm is not None:
            KSM.write_text(self._ksm)

    def play(self, playbook: str, *options: str) -> str:
        """Run a playbook to its good end; what it said."""
        return self._run("ansible-playbook", f"playbooks/{playbook}.yml", *options)

    def module(self, name: str, /, **arguments: Any) -> None:
        """Have a module of the kit do something on the KVM host."""
        options = ["-a", json.dumps(arguments)] if arguments else []
        self._run("ansible", "kvm_hosts", "-b", "-m", name, *options)

    def _run(self, *argv: str) -> str:
        done = subprocess.run(argv, cwd=PROJECT, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{' '.join(argv)}:\n{done.stdout[-3000:]}{done.stderr[-1000:]}"
        return done.stdout

    @property
    def pid(self) -> int:
        """The box's own process: everything below it is the kit's."""
        pid = nspawn.running_pid(self.box)
        assert pid is not None, "the box does not run"
        return pid

    @property
    def state(self) -> Path:
        """The KVM host's state directory, as the box sees it."""
        root = Path(f"/proc/{self.init()}/root") if nspawn.running_pid(self.box) else self.box.root
        return root / "var/lib/onecopy"

    def init(self) -> int:
        """PID 1 of the box."""
        return next(process.pid for process in machine.below(self.pid) if process.inner_pid == 1)

    def inside(self, *argv: str) -> str:
        """Run a command in the box, without SSH."""
        entered = ["nsenter", f"--target={self.init()}", "--mount", "--pid", "--uts", "--ipc", "--cgroup", "--", *argv]
        return subprocess.run(entered, capture_output=True, text=True, check=True).stdout

    def controllers(self) -> list[machine.Process]:
        """What the suite's controllers left on the machine, kept SSH connections apart."""
        return [one for one in machine.marked(MARK, self._mark) if one.program != "ssh"]

    def hang_up(self) -> None:
        """End kept SSH connections."""
        machine.kill([one.pid for one in machine.marked(MARK, self._mark) if one.program == "ssh"], signal.SIGTERM)

    def snapshot(self) -> dict[str, Any]:
        """What has to be the same before and after a run: settings of the machine, and what the kit runs and holds."""
        mounts = [line.split()[4] for line in Path(f"/proc/{self.init()}/mountinfo").read_text().splitlines()]
        units = self.inside("systemctl", "list-units", "--all", "--plain", "--no-legend", "onecopy*").splitlines()
        return {
            "settings": host_settings.current(),
            "remembered settings": sorted(path.name for path in (MACHINE_DIRECTORY / "knobs").glob("*")),
            "device limit": self.device_limit(),
            "lock": lock.holder_of(MACHINE_DIRECTORY / "lock"),
            "programs": set(machine.kinds(self.pid)),
            "mounts": sorted(mounts),
            "loop devices": [str(node) for node in loop_devices.backed_below(self.box.root)],
            "units": sorted(line.split()[0] for line in units if not line.startswith("onecopy.slice")),
            "guests": sorted(path.name for path in Path(f"/proc/{self.init()}/root/run/onecopy/guests").glob("*")),
            "guests' files": sorted(
                path.name for place in ("scratch", "own") for path in (self.state / "store" / place).glob("*")
            ),
            "controllers": sorted(" ".join(one.words[:4]) for one in self.controllers()),
        }

    def device_limit(self) -> list[Any]:
        """Whether the machine remembers a limit of a device, and the limits that are set."""
        return [(MACHINE_DIRECTORY / "device_limit").exists(), *(file.read_text() for file in THROTTLES)]

    def expect_quiet(self, before: Mapping[str, Any]) -> None:
        """Wait until everything is as ``before``."""
        self.hang_up()
        deadline = time.monotonic() + _QUIET_SECONDS
        while True:
            found = self.different(before)
            if not found:
                return
            assert time.monotonic() < deadline, f"not as it was (before, now): {found}"
            time.sleep(0.2)

    def different(self, before: Mapping[str, Any]) -> dict[str, tuple[Any, Any]]:
        """What is not as ``before``: then and now, by name."""
        now = self.snapshot()
        return {
            name: (before[name], now[name])
            for name in before
            # Programs of the system come and go; none may be there that was not.
            if (now[name] - before[name] if name == "programs" else now[name] != before[name])
        }


class Run:
    """The suite's experiment, changed a little, in a place of its own; started as often as it takes."""

    def __init__(self, lab: Lab, place: Path, slice_seconds: int = 20, **changes: Any) -> None:
        self.lab = lab
        self.reports = place / "reports"
        self.log = place / "controller.log"
        self.file = place / "experiment.yml"
        self._slice_seconds = slice_seconds
        place.mkdir(exist_ok=True)
        self.file.write_text(yaml.safe_dump(EXPERIMENT | changes))
        self.name = str((EXPERIMENT | changes)["name"])

    def command(self, *beginning: str) -> list[str]:
        """The command that starts it, and goes on with it; ``beginning`` is another one to start with."""
        settings = {
            "experiment_file": self.file,
            "experiment_reports_directory": self.reports,
            "experiment_slice_seconds": self._slice_seconds,
            # A worker that outlived its controller may have finished the run: then it is not begun anew.
            "experiment_repeat_enabled": "false",
        }
        options = [word for name, value in settings.items() for word in ("-e", f"{name}={value}")]
        return [*(beginning or ("ansible-playbook", "playbooks/experiment.yml")), *options]

    def start(self, *beginning: str) -> subprocess.Popen[bytes]:
        """Start a controller: ``command``."""
        with self.log.open("ab") as log:
            return subprocess.Popen(
                self.command(*beginning),
                cwd=PROJECT,
                env=self.lab.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def end(self, controller: subprocess.Popen[bytes]) -> int:
        """Wait for a controller's end; its exit status."""
        try:
            return controller.wait(RUN_SECONDS)
        except subprocess.TimeoutExpired:
            processes = machine.below(controller.pid)
            machine.kill([controller.pid, *(one.pid for one in processes)], signal.SIGKILL)
            raise AssertionError(f"the controller does not end:\n{self.said()}") from None

    def said(self) -> str:
        """The last lines of its controllers."""
        return self.log.read_text(errors="replace")[-3000:]

    @property
    def directory(self) -> Path | None:
        """Its directory on the controller; None before it has one. There is never a second."""
        found = list(self.reports.glob(f"{self.name}/*/manifest.json"))
        assert len(found) <= 1, found
        return found[0].parent if found else None

    def on_host(self) -> list[dict[str, Any]]:
        """Records on the KVM host."""
        directory = self.directory
        if directory is None:
            return []
        return records.read(self.lab.state / "runs" / directory.name / "results.jsonl").records

    def on_controller(self) -> list[dict[str, Any]]:
        """Records on the controller."""
        return records.read(self.directory / "results.jsonl").records if self.directory else []

    def expect_kept(self, kept: list[dict[str, Any]]) -> None:
        """Records of ``kept`` are the first on the host, as they were, none is there twice, and the controller has them in the same order."""
        fetched, every = self.on_controller(), self.on_host()
        assert every[: len(kept)] == kept
        assert len({one["id"] for one in every}) == len(every)
        assert fetched == every[: len(fetched)]

    def failed_boots(self) -> int:
        """Failed boots of the block that has most of them; the kit counts them on the host."""
        assert self.directory is not None
        counted = self.lab.state / "runs" / self.directory.name / "boots.json"
        return max(json.loads(counted.read_text()).values(), default=0) if counted.exists() else 0

    def expect_complete(self, kept: list[dict[str, Any]], allowed: tuple[str, ...] = (), most: int = 1) -> None:
        """Every trial of the plan has one record, on host and controller; those of ``kept`` are the first, as they were.

        ``most`` trials may have failed, for one of the ``allowed`` reasons; others only because somebody on this machine dropped its page cache.
        """
        directory = self.directory
        assert directory is not None
        plan = json.loads((directory / "plan.json").read_text())
        manifest = json.loads((directory / "manifest.json").read_text())
        assert all("finished_at" in host for host in manifest["hosts"].values())
        for every in (self.on_host(), self.on_controller()):
            assert every[: len(kept)] == kept
            assert sorted(one["id"] for one in every) == sorted(trial["id"] for trial in plan["trials"])
            bad = [one for one in every if one["status"] != "ok" and one["reason"] != "disturbed"]
            assert len(bad) <= (most if allowed else 0), bad
            assert all(one["reason"] in allowed for one in bad), bad
