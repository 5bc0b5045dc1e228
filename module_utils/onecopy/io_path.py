"""What crossed each layer between a workload and the disk: requests, bytes, faults and CPU seconds per layer, per byte wanted.

Counters only grow: take a snapshot before and after and subtract. One takes a few milliseconds.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import qemu

Counters = dict[str, dict[str, float]]

_PROCESS_IO: Final = {
    "rchar": "read_call_bytes",
    "wchar": "write_call_bytes",
    "syscr": "read_calls",
    "syscw": "write_calls",
    "read_bytes": "storage_read_bytes",
    "write_bytes": "storage_write_bytes",
}
_BLOCKSTATS: Final = {
    "rd_operations": "read_requests",
    "rd_bytes": "read_bytes",
    "wr_operations": "write_requests",
    "wr_bytes": "write_bytes",
    "flush_operations": "flush_requests",
}
_FUSE: Final = {
    "requests_total": "requests",
    "read_bytes": "read_bytes",
    "write_bytes": "write_bytes",
    "errors": "errors",
}
# By kind (hostfsd's name and FUSE's opcode), those that a read or a write is made of; all others are in ``requests`` alone.
_FUSE_REQUESTS: Final = (
    ("LOOKUP", 1, "lookup_requests"),
    ("GETATTR", 3, "getattr_requests"),
    ("OPEN", 14, "open_requests"),
    ("READ", 15, "read_requests"),
    ("WRITE", 16, "write_requests"),
    ("FSYNC", 20, "fsync_requests"),
    ("SETUPMAPPING", 48, "map_requests"),
    ("REMOVEMAPPING", 49, "unmap_requests"),
)
# Evidence that a host was disturbed, beside its own work.
_VMSTAT: Final = (
    "pgfault",
    "pgmajfault",
    "pswpin",
    "pswpout",
    "workingset_refault_file",
    "workingset_refault_anon",
    "oom_kill",
)
# What each layer read, by the counter that sees it: guest's disks, calls of QEMU and daemon, and the host's device below both.
MOVED: Final = (
    ("guest", "read_bytes"),
    ("qemu", "read_call_bytes"),
    ("daemon", "read_call_bytes"),
    ("qemu", "storage_read_bytes"),
    ("daemon", "storage_read_bytes"),
)
_CPU_STATES: Final = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
_IDLE: Final = ("idle", "iowait", "steal")
_TIMEOUT_SECONDS: Final = 5.0


@dataclass(frozen=True, slots=True)
class Guest:
    """One guest: its QEMU, its monitor socket, and the runner's ``counters``; what is None is left out."""

    qemu_pid: int
    qmp: Path | None = None
    counters: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class Daemon:
    """A file system daemon; ``stats`` is the socket on which hostfsd tells its counters."""

    pid: int
    stats: Path | None = None


def snapshot(guests: Sequence[Guest] = (), daemons: Sequence[Daemon] = (), store: Path | None = None) -> Counters:
    """Counters by layer: guest, qemu_block, qemu, fuse, daemon, store (the device under that path), host. Guests and daemons are summed.

    Raises FileNotFoundError or ProcessLookupError when a process is gone, OSError when a socket does not answer.
    """
    layers = {
        "guest": [guest_counters(guest.counters) for guest in guests if guest.counters is not None],
        "qemu_block": [block_counters(qemu.qmp(guest.qmp, "query-blockstats")) for guest in guests if guest.qmp],
        "qemu": [process_counters(guest.qemu_pid) for guest in guests],
        "fuse": [fuse_counters(ask(daemon.stats)) for daemon in daemons if daemon.stats],
        "daemon": [process_counters(daemon.pid) for daemon in daemons],
        "store": [device_counters(store)] if store else [],
        "host": [host_counters(Path("/proc/vmstat").read_text("ascii"), Path("/proc/stat").read_text("ascii"))],
    }
    return {layer: add_up(each) for layer, each in layers.items() if each}


def difference(before: Mapping[str, Mapping[str, float]], after: Mapping[str, Mapping[str, float]]) -> Counters:
    """The change of every counter that both snapshots have."""
    return {
        layer: {name: value - before[layer][name] for name, value in counters.items() if name in before[layer]}
        for layer, counters in after.items()
        if layer in before
    }


def moved_bytes(layers: Mapping[str, Mapping[str, float]]) -> float:
    """Bytes that all layers below a program read."""
    return sum(layers.get(layer, {}).get(counter, 0) for layer, counter in MOVED)


def amplification(change: Mapping[str, Mapping[str, float]], wanted_bytes: int) -> Counters:
    """Each layer's bytes and requests per byte that the workload wanted. Raises ValueError when it wanted none."""
    if wanted_bytes <= 0:
        raise ValueError("a workload that wants no bytes has no amplification")
    counted = ("_bytes", "_requests", "_calls", "_faults")
    return {
        layer: {
            name: value / wanted_bytes
            for name, value in counters.items()
            if name == "requests" or name.endswith(counted)
        }
        for layer, counters in change.items()
        if layer != "host"
    }


def process_counters(pid: int, proc: Path = Path("/proc")) -> dict[str, float]:
    """What process_totals has, and the CPU seconds by kind of thread too (``cpu_seconds_vcpu``, …)."""
    totals = process_totals(pid, proc)
    threads = _thread_seconds(proc / str(pid), pid)
    # Pool threads come and go: what is not a living thread's is theirs.
    threads["worker"] = threads.get("worker", 0.0) + max(0.0, totals["cpu_seconds"] - sum(threads.values()))
    return totals | {f"cpu_seconds_{kind}": seconds for kind, seconds in sorted(threads.items())}


