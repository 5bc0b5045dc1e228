"""One box: a systemd-nspawn instance that is a KVM host on a port of 127.0.0.1.

Works on a machine whose PID 1 is systemd (the instance is then a transient service) and on one where it is not (the instance is a
session of its own in cgroups of its own, stopped by its recorded pid).
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from . import bystanders, cgroups, ksm, lock, loop_devices
from .box_root import remove_trees
from .commands import run

MACHINE_DIRECTORY = Path("/run/onecopy-machine")
START_SECONDS = 60.0
STOP_SECONDS = 40.0
ENVIRONMENT = {"SYSTEMD_SECCOMP": "0", "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1", "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1"}


class BoxError(Exception):
    """A box that did not do what was asked, with the cause and the cure."""


@dataclass(frozen=True, slots=True)
class Box:
    """One instance below ``directory``; ``name`` is its host name."""

    name: str
    directory: Path
    port: int
    apt_cache: Path | None = None
    memory_mib: int = 0

    @property
    def machine(self) -> str:
        """Name of its machine, unit and cgroups: boxes of two checkouts may have the same host name."""
        return f"{self.name}-{hashlib.sha256(str(self.directory.resolve()).encode()).hexdigest()[:6]}"

    @property
    def root(self) -> Path:
        """The instance's root file system."""
        return self.directory / "root"

    @property
    def log(self) -> Path:
        """What the instance's console said."""
        return self.directory / "console.log"

    @property
    def pid_file(self) -> Path:
        """Pid and start time of systemd-nspawn, where the machine has no systemd to ask."""
        return self.directory / "nspawn.json"

    @property
    def unit(self) -> str:
        """The transient service on a machine with systemd."""
        return f"{self.machine}.service"


def machine_has_systemd() -> bool:
    """Tell whether PID 1 is systemd."""
    return Path("/run/systemd/system").is_dir()


def nspawn_argv(box: Box, ksmd: Path | None = None, memory: Path | None = None) -> list[str]:
    """Return the argv of the instance itself.

    ``ksmd`` is the process directory of the machine's KSM thread, ``memory`` the box's own group of the memory controller: the box shall see both.
    """
    argv = [
        "systemd-nspawn",
        "--quiet",
        f"--directory={box.root}",
        f"--machine={box.machine}",
        f"--hostname={box.name}",
        "--register=no",
        "--keep-unit",
        "--boot",
    ]
    argv += ["--capability=all", "--resolv-conf=copy-host", "--link-journal=no", f"--bind={MACHINE_DIRECTORY}"]
    if box.apt_cache is not None:
        argv.append(f"--bind={box.apt_cache}:/var/cache/apt/archives")
    if ksmd is not None:
        argv.append(f"--bind-ro={ksmd}:{ksm.BOXED_KSMD}")
    if memory is not None:
        argv.append(f"--bind-ro={memory}:{bystanders.BOXED_GROUP}")
    return argv


def unit_argv(box: Box, ksmd: Path | None = None) -> list[str]:
    """Return the argv that makes the instance a service of the machine's systemd."""
    argv = [
        "systemd-run",
        "--quiet",
        f"--unit={box.unit}",
        "--description=onecopy box",
        "--collect",
        "--service-type=notify",
    ]
    argv += [
        "--property=Delegate=yes",
        "--property=KillMode=mixed",
        "--property=SuccessExitStatus=133",
        "--property=TasksMax=infinity",
    ]
    argv += [
        f"--property=TimeoutStopSec={STOP_SECONDS:.0f}",
        f"--property=StandardOutput=append:{box.log}",
        "--property=StandardError=inherit",
    ]
    argv += [f"--setenv={key}={value}" for key, value in ENVIRONMENT.items()]
    if box.memory_mib:
        argv.append(f"--property=MemoryMax={box.memory_mib}M")
    return [*argv, "--", *nspawn_argv(box, ksmd)]


def start_ticks(stat: str) -> int:
    """Return a process's start time (clock ticks since boot) from ``/proc/PID/stat``."""
    return int(stat.rpartition(")")[2].split()[19])


