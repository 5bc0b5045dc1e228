"""What the parties of the memory ledger must add up to: an independent total, and the processes that are no party. All in bytes.

In a container only its own processes are visible. What they hold together is then told by the container's cgroup, which counts pages as they are
charged and knows nothing of parties; the rest of the machine's is outside.
"""

from __future__ import annotations

import os
from collections.abc import Collection
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path("/sys/fs/cgroup")
BOXED_GROUP: Final = Path(
    "/run/onecopy-memory"
)  # a box does not see the older memory controller: its own group is bound there
# include/linux/proc_ns.h: the number of the first PID namespace, in which every process is visible.
_FIRST_PID_NAMESPACE: Final = 0xEFFFFFFC
_SHOWN: Final = ("anon", "rss", "file", "cache", "shmem", "kernel", "sock", "mapped_file", "file_mapped")


def bystanders(parties: Collection[int], proc: Path = Path("/proc")) -> dict[str, int]:
    """Anonymous and shared memory of every visible process that is none of ``parties``, and how many they are.

    A page that several processes hold is counted in shares (Pss): forks have most of theirs in common.
    """
    count = anonymous = shared = 0
    for name in os.listdir(proc):
        if not name.isdigit() or int(name) in parties:
            continue
        try:
            held = _held(proc / name)
        except (FileNotFoundError, ProcessLookupError):  # it ended, or is a thread of the kernel
            continue
        count, anonymous, shared = count + 1, anonymous + held[0], shared + held[1]
    return {"processes": count, "anonymous_bytes": anonymous, "shared_bytes": shared}


def visible_total(proc: Path = Path("/proc"), root: Path = ROOT, boxed: Path = BOXED_GROUP) -> int | None:
    """Anonymous and shared memory of all visible processes, by the counters of their cgroup.

    None where that is the machine's: every process is visible, or no cgroup tells which part of the machine's memory is theirs.
    """
    if (proc / "self/ns/pid").stat().st_ino == _FIRST_PID_NAMESPACE:
        return None
    for group in (boxed, root):
        if (group / "memory.stat").exists():
            stat = _stat(group)
            # The older controller tells of a group's children in names of their own.
            return stat["total_rss"] + stat["total_shmem"] if "total_rss" in stat else stat["anon"] + stat["shmem"]
    return None


def cgroup_memory(pid: int, proc: Path = Path("/proc"), root: Path = ROOT) -> dict[str, Any] | None:
    """``path`` and chosen fields of memory.stat of a process's cgroup (v2, or v1's memory controller); None where there is none.

    To be shown, never summed: shared pages are charged to whoever touched them first.
    """
    group: Path | None = None
    for line in (proc / str(pid) / "cgroup").read_text("utf-8").splitlines():
        _, controllers, path = line.split(":", 2)
        base = root / "memory" if "memory" in controllers.split(",") else root if not controllers else None
        if base is not None and (base / path.lstrip("/") / "memory.stat").exists():
            group = base / path.lstrip("/")
    if group is None:
        return None
    stat = _stat(group)
    return {"path": str(group), **{f"{name}_bytes": stat[name] for name in _SHOWN if name in stat}}


def sizes(path: Path, names: Collection[str]) -> dict[str, int]:
    """The lines ``names`` (with their colons) of a file in /proc that gives them in kB."""
    words = (line.split() for line in path.read_text("utf-8", "replace").splitlines())
    return {word[0].rstrip(":"): int(word[1]) * 1024 for word in words if word and word[0] in names}


def _held(process: Path) -> tuple[int, int]:
    """Anonymous and shared memory of a process; in whole pages where its shares are not for us to see."""
    try:
        shares = sizes(process / "smaps_rollup", ("Pss_Anon:", "Pss_Shmem:"))
        return shares["Pss_Anon"], shares["Pss_Shmem"]
    except PermissionError:
        pages = sizes(process / "status", ("RssAnon:", "RssShmem:"))
        return pages["RssAnon"], pages["RssShmem"]


def _stat(group: Path) -> dict[str, int]:
    return {name: int(value) for name, value in map(str.split, (group / "memory.stat").read_text("ascii").splitlines())}
