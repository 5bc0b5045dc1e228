"""Guests that boot from the storage path under test and execute programs from it: who holds the pages of what was executed, and what was asked for."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Mapping
from typing import Any, Final

from .. import cachestat, io_path
from ..systems import System
from .scene import Probe, Probed, ProbeError, Scene

_CALL_SECONDS: Final = 60.0
_PAGE: Final = cachestat.PAGE_SIZE
_PARTS: Final = ("a/large", "a/small")
# Essential programs of the guests' root, and an interpreter with some of its library.
_PROGRAMS: Final = (
    ("python3", "-c", "import asyncio, ctypes, decimal, email.message, json"),
    ("bash", "-c", "true"),
    ("perl", "-e", "1"),
    ("dpkg", "--version"),
    ("tar", "--version"),
    ("grep", "--version"),
    ("find", "/etc", "-maxdepth", "1"),
)


def run(scene: Scene) -> Probed:
    """Metrics when the guests have booted (``booted``), and when each has executed some programs (``executed``), once ``more`` at the end.

    ``held_bytes``: what host, guests and daemons hold of the root, all copies; ``copies_ratio``: by what the party holds that holds most, which is
    what the guests used and what was read ahead (the host's cache was cold when they started). ``crossed_bytes``: read by QEMU's disks or the
    daemon; ``requests_count``: of the disks or of hostfsd (virtiofsd counts none); ``map_requests_count``: of them, those that map.
    ``busy_on_host_count``: files that the host cannot execute meanwhile (ETXTBSY), as somebody holds them open for writing.
    Raises ProbeError, RunnerError, OSError.
    """
    if "root" not in scene.options:
        raise ProbeError("takes guests that boot from the data: give the system the option root: data")
    metrics: dict[str, float] = {}
    before: Mapping[str, float] = {}
    for stage in ("booted", "executed", "more"):
        if stage != "booted":
            for boot in scene.boots:
                for argv in _PROGRAMS:
                    scene.run(boot, argv)
        crossed = _crossed(scene)
        metrics |= {f"{stage}_{name}": value - before.get(name, 0) for name, value in crossed.items()}
        before = crossed
        if stage != "more":
            metrics |= {f"{stage}_{name}": value for name, value in _held(scene).items()}
    if scene.system.storage == "share":
        metrics["busy_on_host_count"] = _busy_files(scene)
    return Probed(metrics)


def _held(scene: Scene) -> dict[str, float]:
    """Pages of the root by who holds them. All file pages of such a guest are of its root: its other file systems are memory (Shmem)."""
    host = scene.data.resident_pages(_PARTS)
    memories = [boot.runner.call("memory", _CALL_SECONDS) for boot in scene.boots]
    # The two counters are not read at the same moment.
    guests = [max(0, memory["Cached"] - memory["Shmem"]) // _PAGE for memory in memories]
    daemons = sum(window["tail_pages"] for window in _windows(scene))
    used = max(host, *guests)
    return {
        "held_bytes": (host + sum(guests) + daemons) * _PAGE,
        "copies_ratio": (host + sum(guests) + daemons) / used,
        "host_cache_bytes": host * _PAGE,
        "guests_cache_bytes": sum(guests) * _PAGE,
    }


def _crossed(scene: Scene) -> dict[str, float]:
    """What the guests have asked for since they started."""
    is_hostfsd = scene.system.path == "hostfsd"
    guests = [io_path.Guest(boot.qemu_pid, boot.qmp) for boot in scene.boots if boot.qemu_pid is not None]
    daemons = [
        io_path.Daemon(boot.daemon_pid, boot.plan.stats if is_hostfsd else None)
        for boot in scene.boots
        if boot.daemon_pid is not None
    ]
    found = io_path.snapshot(guests, daemons)
    if scene.system.storage == "image":
        disks = found["qemu_block"]
        return {"crossed_bytes": disks["read_bytes"], "requests_count": disks["read_requests"]}
    crossed = {"crossed_bytes": found["daemon"]["read_call_bytes"]}
    if is_hostfsd:
        requests = found["fuse"]
        crossed |= {"requests_count": requests["requests"], "map_requests_count": requests["map_requests"]}
    return crossed


def _windows(scene: Scene) -> list[Mapping[str, Any]]:
    if scene.system.path != "hostfsd":
        return []
    return [io_path.ask(boot.plan.stats)["window"] for boot in scene.boots]


def _busy_files(scene: Scene) -> int:
    root = scene.boot.plan.share / "data"
    return sum(is_open_for_writing(path) for part in _PARTS for path in cachestat.walk_part(str(root / part)))


def is_open_for_writing(path: str) -> bool:
    """Whether somebody holds a file open for writing, so that execve(2) of it fails with ETXTBSY: a read lease is refused for the same reason."""
    fd = os.open(path, os.O_RDONLY)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    finally:
        os.close(fd)
    return False


def _unsuitable(system: System, parameters: Mapping[str, Any]) -> str | None:
    del parameters
    return (
        "every guest's image is copied at its boot, so the host's cache of it is warm"
        if system.own_image == "copy"
        else None
    )


PROBE: Final = Probe("rootfs", run, {}, _unsuitable, seconds=25.0)
