"""One boot of one system on a KVM host: daemon, guest (or the ``hfs`` chroot), data and scratch mounted, runner answering."""

from __future__ import annotations

import dataclasses
import json
import os
import pwd
import select
import shutil
import time
import uuid
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from . import arrangement, console_log, guest_files, host_options, image, qemu, units
from .arrangement import DATA_ROOTS, SCRATCH, Arrangement, BootSpec, Mount
from .cachestat import OWN_TREE
from .commands import CommandError, run
from .daemon import DaemonError
from .device_limit import DeviceLimitError
from .knobs import KnobError
from .paths import RUNTIME, HostPaths
from .runner_client import RunnerClient, RunnerError, RunnerLost

__all__ = ["DATA_ROOTS", "SCRATCH", "Boot", "BootError", "BootSpec", "attach", "boot", "sweep"]

_MOUNT_SECONDS = 30.0
_SCRATCH_SECONDS = 120.0
# systemd notices a death a moment after sockets and descriptors of the process do; the process ends a moment after its connection.
_NOTICE_SECONDS = 0.2
_DEATH_LOOKS = 10
_STATE_FILE = "boot.json"
_CLOCKS = ("hello_seconds", "started_at", "ready_at")


class BootError(Exception):
    """A boot that did not come up; ``reason`` is from the record schema's closed list, ``message`` is one line for a person.

    ``console``: the guest's last lines, as far as it got.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message
        self.console: list[str] = []


class Boot:
    """A running boot. ``qemu_pid`` and ``daemon_pid`` are None where the system has none; ``qmp`` likewise.

    ``started_at`` and ``ready_at``: when it was asked for and could be used, on the machine's monotonic clock.
    """

    def __init__(self, plan: Arrangement, boot_id: str, command_lines: dict[str, list[str]]) -> None:
        self.plan = plan
        self.boot_id = boot_id
        self.command_lines = command_lines
        self.runner = RunnerClient(plan.runner)
        self.qemu_pid: int | None = None
        self.daemon_pid: int | None = None
        self.runner_pid: int | None = None
        self.hello_seconds: float | None = None
        self.started_at: float | None = None
        self.ready_at: float | None = None
        self.facts: dict[str, Any] = {}
        self.is_fresh = False
        self.data_roots = dict(DATA_ROOTS)
        self.scratch = SCRATCH
        self._pidfds: list[int] = []

    @property
    def qmp(self) -> Path | None:
        """Socket of QEMU's monitor, for ``qemu.qmp``."""
        return self.plan.guest.qmp if self.plan.guest else None

    @property
    def stats(self) -> Path | None:
        """Socket on which hostfsd tells its counters; None for every other daemon."""
        return self.plan.stats if self.plan.system.path == "hostfsd" else None

    def alive(self, patience_seconds: float = 0.0) -> tuple[str, str] | None:
        """None, or ``daemon_died`` or ``guest_died`` with the console's last line; a death under way is waited for ``patience_seconds``."""
        poll = select.poll()
        for pidfd in self._pidfds:
            poll.register(pidfd, select.POLLIN)
        if self._pidfds and not poll.poll(1000 * patience_seconds):
            return None
        time.sleep(_NOTICE_SECONDS)
        return _diagnose(self.plan)

    def last_lines(self) -> list[str]:
        """The last lines of the guest's console."""
        return console_log.last_lines(self.plan.console)

    def remount(self) -> None:
        """Unmount and mount the data in the guest (the cold state of mapped files); nothing to do for ``hfs``. Raises RunnerLost, RunnerError."""
        if self.plan.guest is None:
            return
        mounts = self.plan.data_mounts
        if self.plan.scratch_image is None:
            mounts += self.plan.scratch_mounts
        for target in _targets(mounts)[::-1]:
            self.runner.call("unmount", _MOUNT_SECONDS, target=target)
        self._mount(mounts)

    def reset_scratch(self) -> None:
        """Empty the scratch, through the runner. Raises RunnerLost, RunnerError."""
        # From within: a guest that caches the share's directories would not see what the host removes.
        pipeline = [["find", SCRATCH, "-mindepth", "1", "-not", "-path", f"{SCRATCH}/lost+found", "-delete"]]
        result = self.runner.call(
            "run", _SCRATCH_SECONDS + 5, pipeline=pipeline, timeout_seconds=_SCRATCH_SECONDS, cwd="/"
        )
        if result["exit_codes"] != [0]:
            raise RunnerError("internal", f"the scratch could not be emptied: {result['stderr'].strip()}")

    def stop(self) -> None:
        """End guest and daemon at once (the data are read-only, the scratch disposable): no unit, socket, mount or file is left."""
        self.runner.close()
        for pidfd in self._pidfds:
            os.close(pidfd)
        self._pidfds.clear()
        host_options.undo(self.plan.share)
        _clear(self.plan.spec.name, self.plan.files)

    def _mount(self, mounts: tuple[Mount, ...]) -> None:
        for mount in mounts:
            self.runner.call("mount", _MOUNT_SECONDS, **dataclasses.asdict(mount))
        host_options.apply_in_guest(self.plan.spec.options, self.runner, _targets(mounts))

    def _find_pids(self) -> None:
        """Ask systemd which processes these are. Raises BootError when one is gone."""
        pid = units.state(self.plan.unit).main_pid
        daemon = self.plan.daemon_unit
        first = units.state(daemon).main_pid if daemon else None
        if pid is None or (daemon and first is None):
            raise BootError(*_diagnose(self.plan))
        # virtiofsd's first process only waits for its sandboxed child: what is measured is the one that serves.
        self.daemon_pid = None if first is None else units.last_child(first)
        if self.plan.guest:
            self.qemu_pid = pid
        else:
            self.runner_pid = pid
        try:
            self._pidfds = [os.pidfd_open(one) for one in (pid, first) if one is not None]
        except ProcessLookupError:
            raise BootError(*_diagnose(self.plan)) from None


