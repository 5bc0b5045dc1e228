"""What the kernel under the runner tells: memory, counters, busy time, and what may make one guest differ from another."""

from __future__ import annotations

import os
from typing import Any

_VMSTAT = frozenset(
    {
        "pgpgin",
        "pgpgout",
        "pgfault",
        "pgmajfault",
        "pgscan_kswapd",
        "pgscan_direct",
        "pgsteal_kswapd",
        "pgsteal_direct",
        "workingset_refault_file",
        "workingset_activate_file",
        "pswpin",
        "pswpout",
        "nr_dirty",
        "nr_writeback",
    }
)
_STORAGE = frozenset({"ext4", "erofs", "virtiofs"})
_SETTINGS = {
    "thp_enabled": "/sys/kernel/mm/transparent_hugepage/enabled",
    "thp_shmem_enabled": "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
    "mglru": "/sys/kernel/mm/lru_gen/enabled",
    "swappiness": "/proc/sys/vm/swappiness",
    "fuse_max_pages_limit": "/proc/sys/fs/fuse/max_pages_limit",
}


def facts() -> dict[str, Any]:
    """What may make one guest differ from another: mounts with their readahead, settings of memory management, swap."""
    return {
        "mounts": [
            {"source": source, "target": target, "fstype": fstype, "options": options, **_read_ahead(target)}
            for source, target, fstype, options in (line.split()[:4] for line in read("/proc/self/mounts").splitlines())
            if fstype in _STORAGE
        ],
        "settings": {name: text for name, path in _SETTINGS.items() if (text := _setting(path)) is not None},
        "swaps": len(read("/proc/swaps").splitlines()) - 1,
    }


def memory() -> dict[str, Any]:
    """/proc/meminfo in bytes; what is no size (HugePages_Total, …) is left out."""
    words = (line.split() for line in read("/proc/meminfo").splitlines())
    return {word[0].rstrip(":"): int(word[1]) * 1024 for word in words if word[2:] == ["kB"]}


def counters() -> dict[str, Any]:
    """What crossed the block layer, chosen events of the memory manager, and CPU seconds by state."""
    block = {}
    for device in sorted(os.listdir("/sys/block")):
        field = [int(word) for word in read(f"/sys/block/{device}/stat").split()]
        if field[0] or field[4]:
            block[device] = {
                "read_requests": field[0],
                "read_bytes": field[2] * 512,
                "write_requests": field[4],
                "write_bytes": field[6] * 512,
            }
    vmstat = {
        name: int(value)
        for name, value in (line.split() for line in read("/proc/vmstat").splitlines())
        if name in _VMSTAT
    }
    ticks = read("/proc/stat").partition("\n")[0].split()[1:]
    states = ("user", "nice", "system", "idle", "iowait", "irq", "softirq", "steal")
    per_second = os.sysconf("SC_CLK_TCK")
    return {
        "block": block,
        "vmstat": vmstat,
        "cpu": {state: int(tick) / per_second for state, tick in zip(states, ticks, strict=False)},
    }


def busy_seconds(text: str | None = None) -> float | None:
    """Seconds since boot in which the only CPU worked for anybody, interrupts included, to the nanosecond.

    None with several CPUs, of which the idle ones do not tell how long they have been so.
    """
    if text is None:
        try:
            text = read("/proc/timer_list")
        except OSError:
            return None
    now, idle, cpus = 0, 0, 0
    for line in text.splitlines():
        if line.startswith("now at "):
            now = int(line.split()[2])
        elif line.startswith("cpu: "):
            cpus += 1
        elif line.startswith(("  .idle_sleeptime", "  .iowait_sleeptime")):
            idle += int(line.split(":")[1].split()[0])
    return (now - idle) / 1e9 if cpus == 1 else None


def set_read_ahead(target: str, kib: int) -> None:
    """Set the readahead of what is mounted at ``target``. Raises OSError."""
    with open(_bdi(target), "w", encoding="ascii") as file:
        file.write(str(kib))


def read(path: str) -> str:
    """A file of /proc or /sys."""
    with open(path, encoding="utf-8", errors="replace") as file:
        return file.read()


def _read_ahead(target: str) -> dict[str, int]:
    """Readahead of what is mounted there; empty where nobody tells it."""
    try:
        return {"read_ahead_kb": int(read(_bdi(target)))}
    except OSError:
        return {}


def _bdi(target: str) -> str:
    number = os.stat(target).st_dev
    return f"/sys/class/bdi/{os.major(number)}:{os.minor(number)}/read_ahead_kb"


def _setting(path: str) -> str | None:
    """A setting; of a choice such as ``always [madvise] never``, the chosen one. None where this kernel does not have it."""
    try:
        text = read(path).strip()
    except OSError:
        return None
    return text.partition("[")[2].partition("]")[0] or text