def process_totals(pid: int, proc: Path = Path("/proc")) -> dict[str, float]:
    """System calls, bytes, faults and CPU seconds of a process so far."""
    directory = proc / str(pid)
    io = dict(line.split(": ") for line in (directory / "io").read_text("ascii").splitlines())
    counters: dict[str, float] = {ours: int(io[theirs]) for theirs, ours in _PROCESS_IO.items()}
    # The second field is the command in parentheses, and may hold spaces.
    fields = (directory / "stat").read_text("utf-8", "replace").rpartition(")")[2].split()
    counters["minor_faults"], counters["major_faults"] = int(fields[7]), int(fields[9])
    per_second = os.sysconf("SC_CLK_TCK")
    counters["cpu_seconds"] = (int(fields[11]) + int(fields[12])) / per_second
    counters["user_seconds"] = int(fields[11]) / per_second
    return counters


def thread_kind(name: str, is_main: bool) -> str:
    """vcpu, io, main, monitor or worker, by the name that QEMU gives its threads."""
    if name == "IO mon_iothread":
        return "monitor"
    if name.startswith("CPU "):
        return "vcpu"
    if name.startswith("IO "):
        return "io"
    return "main" if is_main else "worker"


def block_counters(answer: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """QEMU's block devices added up, from QMP's query-blockstats."""
    return add_up([{ours: device["stats"][theirs] for theirs, ours in _BLOCKSTATS.items()} for device in answer])


def fuse_counters(answer: Mapping[str, Any]) -> dict[str, float]:
    """FUSE requests that a daemon served, all and by kind, and pages that it keeps itself (``tail_pages``), from hostfsd's statistics."""
    counters: dict[str, float] = {ours: answer[theirs] for theirs, ours in _FUSE.items()}
    counters |= {ours: answer["requests"].get(theirs, 0) for theirs, _, ours in _FUSE_REQUESTS}
    return counters | {"tail_pages": (answer.get("window") or {}).get("tail_pages", 0)}


def guest_counters(counters: Mapping[str, Any]) -> dict[str, float]:
    """The runner's counters in one level: block devices added up (the root disk too), events, CPU seconds that are not idle, and where the
    guest counts them FUSE requests, all and by kind.
    """
    flat = add_up(list(counters["block"].values()))
    flat |= {name: value for name, value in counters["vmstat"].items() if not name.startswith("nr_")}
    flat["cpu_seconds"] = sum(value for state, value in counters["cpu"].items() if state not in _IDLE)
    if "fuse" in counters:
        sent = counters["fuse"]
        flat["fuse_requests"] = sum(sent.values())
        flat |= {f"fuse_{ours}": sent.get(str(opcode), 0) for _, opcode, ours in _FUSE_REQUESTS}
    return flat


def device_counters(path: Path) -> dict[str, float]:
    """Requests and bytes of the block device that a path lies on: the kit's own store, so nobody else's are in it."""
    device = os.stat(path).st_dev
    return disk_counters(Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat").read_text("ascii"))


def disk_counters(text: str) -> dict[str, float]:
    """One line of /sys/block/NAME/stat."""
    field = [int(word) for word in text.split()]
    return {
        "read_requests": field[0],
        "read_bytes": field[2] * 512,
        "write_requests": field[4],
        "write_bytes": field[6] * 512,
    }


def host_counters(vmstat: str, stat: str) -> dict[str, float]:
    """The whole machine: faults, swap, refaults; CPU seconds busy, in user mode (guests included) and stolen."""
    words = (line.split() for line in vmstat.splitlines())
    counters: dict[str, float] = {name: int(value) for name, value in words if name in _VMSTAT}
    ticks = dict(zip(_CPU_STATES, map(int, stat.partition("\n")[0].split()[1:]), strict=False))
    per_second = os.sysconf("SC_CLK_TCK")
    counters["cpu_seconds"] = sum(value for state, value in ticks.items() if state not in _IDLE) / per_second
    counters["user_seconds"] = (ticks["user"] + ticks["nice"]) / per_second
    counters["steal_seconds"] = ticks.get("steal", 0) / per_second
    return counters


def ask(path: Path) -> Any:
    """The one JSON line that a statistics socket answers. Raises OSError and ValueError."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT_SECONDS)
        connection.connect(str(path))
        with connection.makefile("rb") as stream:
            return json.loads(stream.readline())


def _thread_seconds(process: Path, pid: int) -> dict[str, float]:
    seconds: dict[str, float] = {}
    for thread in os.listdir(process / "task"):
        directory = process / "task" / thread
        try:
            kind = thread_kind((directory / "comm").read_text("utf-8", "replace").rstrip("\n"), int(thread) == pid)
            # Nanoseconds on a CPU; the ticks of stat are too coarse for a single trial.
            used = int((directory / "schedstat").read_text("ascii").split()[0]) / 1e9
        except (FileNotFoundError, ProcessLookupError):
            continue
        seconds[kind] = seconds.get(kind, 0.0) + used
    return seconds


def add_up(each: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Counters of several parties of one kind, summed by name."""
    total: dict[str, float] = {}
    for counters in each:
        for name, value in counters.items():
            total[name] = total.get(name, 0) + value
    return total