def boot(spec: BootSpec, paths: HostPaths, deadline_seconds: float = 60) -> Boot:
    """Start what ``spec`` asks for and wait until its runner answered and data and scratch are mounted.

    Raises BootError (guest_not_ready, guest_died, daemon_died, mount_failed, no_space, internal); nothing is left running then.
    """
    began = time.monotonic()
    try:
        plan = arrangement.arrange(spec, paths)
        if plan.guest:
            qemu.argv(plan.guest)  # contradictions show before anything is touched
        _require(plan, paths)
    except ValueError as error:
        raise BootError("internal", str(error)) from error
    _clear(spec.name, plan.files)
    try:
        booted = _start(plan, paths)
        _meet(booted, deadline_seconds)
        booted.started_at, booted.ready_at = began, time.monotonic()
        _save(booted)
        host_options.apply(spec.options, paths.store)
    except BaseException as error:
        failure = _as_boot_error(error, plan)
        if failure is not None:
            failure.console = console_log.last_lines(plan.console)
        _clear(spec.name, plan.files)
        if failure is None:
            raise
        raise failure from error
    return booted


def attach(spec: BootSpec, paths: HostPaths) -> Boot | None:
    """The boot of exactly ``spec`` that still runs from an earlier call, reconnected to its runner; None where there is none that answers."""
    try:
        plan = arrangement.arrange(spec, paths)
        saved = json.loads((plan.directory / _STATE_FILE).read_text())
    except (FileNotFoundError, ValueError):
        return None
    if saved["spec"] != _plain(spec):
        return None
    booted = Boot(plan, saved["boot_id"], saved["command_lines"])
    try:
        booted._find_pids()
        booted.runner.connect(_MOUNT_SECONDS)
    except (BootError, RunnerLost, RunnerError):
        return None
    booted.hello_seconds, booted.started_at, booted.ready_at = (saved[name] for name in _CLOCKS)
    return booted


def end(name: str, paths: HostPaths, is_check: bool = False) -> bool:
    """End the guest ``name``; return whether there was anything of it (``is_check``: only look)."""
    is_there = arrangement.directory(name).exists() or bool(
        units.installed(template.format(name) for template in units.TEMPLATES)
    )
    if is_there and not is_check:
        _clear(name, guest_files.of(name, paths))
    return is_there