def running_pid(box: Box) -> int | None:
    """Return the pid of the box's systemd-nspawn, or None; a recycled pid is not mistaken for it."""
    if machine_has_systemd():
        pid = int(run(["systemctl", "show", "--property=MainPID", "--value", box.unit]).strip() or 0)
        return pid or None
    try:
        record = json.loads(box.pid_file.read_text())
        stat = Path(f"/proc/{record['pid']}/stat").read_text()
    except (OSError, ValueError, KeyError):
        return None
    if start_ticks(stat) != record["start_ticks"] or stat.rpartition(")")[2].split()[0] == "Z":
        return None
    return int(record["pid"])


def create(box: Box, base: Path, public_key: str) -> None:
    """Copy ``base`` to the box's root and make it this box's own: name, host key, who may log in."""
    if not base.is_dir():
        raise BoxError(f"{base}: no base root; build it first")
    partial = box.directory / "root.partial"
    remove_trees([partial])
    box.directory.mkdir(parents=True, exist_ok=True)
    run(["cp", "--archive", "--reflink=auto", str(base), str(partial)])
    (partial / "etc/hostname").write_text(f"{box.name}\n")
    (partial / "etc/hosts").write_text(f"127.0.0.1 localhost {box.name}\n::1 localhost\n")
    # A base that was a host itself, as the layers of the molecule scenarios are, has a key already; ssh-keygen would ask.
    (partial / "etc/ssh/ssh_host_ed25519_key").unlink(missing_ok=True)
    run(
        [
            "ssh-keygen",
            "-q",
            "-t",
            "ed25519",
            "-N",
            "",
            "-C",
            box.name,
            "-f",
            str(partial / "etc/ssh/ssh_host_ed25519_key"),
        ]
    )
    keys = partial / "root/.ssh/authorized_keys"
    keys.parent.mkdir(mode=0o700, exist_ok=True)
    keys.write_text(f"{public_key.strip()}\n")
    keys.chmod(0o600)
    partial.rename(box.root)


def host_key(box: Box) -> str:
    """Return the box's SSH host key: type and key, no comment."""
    return " ".join((box.root / "etc/ssh/ssh_host_ed25519_key.pub").read_text().split()[:2])


def write_sshd_configuration(box: Box) -> None:
    """Let the box's sshd listen on its own port of 127.0.0.1 and nowhere else: the network is the machine's."""
    text = f"ListenAddress 127.0.0.1\nPort {box.port}\nPasswordAuthentication no\nHostKey /etc/ssh/ssh_host_ed25519_key\nUseDNS no\n"
    (box.root / "etc/ssh/sshd_config.d/onecopy.conf").write_text(text)


def start(box: Box) -> None:
    """Start the box and wait until its SSH server answers."""
    if port_answers(box.port):
        raise BoxError(
            f"{box.name}: something else listens on 127.0.0.1:{box.port}; give the box another port in inventories/box"
        )
    MACHINE_DIRECTORY.mkdir(mode=0o755, exist_ok=True)
    if box.apt_cache is not None:
        box.apt_cache.mkdir(parents=True, exist_ok=True)
    write_sshd_configuration(box)
    box.log.write_bytes(b"")
    if machine_has_systemd():
        run(unit_argv(box, ksm.find_ksmd()), timeout_seconds=START_SECONDS)
    else:
        _spawn(box)
    try:
        _wait_for_ssh(box)
    except BoxError:
        stop(box)
        raise


def _spawn(box: Box) -> None:
    groups = cgroups.create(box.machine, box.memory_mib)
    with box.log.open("ab") as log:
        process = subprocess.Popen(
            nspawn_argv(box, ksm.find_ksmd(), cgroups.memory_group(groups)),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=dict(os.environ, **ENVIRONMENT),
            preexec_fn=lambda: cgroups.join(groups),  # noqa: PLW1509  one thread; no moment outside the groups
        )
    record = {"pid": process.pid, "start_ticks": start_ticks(Path(f"/proc/{process.pid}/stat").read_text())}
    box.pid_file.write_text(json.dumps(record))


def port_answers(port: int) -> bool:
    """Tell whether anything accepts connections on 127.0.0.1:port."""
    with socket.socket() as probe:
        probe.settimeout(1)
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _wait_for_ssh(box: Box) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        if port_answers(box.port):
            return
        if running_pid(box) is None:
            raise BoxError(f"{box.name}: ended while starting; its console's last lines: {console_tail(box)}")
        time.sleep(0.1)
    raise BoxError(
        f"{box.name}: no SSH on 127.0.0.1:{box.port} after {START_SECONDS:.0f} s; its console's last lines: {console_tail(box)}"
    )


