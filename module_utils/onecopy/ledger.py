"""The memory ledger: used, cache and free of every party, T = ΣU + ΣC + ΣF, and what a change leaves unexplained. All in bytes.

A snapshot takes some 40 milliseconds, 100 in a machine that is a guest itself, most of which it waits, so that it can stand around every trial.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from .bystanders import bystanders, cgroup_memory, sizes, visible_total

PAGE_SIZE: Final = 4096
REMAINDER_BYTES: Final = 8 << 20
REMAINDER_SHARE: Final = 0.05
_READINGS: Final = 3
# A machine that is a guest itself may take free pages off its lists while it reports them to its hypervisor: 32 blocks of 2 MiB for 23 ms, seen
# here, and twice in a row. No counter has them meanwhile.
_READINGS_OF_A_REPORTER: Final = 8
_PAUSE_SECONDS: Final = 0.012
# What QEMU and hostfsd call their memfds.
_GUEST_MEMORY: Final = "memory-backend"
_TAILS: Final = "hostfsd-tail"
_KSM: Final = ("pages_shared", "pages_sharing", "pages_unshared", "ksm_zero_pages", "full_scans")

Snapshot = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Guest:
    """One guest: its QEMU, and its own /proc/meminfo in bytes where it was asked (the runner's ``memory``)."""

    qemu_pid: int
    meminfo: Mapping[str, int] | None = None


def snapshot(guests: Sequence[Guest] = (), daemons: Sequence[int] = (), proc: Path = Path("/proc")) -> Snapshot:
    """Every party now. ``host`` has the parts of MemTotal; ``guests`` and ``daemons`` are in the order given.

    ``others``: processes that are no party; ``visible_bytes``: what all visible processes hold by a counter that knows of no party;
    ``cgroups``: memory.stat of the parties that have a cgroup with one, by process id. Raises FileNotFoundError or ProcessLookupError when a
    process is gone.
    """
    ksm = Path("/sys/kernel/mm/ksm")
    host, visible = _settled(proc)
    parties = [guest.qemu_pid for guest in guests] + list(daemons)
    taken: Snapshot = {
        "host": host,
        "visible_bytes": visible,
        "ksm": {name: int((ksm / name).read_text("ascii")) for name in _KSM if (ksm / name).exists()},
        "guests": [guest_parts(guest, proc) for guest in guests],
        "daemons": [{"used_bytes": daemon_bytes(proc / str(pid))} for pid in daemons],
        "others": bystanders(parties, proc),
    }
    cgroups = {str(pid): found for pid in parties if (found := cgroup_memory(pid, proc)) is not None}
    return taken | ({"cgroups": cgroups} if cgroups else {})


def _settled(proc: Path) -> tuple[dict[str, int], int]:
    """The host's parts and what the visible processes hold, from a moment at which hardly any page was on its way between two counters."""
    readings = []
    for number in range(_READINGS_OF_A_REPORTER if reports_free_pages() else _READINGS):
        if number:
            time.sleep(_PAUSE_SECONDS)
        host = host_parts(
            read_meminfo((proc / "meminfo").read_text("ascii")),
            free_in_cpu_lists((proc / "zoneinfo").read_text("ascii")),
        )
        total = visible_total(proc)
        readings.append((host, host["process_bytes"] if total is None else total))
    # Not the least: pages may also be counted twice on their way.
    return sorted(readings, key=lambda reading: _uncounted(reading[0]))[1]


def reports_free_pages(devices: Path = Path("/sys/bus/virtio/devices")) -> bool:
    """Whether this machine has a balloon that reports free pages (VIRTIO_BALLOON_F_REPORTING, the sixth bit)."""
    return any(
        (device / "device").read_text("ascii").strip() == "0x0005"
        and (device / "features").read_text("ascii")[5] == "1"
        for device in devices.glob("*")
    )


def _uncounted(host: Mapping[str, int]) -> int:
    return host["total_bytes"] - sum(host[f"{part}_bytes"] for part in ("free", "cache", "process", "kernel"))


def ledger(taken: Snapshot) -> dict[str, Any]:
    """The paper's table of one snapshot: ``total_bytes`` of the machine and used, cache and free by party, which add up to it.

    A guest's free memory is what of it the host really backs; its cache is its own. The host's used excludes guests and daemons.
    """
    host = taken["host"]
    parties: dict[str, Any] = {"guests": [], "qemu": [], "daemons": list(taken["daemons"])}
    for guest in taken["guests"]:
        cache, free = guest.get("cache_bytes", 0), guest.get("free_bytes", 0)
        # Of what the guest holds free it may never have touched most: what is backed beyond its used memory was freed, and not given back.
        free_backed = max(0, guest["backed_bytes"] - (guest["ram_bytes"] - free)) if free else 0
        cache = min(cache, guest["backed_bytes"] - free_backed)
        used = guest["backed_bytes"] - cache - free_backed
        parties["guests"].append({"used_bytes": used, "cache_bytes": cache, "free_bytes": free_backed})
        parties["qemu"].append({"used_bytes": guest["qemu_bytes"]})
    others = sum(sum(party.values()) for kind in parties.values() for party in kind)
    used = host["total_bytes"] - host["cache_bytes"] - host["free_bytes"] - others + _merged(taken)
    parties["host"] = {"used_bytes": used, "cache_bytes": host["cache_bytes"], "free_bytes": host["free_bytes"]}
    return {"total_bytes": host["total_bytes"], "merged_bytes": _merged(taken), **parties}


def difference(before: Snapshot, after: Snapshot) -> dict[str, int]:
    """What became of the host's memory between two snapshots of the same parties, each part by a counter of its own.

    ``remainder_bytes`` = ``used_and_cache_bytes`` (by the free lists) - the sum of the parts: what nobody accounts for.
    ``others_bytes`` are anonymous and shared pages of visible processes that are no party. ``outside_bytes`` are those of processes that a
    container does not see: the machine's less what the container's cgroup counts, so that a party that is wrong is not hidden in them.
    """
    host = {name: after["host"][name] - before["host"][name] for name in after["host"]}
    parts = {
        "cache_bytes": host["cache_bytes"],
        "kernel_bytes": host["kernel_bytes"],
        "guest_memory_bytes": _sum(after["guests"], "backed_bytes") - _sum(before["guests"], "backed_bytes"),
        "qemu_bytes": _sum(after["guests"], "qemu_bytes") - _sum(before["guests"], "qemu_bytes"),
        "daemon_bytes": _sum(after["daemons"], "used_bytes") - _sum(before["daemons"], "used_bytes"),
        # Every process counts a merged page as its own: what merging saved must go off once.
        "merged_bytes": _merged(before) - _merged(after),
        "others_bytes": _others(after) - _others(before),
        "outside_bytes": host["process_bytes"] - (after["visible_bytes"] - before["visible_bytes"]),
    }
    change = -host["free_bytes"]
    return {"used_and_cache_bytes": change, **parts, "remainder_bytes": change - sum(parts.values())}


def is_closed(change: Mapping[str, int], dataset_bytes: int) -> bool:
    """Whether the unexplained remainder is at most 8 MiB or 5 % of the data set, whichever is more."""
    return abs(change["remainder_bytes"]) <= max(REMAINDER_BYTES, REMAINDER_SHARE * dataset_bytes)


def read_meminfo(text: str) -> dict[str, int]:
    """/proc/meminfo in bytes; counts that are no sizes (HugePages_Total) are left out."""
    words = (line.split() for line in text.splitlines())
    return {word[0].rstrip(":"): int(word[1]) * 1024 for word in words if word[2:] == ["kB"]}


def free_in_cpu_lists(zoneinfo: str) -> int:
    """Free bytes in the CPUs' own lists: MemFree does not count them, and since Linux 6.7 they grow to hundreds of MiB."""
    words = (line.split() for line in zoneinfo.splitlines())
    return sum(int(word[1]) for word in words if len(word) == 2 and word[0] == "count:") * PAGE_SIZE


def host_parts(meminfo: Mapping[str, int], cpu_lists_bytes: int) -> dict[str, int]:
    """Parts of a machine's memory: ``total``, ``free``, ``cache`` (page cache and reclaimable slab), ``process`` (anonymous, shared), ``kernel``."""
    shmem = meminfo["Shmem"]
    kernel = (
        "SUnreclaim",
        "PageTables",
        "SecPageTables",
        "Percpu",
        "VmallocUsed",
        "Hugetlb",
        "Bounce",
        "WritebackTmp",
        "Balloon",
    )
    return {
        "total_bytes": meminfo["MemTotal"],
        "free_bytes": meminfo["MemFree"] + cpu_lists_bytes,
        "cache_bytes": _cache(meminfo),
        "page_cache_bytes": meminfo["Cached"] - shmem + meminfo["Buffers"],
        "process_bytes": meminfo["AnonPages"] + shmem,
        # Kernel stacks are in VmallocUsed; KReclaimable holds more than slabs.
        "kernel_bytes": sum(meminfo.get(name, 0) for name in kernel),
        "available_bytes": meminfo["MemAvailable"],
        "dirty_bytes": meminfo.get("Dirty", 0) + meminfo.get("Writeback", 0),
        "swap_used_bytes": meminfo["SwapTotal"] - meminfo["SwapFree"],
    }


def guest_parts(guest: Guest, proc: Path = Path("/proc")) -> dict[str, int]:
    """One guest: ``ram_bytes`` that it was given, ``backed_bytes`` of them that the host really holds, ``qemu_bytes`` apart from them.

    Where the guest was asked: ``total``, ``free`` and ``cache`` as it sees them.
    """
    directory = proc / str(guest.qemu_pid)
    anonymous = resident(directory)["RssAnon"]
    memory = memfd_bytes(directory, _GUEST_MEMORY)
    if memory is None:
        memory = largest_anonymous((directory / "smaps").read_text("utf-8", "replace"))
        # Private memory is part of QEMU's anonymous memory.
        anonymous -= memory[1]
    parts = {"ram_bytes": memory[0], "backed_bytes": memory[1], "qemu_bytes": anonymous}
    return parts if guest.meminfo is None else parts | told(guest.meminfo)


def told(meminfo: Mapping[str, int]) -> dict[str, int]:
    """``total``, ``free`` and ``cache`` of a guest as it sees them, from its own /proc/meminfo."""
    return {
        "total_bytes": meminfo["MemTotal"],
        "free_bytes": meminfo["MemFree"],
        "cache_bytes": _cache(meminfo),
    }


def resident(process: Path) -> dict[str, int]:
    """RssAnon, RssFile and RssShmem of a process. Not Rss: that counts pages of DAX windows, and shared memory in every process."""
    return sizes(process / "status", ("RssAnon:", "RssFile:", "RssShmem:"))


def daemon_bytes(process: Path) -> int:
    """What a daemon holds: its anonymous memory and, with hostfsd, the last pages of files, which its guest maps and it does not."""
    tails = memfd_bytes(process, _TAILS)
    return resident(process)["RssAnon"] + (tails[1] if tails else 0)


def memfd_bytes(process: Path, name: str) -> tuple[int, int] | None:
    """Size and allocated bytes of a process's memfds whose names begin with ``name``; None where it has none."""
    found: dict[int, tuple[int, int]] = {}
    for number in os.listdir(process / "fd"):
        path = process / "fd" / number
        try:
            if os.readlink(path).startswith(f"/memfd:{name}"):
                status = os.stat(path)
                found[status.st_ino] = (status.st_size, status.st_blocks * 512)
        except FileNotFoundError:
            continue
    if not found:
        return None
    return sum(size for size, _ in found.values()), sum(backed for _, backed in found.values())


def largest_anonymous(smaps: str) -> tuple[int, int]:
    """Size and resident bytes of a process's largest mapping without a file: guest memory, where that is private."""
    largest = found = 0
    candidate = False
    for line in smaps.splitlines():
        words = line.split()
        if "-" in words[0] and not words[0].endswith(":"):
            candidate = len(words) < 6 or words[5].startswith("[anon")
        elif candidate and words[0] == "Size:":
            candidate = int(words[1]) > largest
            largest = max(largest, int(words[1]))
        elif candidate and words[0] == "Rss:":
            found = int(words[1]) * 1024
    return largest * 1024, found


def _cache(meminfo: Mapping[str, int]) -> int:
    return (
        meminfo["Cached"] - meminfo["Shmem"] + meminfo["Buffers"] + meminfo.get("KReclaimable", meminfo["SReclaimable"])
    )


def _merged(taken: Snapshot) -> int:
    return int(taken["ksm"].get("pages_sharing", 0)) * PAGE_SIZE


def _sum(parties: Sequence[Mapping[str, int]], name: str) -> int:
    return sum(party[name] for party in parties)


def _others(taken: Snapshot) -> int:
    return int(taken["others"]["anonymous_bytes"] + taken["others"]["shared_bytes"])
