"""Cgroups of one's own on a machine without systemd: unified, hybrid or legacy layout."""

from __future__ import annotations

import contextlib
import errno
import os
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")


def hierarchies(root: Path = ROOT) -> list[Path]:
    """Return the hierarchies a container needs a group in: the unified one; on hybrid machines systemd's and v1 memory too."""
    if (root / "cgroup.controllers").exists():
        return [root]
    return [path for path in (root / "unified", root / "systemd", root / "memory") if (path / "cgroup.procs").exists()]


def create(name: str, memory_mib: int = 0, root: Path = ROOT) -> list[Path]:
    """Make the group ``name`` in every hierarchy, with a memory limit where one is wanted and the machine has the controller."""
    groups = []
    for hierarchy in hierarchies(root):
        group = hierarchy / name
        group.mkdir(exist_ok=True)
        for limit in ("memory.max", "memory.limit_in_bytes"):
            if memory_mib and (group / limit).exists():
                (group / limit).write_text(str(memory_mib << 20))
        groups.append(group)
    return groups


def memory_group(groups: Sequence[Path]) -> Path | None:
    """Return the one of ``groups`` whose memory the kernel counts."""
    return next((group for group in groups if (group / "memory.stat").exists()), None)


def join(groups: Sequence[Path]) -> None:
    """Put the calling process into ``groups``."""
    for group in groups:
        (group / "cgroup.procs").write_text(str(os.getpid()))


def _tree(group: Path) -> list[Path]:
    return [Path(path) for path, _, _ in os.walk(group, topdown=False)]


def members(name: str, root: Path = ROOT) -> list[int]:
    """Return the pids of every process in the group ``name`` or below it."""
    pids: set[int] = set()
    for hierarchy in hierarchies(root):
        for group in _tree(hierarchy / name):
            pids.update(_processes(group))
    return sorted(pids)


def _processes(group: Path) -> list[int]:
    """The pids in ``group`` itself; none where it is gone: a systemd in it that is ending removes its own groups meanwhile."""
    try:
        return [int(pid) for pid in (group / "cgroup.procs").read_text().split()]
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
        return []


def kill(name: str, root: Path = ROOT) -> None:
    """End every process in the group ``name``: nothing else can be in it."""
    for pid in members(name, root):
        try:
            os.kill(pid, 9)
        except ProcessLookupError:
            continue


def remove(name: str, root: Path = ROOT, wait_seconds: float = 5.0) -> list[str]:
    """End what is left in the group ``name`` and remove it everywhere; return the hierarchies it was removed from."""
    removed = []
    deadline = time.monotonic() + wait_seconds
    for hierarchy in hierarchies(root):
        if not (hierarchy / name).is_dir():
            continue
        while members(name, root) and time.monotonic() < deadline:
            kill(name, root)
            time.sleep(0.02)
        for group in _tree(hierarchy / name):
            with contextlib.suppress(FileNotFoundError):
                group.rmdir()
        removed.append(str(hierarchy / name))
    return removed
