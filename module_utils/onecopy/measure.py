"""What is counted around a workload: copies of the data's pages, memory of each party, and what crossed each layer."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .host_data import PARTS, READ_PARTS, DataSet, HostData
from .testbed import Boot
from .workloads import Workload

_CALL_SECONDS: Final = 60.0
_IO_NAMES: Final = {
    "rchar": "read_call_bytes",
    "wchar": "write_call_bytes",
    "syscr": "read_calls",
    "syscw": "write_calls",
    "read_bytes": "storage_read_bytes",
    "write_bytes": "storage_write_bytes",
}
_HOST_MEMORY: Final = (
    "MemTotal",
    "MemFree",
    "MemAvailable",
    "Buffers",
    "Cached",
    "Dirty",
    "Writeback",
    "AnonPages",
    "Mapped",
    "Shmem",
    "KReclaimable",
    "Slab",
    "SReclaimable",
    "SUnreclaim",
    "KernelStack",
    "PageTables",
    "SwapTotal",
    "SwapFree",
)
_DISTURBANCES: Final = {
    "drop_pagecache": "the host's page cache was dropped",
    "pswpin": "the host swapped in",
    "pswpout": "the host swapped out",
}
_IDLE: Final = ("idle", "iowait")


def copies(
    workload: Workload,
    dataset: DataSet,
    data: HostData,
    guest: Mapping[str, Mapping[str, int]] | None,
    daemon_pages: int = 0,
) -> dict[str, Any]:
    """``copies``, ``extra_pages`` and ``overhead_pages`` of one residency trial, after its workload.

    R is what the workload is defined to read, all of it (its bytes are asserted). ``guest``: residency of the held parts in the guest.
    """
    read = READ_PARTS[workload.reads.part]
    guest = guest or {}
    groups = {"all": read} | {name: tuple(part for part in read if part.endswith(name)) for name in ("large", "small")}
    counted = {
        name: {
            "accessed_pages": dataset.pages(parts),
            "host_pages": data.resident_pages(parts),
            "guest_pages": sum(guest[part]["resident_pages"] for part in parts if part in guest),
            "daemon_pages": daemon_pages if name == "all" else 0,
        }
        for name, parts in groups.items()
        if parts
    }
    outside = tuple(part for part in PARTS if part not in read)
    extra = data.resident_pages(outside) + sum(guest[part]["resident_pages"] for part in outside if part in guest)
    return {"copies": counted, "extra_pages": extra, "overhead_pages": data.overhead_pages()}


class Sample:
    """Counters of every party at one moment."""

    def __init__(self, boot: Boot, has_guest: bool) -> None:
        self.disturbances = host_disturbances()
        self.memory: dict[str, dict[str, int]] = {"host": host_memory()}
        self.counters: dict[str, dict[str, float]] = {}
        if has_guest:
            # Asked first, so that the asking itself is on this side of QEMU's and the daemon's counters.
            self.memory["guest"] = boot.runner.call("memory", _CALL_SECONDS)
            self.counters["guest"] = _flat_guest(boot.runner.call("counters", _CALL_SECONDS))
        for party, pid in (("qemu", boot.qemu_pid), ("daemon", boot.daemon_pid)):
            if pid is not None:
                self.memory[party] = process_memory(pid)
                self.counters[party] = process_counters(pid)


def ledger(before: Sample, after: Sample) -> dict[str, Any]:
    """Memory by party, in bytes: ``before`` and ``after`` the workload."""
    return {
        party: {"before": before.memory[party], "after": after.memory[party]}
        for party in before.memory
        if party in after.memory
    }


def io_path(before: Sample, after: Sample) -> dict[str, Any]:
    """What crossed each layer during the workload: the change of every counter."""
    return {
        party: {
            name: value - before.counters[party][name]
            for name, value in counters.items()
            if name in before.counters[party]
        }
        for party, counters in after.counters.items()
        if party in before.counters
    }


def disturbed(before: Sample, after: Sample) -> str | None:
    """One line when somebody else disturbed the host's page cache between the samples: that alone voids what was counted."""
    for name, what in _DISTURBANCES.items():
        times = after.disturbances.get(name, 0) - before.disturbances.get(name, 0)
        if times:
            return f"{what} during the trial ({name} rose by {times}): something else uses this machine"
    return None


def host_disturbances(text: str | None = None) -> dict[str, int]:
    """Counters of /proc/vmstat that stand still while nobody disturbs; those that this kernel has."""
    text = Path("/proc/vmstat").read_text(encoding="ascii") if text is None else text
    counters = dict(line.split() for line in text.splitlines())
    return {name: int(counters[name]) for name in _DISTURBANCES if name in counters}


def host_memory(text: str | None = None) -> dict[str, int]:
    """The lines of /proc/meminfo that the ledger needs, in bytes."""
    text = Path("/proc/meminfo").read_text(encoding="ascii") if text is None else text
    words = (line.split() for line in text.splitlines())
    found = {word[0].rstrip(":"): int(word[1]) * 1024 for word in words if word[2:] == ["kB"]}
    return {name: found[name] for name in _HOST_MEMORY if name in found}


def process_memory(pid: int) -> dict[str, int]:
    """Anonymous, file and shared resident bytes of a process, and what is really backed of the guest memory that it holds as a memfd.

    Not Rss: that counts pages of DAX windows, and shared memory in every process that maps it.
    """
    found = {}
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii", errors="replace").splitlines():
        name, _, value = line.partition(":")
        if name in ("RssAnon", "RssFile", "RssShmem"):
            found[name] = int(value.split()[0]) * 1024
    backed = _memfd_bytes(pid)
    return found | ({"guest_memory_backed": backed} if backed is not None else {})


def process_counters(pid: int) -> dict[str, float]:
    """System calls, bytes and CPU seconds of a process so far."""
    io = dict(line.split(": ") for line in Path(f"/proc/{pid}/io").read_text(encoding="ascii").splitlines())
    counters: dict[str, float] = {ours: int(io[theirs]) for theirs, ours in _IO_NAMES.items()}
    # The second field is the command in parentheses, and may hold spaces.
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace").rpartition(")")[2].split()
    per_second = os.sysconf("SC_CLK_TCK")
    faults_minor, faults_major, user, system = (int(fields[index]) for index in (7, 9, 11, 12))
    return counters | {
        "cpu_seconds": (user + system) / per_second,
        "minor_faults": faults_minor,
        "major_faults": faults_major,
    }


def _memfd_bytes(pid: int) -> int | None:
    directory = f"/proc/{pid}/fd"
    backed: dict[int, int] = {}
    for name in os.listdir(directory):
        path = f"{directory}/{name}"
        try:
            if os.readlink(path).startswith("/memfd:memory-backend"):
                status = os.stat(path)
                backed[status.st_ino] = status.st_blocks * 512
        except FileNotFoundError:
            continue
    return sum(backed.values()) if backed else None


def _flat_guest(counters: Mapping[str, Any]) -> dict[str, float]:
    """The runner's counters in one level: block devices added up, the root disk too; CPU seconds that are not idle."""
    flat: dict[str, float] = {}
    for device in counters["block"].values():
        for name, value in device.items():
            flat[name] = flat.get(name, 0) + value
    for name, value in counters["vmstat"].items():
        if not name.startswith("nr_"):
            flat[name] = value
    flat["cpu_seconds"] = sum(value for state, value in counters["cpu"].items() if state not in _IDLE)
    return flat