def console_tail(box: Box, lines: int = 5) -> str:
    """Return the last lines of the box's console on one line."""
    if not box.log.exists():
        return "(none)"
    text = box.log.read_text(errors="replace").splitlines()
    return " | ".join(line.strip() for line in text[-lines:]) or "(empty)"


def stop(box: Box) -> list[str]:
    """Shut the box down in order and release what outlives it; return what had to be released."""
    pid = running_pid(box)
    if pid is not None:
        if machine_has_systemd():
            run(["systemctl", "stop", box.unit], timeout_seconds=STOP_SECONDS + 20)
        else:
            _terminate(box, pid)
    return _release(box)


def _terminate(box: Box, pid: int) -> None:
    os.kill(pid, 15)
    deadline = time.monotonic() + STOP_SECONDS
    while running_pid(box) is not None:
        if time.monotonic() > deadline:
            cgroups.kill(box.machine)
            deadline = time.monotonic() + STOP_SECONDS
        time.sleep(0.05)
    box.pid_file.unlink(missing_ok=True)


def left_behind(box: Box) -> list[str]:
    """Return what a box that ended without order still holds: loop devices, processes."""
    return [str(node) for node in loop_devices.backed_below(box.root)] + [
        str(pid) for pid in cgroups.members(box.machine)
    ]


def remove_machine_directory(directory: Path = MACHINE_DIRECTORY) -> bool:
    """Remove the machine's lock and saved settings when nobody holds, needs or has mounted them; return whether it did."""
    if not directory.is_dir() or lock.holder_of(directory / "lock") is not None or _is_mounted_anywhere(directory):
        return False
    saved = directory / "knobs"
    if saved.is_dir() and any(saved.iterdir()):
        return False
    shutil.rmtree(directory)
    return True


def _is_mounted_anywhere(directory: Path) -> bool:
    for table in Path("/proc").glob("[0-9]*/mountinfo"):
        try:
            points = [line.split()[4] for line in table.read_text(errors="replace").splitlines()]
        except OSError:
            continue
        if str(directory) in points:
            return True
    return False


def _release(box: Box) -> list[str]:
    released = loop_devices.detach_below(box.root)
    if not machine_has_systemd():
        released += cgroups.remove(box.machine)
        propagate = Path("/run/systemd/nspawn/propagate") / box.machine
        if propagate.is_dir():
            shutil.rmtree(propagate)
    return released


def ensure(
    box: Box, state: str, *, base: Path | None, public_key_file: Path | None, known_hosts: Path | None, check_mode: bool
) -> tuple[bool, list[str]]:
    """Bring ``box`` to ``state`` (started, stopped, absent); return whether anything changed and what had to be released.

    A new box needs ``base`` and ``public_key_file``. Raises BoxError, CommandError or OSError.
    """
    running = running_pid(box) is not None
    held = running or bool(left_behind(box))
    changed = {"started": not running, "stopped": held, "absent": held or box.directory.exists()}[state]
    if check_mode or not changed:
        return changed, []
    released: list[str] = []
    if state == "started":
        _release(box)
        if not box.root.is_dir():
            if base is None or public_key_file is None:
                raise BoxError(f"{box.name}: a new box needs a base root and a public key")
            create(box, base, public_key_file.read_text())
        start(box)
    else:
        released = stop(box)
    if state == "absent":
        remove_trees([box.directory])
        remove_machine_directory()
    if known_hosts is not None and state != "stopped":
        update_known_hosts(known_hosts, box.port, host_key(box) if state == "started" else None)
    return changed, released


def known_hosts_without(lines: Sequence[str], port: int) -> list[str]:
    """Drop the entries of the box on ``port``."""
    return [line for line in lines if not line.startswith(f"[127.0.0.1]:{port} ")]


def update_known_hosts(path: Path, port: int, key: str | None) -> None:
    """Make ``path`` hold exactly ``key`` for the box on ``port``, or nothing for it."""
    lines = known_hosts_without(path.read_text().splitlines() if path.exists() else [], port)
    if key is not None:
        lines.append(f"[127.0.0.1]:{port} {key}")
    path.write_text("".join(f"{line}\n" for line in lines))
