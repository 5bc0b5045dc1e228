"""The store's device slowed down to that of another class, alike for every system: all images and shares lie on it.

Bandwidth and requests are limited, by the kernel's block throttling: with cgroup v1 for the device as a whole, with v2 for the kit's slice.
That is no model of a disk: it does not seek, so a limited device is faster than a real one wherever reads are scattered.
``python3 -m onecopy.device_limit`` takes a limit away; the run's unit calls it when it ends.
"""

from __future__ import annotations

import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from .commands import CommandError, run
from .paths import MACHINE

AS_IS: Final = "as_is"
_SLICE: Final = "onecopy.slice"
_CGROUPS: Final = Path("/sys/fs/cgroup")
# Which device is limited. It belongs to the machine, as loop devices do: a box that is killed leaves its limit behind.
_MARK: Final = MACHINE / "device_limit"
_PROBE_BYTES: Final = 1 << 20
_PROBE_SECONDS: Final = 0.5


class DeviceLimitError(Exception):
    """This host cannot limit a device; one line with the reason."""


@dataclass(frozen=True, slots=True)
class Limit:
    """Bytes and requests per second, of reads and of writes."""

    bytes: int
    requests: int


# A hard disk's requests are those of a sequential read with the kernel's readahead of 128 KiB.
PROFILES: Final = {
    "hdd": Limit(150_000_000, 1_200),
    "sata": Limit(500_000_000, 90_000),
    "nvme": Limit(3_000_000_000, 500_000),
}


def limit(path: Path, profile: str) -> None:
    """Slow the device below ``path`` down until ``lift``. Raises DeviceLimitError."""
    device = os.stat(path).st_dev
    _MARK.parent.mkdir(parents=True, exist_ok=True)
    _MARK.write_text(str(device), encoding="ascii")
    _set(device, PROFILES[profile])


def lift() -> None:
    """Take the limit away, also one of a run that was killed; nothing to do where there is none. Raises DeviceLimitError."""
    try:
        device = int(_MARK.read_text(encoding="ascii"))
    except (FileNotFoundError, ValueError):
        return
    _set(device, None)
    _MARK.unlink()


def probe(directory: Path) -> tuple[bool, str]:
    """Whether a limit slows reads of a loop device down, found by trying on one made from a file in ``directory``; and why not."""
    try:
        with _loop_device(directory) as node:
            device = os.stat(node).st_rdev
            free = _read_seconds(node)
            _set(device, Limit(int(_PROBE_BYTES / _PROBE_SECONDS), 1_000_000))
            try:
                limited = _read_seconds(node)
            finally:
                _set(device, None)
    except (DeviceLimitError, CommandError, OSError) as error:
        return False, " ".join(str(error).split())
    if limited - free < _PROBE_SECONDS / 2:
        return (
            False,
            f"a limit of the kernel's block throttling has no effect: {free:.2f} s without, {limited:.2f} s with it",
        )
    return True, ""


def _set(device: int, wanted: Limit | None) -> None:
    try:
        if "io" in _unified_controllers():
            run(slice_argv(device, wanted))
        else:
            with _blkio() as group:
                for name, value in legacy_rules(device, wanted).items():
                    (group / name).write_text(value, encoding="ascii")
    except (CommandError, OSError) as error:
        raise DeviceLimitError(f"the device cannot be limited: {' '.join(str(error).split())}") from error


def slice_argv(device: int, wanted: Limit | None) -> list[str]:
    """The exact command for cgroup v2: systemd keeps the slice's rules; an empty one takes them all away."""
    node = f"/dev/block/{os.major(device)}:{os.minor(device)}"
    rules = []
    for name in ("Read", "Write"):
        rules.append(f"IO{name}BandwidthMax={f'{node} {wanted.bytes}' if wanted else ''}")
        rules.append(f"IO{name}IOPSMax={f'{node} {wanted.requests}' if wanted else ''}")
    return ["systemctl", "set-property", "--runtime", _SLICE, *rules]


def legacy_rules(device: int, wanted: Limit | None) -> dict[str, str]:
    """File of the root group → what to write, for cgroup v1: zero takes a rule away."""
    number = f"{os.major(device)}:{os.minor(device)}"
    rules = {}
    for way in ("read", "write"):
        rules[f"blkio.throttle.{way}_bps_device"] = f"{number} {wanted.bytes if wanted else 0}"
        rules[f"blkio.throttle.{way}_iops_device"] = f"{number} {wanted.requests if wanted else 0}"
    return rules


def _unified_controllers() -> list[str]:
    try:
        return (_CGROUPS / "cgroup.controllers").read_text(encoding="ascii").split()
    except FileNotFoundError:
        return []


@contextmanager
def _blkio() -> Iterator[Path]:
    """The root group of the blkio hierarchy, mounted for the moment: a box does not have it mounted."""
    with tempfile.TemporaryDirectory(prefix="onecopy-blkio-") as place:
        run(["mount", "-t", "cgroup", "-o", "blkio", "onecopy-blkio", place])
        try:
            yield Path(place)
        finally:
            run(["umount", place])


@contextmanager
def _loop_device(directory: Path) -> Iterator[str]:
    with tempfile.NamedTemporaryFile(dir=directory, prefix="device-probe-") as file:
        file.truncate(_PROBE_BYTES)
        node = run(["losetup", "--find", "--show", file.name]).strip()
        try:
            yield node
        finally:
            run(["losetup", "--detach", node])


def _read_seconds(node: str) -> float:
    """Time of reading the device from a process of the kit's slice, where a limit would hold."""
    started = time.monotonic()
    dd = ["dd", f"if={node}", "of=/dev/null", "bs=64K", "iflag=direct", "status=none"]
    run(["systemd-run", "--quiet", "--wait", "--collect", f"--slice={_SLICE}", *dd])
    return time.monotonic() - started


if __name__ == "__main__":
    try:
        lift()
    except DeviceLimitError as problem:
        sys.exit(str(problem))
