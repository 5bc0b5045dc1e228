"""What is counted around a workload: copies of the data's pages, memory of each party, and what crossed each layer."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .host_data import PARTS, READ_PARTS, DataSet, HostData
from .io_path import difference, process_totals
from .ledger import memfd_bytes, read_meminfo, resident
from .testbed import Boot
from .workloads import Workload

_CALL_SECONDS: Final = 60.0
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
    """``copies``, ``extra_pages``, ``overhead_pages`` and ``reclaimed_pages`` of one residency trial, after its workload.

    R is what the workload is defined to read, all of it (its bytes are asserted). Of ``some`` nobody knows it: after a cold start R is at
    least what the party holds that holds most, and a part of which nobody holds a page is left out. ``guest``: residency of the held parts in the guest.
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
    # Where the path does not use the host's cache, what the kernel remembers is from before this trial.
    reclaimed = data.reclaimed_pages(read) if counted["all"]["host_pages"] else 0
    if workload.reads.part == "some":
        for count in counted.values():
            count["accessed_pages"] = max(count[party] for party in ("host_pages", "guest_pages", "daemon_pages"))
        counted = {name: count for name, count in counted.items() if count["accessed_pages"]}
    outside = tuple(part for part in PARTS if part not in read)
    extra = data.resident_pages(outside) + sum(guest[part]["resident_pages"] for part in outside if part in guest)
    return {
        "copies": counted,
        "extra_pages": extra,
        "overhead_pages": data.overhead_pages(),
        "reclaimed_pages": reclaimed,
    }


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
                self.counters[party] = process_totals(pid)


def ledger(before: Sample, after: Sample) -> dict[str, Any]:
    """Memory by party, in bytes: ``before`` and ``after`` the workload."""
    return {
        party: {"before": before.memory[party], "after": after.memory[party]}
        for party in before.memory
        if party in after.memory
    }


def io_path(before: Sample, after: Sample) -> dict[str, Any]:
    """What crossed each layer during the workload: the change of every counter."""
    return difference(before.counters, after.counters)


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
    found = read_meminfo(text)
    return {name: found[name] for name in _HOST_MEMORY if name in found}


def process_memory(pid: int) -> dict[str, int]:
    """Anonymous, file and shared resident bytes of a process, and what is really backed of the guest memory that it holds as a memfd."""
    process = Path(f"/proc/{pid}")
    memfds = memfd_bytes(process)
    return resident(process) | ({"guest_memory_backed": memfds[1]} if memfds else {})


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
