"""Host settings and counters that bear on duplication, read from /proc and /sys."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final

from .audit_processes import PROC, Mapping, OpenFile, mappings
from .ledger import read_meminfo

_KSM: Final = Path("/sys/kernel/mm/ksm")
_THP: Final = Path("/sys/kernel/mm/transparent_hugepage")
_KSM_COUNTERS: Final = (
    "run",
    "pages_shared",
    "pages_sharing",
    "pages_unshared",
    "full_scans",
    "pages_to_scan",
    "sleep_millisecs",
    "ksm_zero_pages",
)


def chosen(text: str) -> str | None:
    """``always [madvise] never`` → madvise."""
    found = re.search(r"\[(\S+)\]", text)
    return found[1] if found else None


def memory() -> dict[str, int]:
    """Total, free, available and cached memory of this host, in bytes."""
    found = read_meminfo((PROC / "meminfo").read_text(encoding="ascii"))
    names = {
        "MemTotal": "total",
        "MemFree": "free",
        "MemAvailable": "available",
        "Cached": "cached",
        "Buffers": "buffers",
        "Shmem": "shmem",
    }
    return {f"{short}_bytes": found[name] for name, short in names.items() if name in found}


def ksm() -> dict[str, int]:
    """KSM's counters; empty where the kernel has none."""
    return {name: int(text) for name in _KSM_COUNTERS if (text := _read(_KSM / name)) is not None}


def thp() -> dict[str, str]:
    """Transparent huge pages: what is chosen for anonymous and for shared memory."""
    answers = {
        "enabled": _read(_THP / "enabled"),
        "defrag": _read(_THP / "defrag"),
        "shmem_enabled": _read(_THP / "shmem_enabled"),
    }
    return {name: value for name, text in answers.items() if text and (value := chosen(text))}


def ksm_merged_bytes(pid: int) -> int | None:
    """Bytes of a process that KSM has merged; None where the kernel (before 6.1) does not tell."""
    text = _read(PROC / str(pid) / "ksm_merging_pages")
    return int(text) * os.sysconf("SC_PAGE_SIZE") if text is not None else None


def mappings_of(pid: int) -> list[Mapping]:
    """The process's mappings with their resident bytes. Raises OSError where they may not be read."""
    return mappings((PROC / str(pid) / "smaps").read_text(encoding="utf-8", errors="surrogateescape"))


def backed_bytes(sizes: list[int], found: list[Mapping], files: list[OpenFile]) -> int | None:
    """How much guest memory is really backed, swapped pages included: None where its mapping is not found.

    ``sizes`` are those of the guest's memory objects. Memory in a file or memfd counts by its allocated blocks (whoever
    touched it), private memory by its mapping of exactly that size.
    """
    total = 0
    for size in sizes:
        allocated = [
            one.allocated
            for one in files
            if one.size == size and one.name.startswith(("/memfd:", "/dev/shm/", "/dev/hugepages"))
        ]
        mapped = [one.rss + one.swap for one in found if one.size == size]
        if not allocated and not mapped:
            return None
        total += max(allocated or mapped)
    return total


def window_mappings(found: list[Mapping], memory_paths: set[str]) -> list[Mapping]:
    """Regular files that a QEMU maps shared beside its guest's memory: the live ranges of a DAX window."""
    return [
        one
        for one in found
        if one.shared and one.key and one.name.startswith("/") and not _is_memory(one.name, memory_paths)
    ]


def _is_memory(name: str, memory_paths: set[str]) -> bool:
    return name.startswith(("/memfd:", "/dev/", "/SYSV")) or name.removesuffix(" (deleted)") in memory_paths


def file_systems(pid: int) -> dict[int, str]:
    """Mount id → file-system type, as that process sees them; empty when it is gone."""
    text = _read(PROC / str(pid) / "mountinfo") or ""
    return {int(line.split()[0]): line.split(" - ", 1)[1].split()[0] for line in text.splitlines() if " - " in line}


def host() -> dict[str, Any]:
    """Name and kernel of this host, its memory, KSM and THP."""
    kernel = os.uname()
    return {"name": kernel.nodename, "kernel": kernel.release, "memory": memory(), "ksm": ksm(), "thp": thp()}


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return None