def leftovers(paths: HostPaths) -> list[str]:
    """Names of the guests of which something is there: a directory, a drop-in, a loaded unit, a scratch."""
    names = {path.name for path in (RUNTIME / "guests").glob("*")}
    for template in units.TEMPLATES:
        before, after = template.split("{}")
        found = {path.name.removesuffix(".d") for path in units.DIRECTORY.glob(template.format("*") + ".d")}
        found |= set(units.listed(template.format("*")))
        names |= {unit.removeprefix(before).removesuffix(after) for unit in found}
    return sorted(names | guest_files.owners(paths))


def sweep(paths: HostPaths) -> list[str]:
    """End whatever a killed run left: units, mounts, sockets, scratch; return the names of the guests. A second call finds nothing to do."""
    host_options.undo(paths.store)
    names = leftovers(paths)
    for name in names:
        units.remove([template.format(name) for template in units.TEMPLATES])
        _clear(name, guest_files.of(name, paths))
    return names


def _require(plan: Arrangement, paths: HostPaths) -> None:
    """Raise BootError where a role has not been applied, with the role's name."""
    guest = paths.guest
    wanted = [(guest / "root.img", "guest_image"), (guest / "initrd", "guest_image"), (plan.share / "data", "dataset")]
    if plan.system.storage == "image":
        wanted.append((paths.image(plan.spec.dataset, plan.system.name), "guest_image"))
    if "root" in plan.spec.options and not (plan.share / "data/a" / OWN_TREE / "usr/bin").is_dir():
        raise BootError(
            "internal", f"{plan.share}: holds no root tree to boot from: the data set needs guest_root: true"
        )
    for path, role in wanted:
        if not path.exists():
            raise BootError("internal", f"{path} is missing: apply role {role}")
    try:
        pwd.getpwnam(arrangement.USER)
    except KeyError:
        raise BootError("internal", f"there is no user {arrangement.USER}: apply role kvm_host") from None


def _start(plan: Arrangement, paths: HostPaths) -> Boot:
    """Lay everything out and start the units."""
    user = pwd.getpwnam(arrangement.USER)
    plan.directory.mkdir(parents=True)
    plan.directory.chmod(0o700)
    os.chown(plan.directory, user.pw_uid, user.pw_gid)
    commands: dict[str, list[str]] = {}
    texts: dict[str, str] = {}
    if plan.scratch_image is None:
        _empty(plan.share_scratch)
    guest_files.make(plan, paths, user)
    if plan.guest is None:
        guest_files.mount_root(plan, paths)
        shutil.copytree(paths.guest / "runner", plan.directory / "runner")
        commands["runner"] = arrangement.hfs_argv()
        texts[plan.unit] = units.drop_in(commands["runner"], arrangement.hfs_service(plan))
    else:
        bound = []
        if plan.daemon_unit:
            commands["daemon"] = arrangement.daemon_argv(plan, paths)
            texts[plan.daemon_unit] = units.drop_in(commands["daemon"], [f"ReadWritePaths={plan.directory}"])
            # Nobody can abort requests to a dead daemon: its guest would hang for ever, so it ends with it.
            bound = [f"BindsTo={plan.daemon_unit}", f"After={plan.daemon_unit}"]
        commands["qemu"] = qemu.argv(plan.guest)
        texts[plan.unit] = units.drop_in(commands["qemu"], [f"ReadWritePaths={plan.directory} {paths.store}"], bound)
    units.install(texts)
    booted = Boot(plan, uuid.uuid4().hex, commands)
    if plan.daemon_unit:
        units.start(plan.daemon_unit)
        _wait_for(plan.daemon_socket, plan.daemon_unit, plan, 10)
        # The daemon is root, QEMU is not.
        os.chown(plan.daemon_socket, user.pw_uid, user.pw_gid)
    units.start(plan.unit)
    return booted


def _meet(booted: Boot, deadline_seconds: float) -> None:
    """Wait for the runner's hello, then mount. Raises BootError, RunnerLost, RunnerError."""
    started = time.monotonic()
    _wait_for(booted.plan.runner, booted.plan.unit, booted.plan, deadline_seconds)
    booted.runner.connect(deadline_seconds - (time.monotonic() - started))
    booted.hello_seconds = time.monotonic() - started
    booted._find_pids()
    booted._mount(booted.plan.data_mounts + booted.plan.scratch_mounts)
    booted.facts = booted.runner.call("facts", _MOUNT_SECONDS)


