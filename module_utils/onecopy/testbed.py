"""One boot of one system on a KVM host: daemon, guest (or the ``hfs`` chroot), data and scratch mounted, runner answering."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from .paths import HostPaths
from .runner_client import RunnerClient

DATA_ROOTS = {"a": "/data/a", "b": "/data/b"}
SCRATCH = "/scratch"


class BootError(Exception):
    """A boot that did not come up; ``reason`` is from the record schema's closed list, ``message`` is one line for a person."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


@dataclass(frozen=True)
class BootSpec:
    """What to boot. ``options`` are tuning factors such as aio, iothread, queues, window_mib, inode_dax_kib, dax_always, icount, cpu_model."""

    system: str
    label: str
    dataset: str
    accelerator: str
    memory_mib: int
    cpus: int
    name: str = "trial"
    options: Mapping[str, object] = field(default_factory=dict)


class Boot:
    """A running boot. ``qemu_pid`` and ``daemon_pid`` are None where the system has none."""

    boot_id: str
    runner: RunnerClient
    qemu_pid: int | None
    daemon_pid: int | None
    data_roots: dict[str, str]
    scratch: str
    command_lines: dict[str, list[str]]

    def alive(self) -> tuple[str, str] | None:
        """None, or (reason, message) when the guest or its daemon died: ``daemon_died`` or ``guest_died`` with the console's last line."""
        raise NotImplementedError

    def remount(self) -> None:
        """Unmount and mount the data in the guest (the cold state of mapped files); nothing to do for ``hfs``. Raises RunnerLost, RunnerError."""
        raise NotImplementedError

    def reset_scratch(self) -> None:
        """Empty the scratch, through the runner. Raises RunnerLost, RunnerError."""
        raise NotImplementedError

    def stop(self) -> None:
        """End guest and daemon at once (the data are read-only, the scratch disposable): no unit, socket, mount or file is left."""
        raise NotImplementedError


def boot(spec: BootSpec, paths: HostPaths, deadline_seconds: float = 60) -> Boot:
    """Start what ``spec`` asks for and wait until its runner answered and data and scratch are mounted.

    Raises BootError (guest_not_ready, guest_died, daemon_died, mount_failed, no_space, internal); nothing is left running then.
    """
    raise NotImplementedError


def attach(spec: BootSpec, paths: HostPaths) -> Boot | None:
    """The boot of exactly ``spec`` that still runs from an earlier call, reconnected to its runner; None where there is none that answers."""
    raise NotImplementedError


def sweep(paths: HostPaths) -> None:
    """End whatever a killed run left: units, mounts, sockets, scratch. A second call finds nothing to do."""
    raise NotImplementedError