def _wait_for(socket_path: Path, unit: str, plan: Arrangement, seconds: float) -> None:
    """Wait until a socket of ``unit`` is there. Raises BootError when the unit ended instead, or in no time."""
    deadline = time.monotonic() + seconds
    asked = time.monotonic()
    while not socket_path.exists():
        now = time.monotonic()
        if now > deadline:
            raise BootError("guest_not_ready", f"{socket_path.name} did not appear within {seconds:.0f} s")
        if now - asked > 0.5:
            asked = now
            if not units.state(unit).is_running:
                raise BootError(*_diagnose(plan))
        time.sleep(0.01)


def _as_boot_error(error: BaseException, plan: Arrangement) -> BootError | None:
    """What went wrong, in the schema's words; None for what is not ours (an interrupt)."""
    match error:
        case BootError():
            return error
        case image.NoSpaceError():
            return BootError("no_space", str(error))
        case RunnerError():
            return BootError(error.reason, error.message)
        case RunnerLost():
            return BootError(*_why_lost(error, plan))
        case CommandError() | DaemonError() | DeviceLimitError() | KnobError() | ValueError() | OSError():
            return BootError("internal", str(error))
    return None


def _why_lost(error: RunnerLost, plan: Arrangement) -> tuple[str, str]:
    for _ in range(_DEATH_LOOKS):
        time.sleep(_NOTICE_SECONDS)
        if not all(units.state(unit).is_running for unit in filter(None, (plan.daemon_unit, plan.unit))):
            return _diagnose(plan)
    return "guest_not_ready", f"the runner did not answer: {error}; {console_log.telling_line(plan.console)}"


def _diagnose(plan: Arrangement) -> tuple[str, str]:
    """Who died first, and its last words."""
    guest = units.state(plan.unit)
    if plan.daemon_unit:
        daemon = units.state(plan.daemon_unit)
        if not daemon.is_running and (
            guest.is_running or guest.stopped_at is None or (daemon.stopped_at or 0) <= guest.stopped_at
        ):
            said = units.last_words(plan.daemon_unit)
            return (
                "daemon_died",
                f"{plan.daemon_unit}: {daemon.result}, status {daemon.exit_status}; last words: {said}; its guest was ended with it. "
                "A run boots both again for its next trial; a guest of role guest_vm starts when the role is applied again",
            )
    reason = "guest_died" if plan.guest else "runner_lost"
    said = console_log.telling_line(plan.console) or f"last words: {units.last_words(plan.unit)}"
    return reason, f"{plan.unit}: {guest.result}, status {guest.exit_status}; {said}"


def _clear(name: str, files: Iterable[Path]) -> None:
    """End and remove everything that goes by this name."""
    all_units = [template.format(name) for template in units.TEMPLATES]
    here = arrangement.directory(name)
    if not here.exists() and not units.installed(all_units):
        _unlink(files)
        return
    units.remove(units.installed(all_units))
    if os.path.ismount(here / "root"):
        run(["umount", str(here / "root")])
    if here.exists():
        shutil.rmtree(here)
    _unlink(files)


def _unlink(files: Iterable[Path]) -> None:
    for file in files:
        file.unlink(missing_ok=True)


def _empty(directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    for entry in directory.iterdir():
        shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()


def _targets(mounts: tuple[Mount, ...]) -> list[str]:
    return list(dict.fromkeys(mount.target for mount in mounts))


def _plain(spec: BootSpec) -> dict[str, Any]:
    return {**dataclasses.asdict(spec), "options": dict(spec.options)}


def _save(booted: Boot) -> None:
    state = {
        "spec": _plain(booted.plan.spec),
        "boot_id": booted.boot_id,
        "command_lines": booted.command_lines,
        **{name: getattr(booted, name) for name in _CLOCKS},
    }
    partial = booted.plan.directory / f"{_STATE_FILE}.partial"
    partial.write_text(json.dumps(state))
    partial.rename(booted.plan.directory / _STATE_FILE)
