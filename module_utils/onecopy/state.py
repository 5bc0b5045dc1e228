"""Bring the caches of host and guest to the state that a trial asks for, and prove on both sides that they are there.

The order matters. What the guest does (dropping, reading) fills or dirties the host's cache, so the guest comes first; looking opens files
and so warms metadata, so what must be cold is dropped once more after the look; and the host is looked at last, immediately before the run,
because a host may reclaim in between.
"""

from __future__ import annotations

import ctypes
import os
import posixpath
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, Final

from .host_data import READ_PARTS, DataSet, HostData, Residency
from .paths import HostPaths
from .systems import System
from .testbed import Boot
from .workloads import Places, Workload

TRIES: Final = 3
_CALL_SECONDS: Final = 120.0


class StateMissedError(Exception):
    """The state was not reached in TRIES tries; ``reached`` has the figures of the last, the text is one line."""

    def __init__(self, message: str, reached: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.reached = reached


@dataclass(frozen=True, slots=True)
class Wanted:
    """What one trial asks for."""

    system: System
    host_cache: str
    guest_cache: str
    is_residency: bool
    workload: Workload


@dataclass(slots=True)
class Phases:
    """Seconds by phase of one trial."""

    clock: Callable[[], float]
    seconds: dict[str, float] = field(default_factory=lambda: {"reach": 0.0, "verify": 0.0})

    def measure(self, phase: str, since: float) -> float:
        """Add the time since ``since`` to ``phase``; returns now."""
        now = self.clock()
        self.seconds[phase] = self.seconds.get(phase, 0.0) + now - since
        return now


def drop_host_caches(paths: HostPaths) -> None:
    """Write what is dirty on the store, then drop clean pages, dentries and inodes of the machine."""
    fd = os.open(paths.store, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Not sync(2): that would wait for every disk of the machine.
        if ctypes.CDLL(None, use_errno=True).syncfs(fd):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), str(paths.store))
    finally:
        os.close(fd)
    with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
        file.write("3")


def guest_parts(boot: Boot, workload: Workload) -> dict[str, str]:
    """Parts (by name) and directories in the guest that are looked at: tree a, and b where the workload reads it."""
    trees = "ab" if workload.reads.part == "both" else "a"
    return {
        f"{tree}/{part}": posixpath.join(boot.data_roots[tree], part) for tree in trees for part in ("large", "small")
    }


def places(dataset: DataSet, boot: Boot) -> Places:
    """Where the guest sees the data set."""

    def in_guest(name: str) -> str:
        tree, _, rest = name.partition("/")
        return posixpath.join(boot.data_roots[tree], rest)

    sample = [in_guest(name) for name in dataset.sample()]
    return Places(boot.data_roots["a"], boot.data_roots["b"], boot.scratch, in_guest(dataset.large_file()), sample)


def reach(
    boots: Sequence[Boot], data: HostData, wanted: Wanted, drop_host: Callable[[], None], phases: Phases
) -> dict[str, Any]:
    """Reach and verify the state in every guest and on the host; returns the record's ``reached``, guests added up.

    A residency trial's files stay open in the guests; a timed one's are closed, and what must be cold of the metadata is dropped.
    Raises StateMissedError, RunnerLost, RunnerError, OSError.
    """
    for tries in range(1, TRIES + 1):
        now = phases.clock()
        for boot in boots:
            _bring_guest(boot, wanted)
        _bring_host([boot.qemu_pid for boot in boots], data, wanted, drop_host)
        now = phases.measure("reach", now)
        guests = [_look_at_guest(boot, wanted) for boot in boots] if wanted.guest_cache != "none" else []
        if not wanted.is_residency and wanted.guest_cache != "none":
            for boot in boots:
                boot.runner.call("release", _CALL_SECONDS)
                if wanted.guest_cache == "cold":
                    boot.runner.call("drop", _CALL_SECONDS, what=3)
        host = data.residency()
        if wanted.host_cache == "cold":
            drop_host()
        elif host.resident_pages < host.pages:
            # A host that reclaims by itself (DAMON) has taken some while the guests were looked at.
            data.prefetch()
            host = data.residency()
        phases.measure("verify", now)
        reached: dict[str, Any] = {"tries": tries, "host": host.as_dict()}
        if guests:
            reached["guest"] = _total([part for guest in guests for part in guest.values()])
        missed = _missed(wanted, host, guests)
        if missed is None:
            # Starting a program must not be part of what is timed as reading the data.
            for boot in boots:
                boot.runner.call("prefetch", _CALL_SECONDS, trees=programs(wanted.workload))
            return reached
    raise StateMissedError(f"{missed} after {TRIES} tries", reached)


def make_host_cold(data: HostData, drop_host: Callable[[], None]) -> None:
    """Evict the data from the host's page cache while no guest runs, and prove it. Raises StateMissedError, OSError."""
    for _ in range(TRIES):
        data.evict([])
        drop_host()
        left = data.residency()
        if not left.resident_pages:
            return
    raise StateMissedError(f"{left.resident_pages} of {left.pages} pages stay in the host's cache", {})


def programs(workload: Workload) -> list[str]:
    """Files of the programs that a pipeline starts; those that lie in the data are data."""
    names = {argv[0] for argv in workload.pipeline}
    names |= {following for argv in workload.pipeline for word, following in pairwise(argv) if word == "-exec"}
    return sorted(
        name if name.startswith("/") else f"/usr/bin/{name}" for name in names if name[:1] == "/" or "/" not in name
    )


def _bring_guest(boot: Boot, wanted: Wanted) -> None:
    if wanted.guest_cache == "none":
        return
    parts = guest_parts(boot, wanted.workload)
    if wanted.system.dax and wanted.guest_cache == "cold":
        # Neither side can evict what is mapped through a DAX window.
        boot.runner.call("release", _CALL_SECONDS)
        boot.remount()
    boot.runner.call("hold", _CALL_SECONDS, parts=parts)
    if wanted.guest_cache == "cold":
        boot.runner.call("drop", _CALL_SECONDS, what=3)
    else:
        trees = [directory for part, directory in parts.items() if part in _warmed(wanted)]
        boot.runner.call("prefetch", _CALL_SECONDS, trees=trees)


def _bring_host(qemu_pids: Sequence[int | None], data: HostData, wanted: Wanted, drop_host: Callable[[], None]) -> None:
    if wanted.host_cache == "cold":
        data.evict([pid for pid in qemu_pids if pid is not None])
        drop_host()
    else:
        data.prefetch()


def _look_at_guest(boot: Boot, wanted: Wanted) -> dict[str, Mapping[str, int]]:
    return boot.runner.call("residency", _CALL_SECONDS, parts=guest_parts(boot, wanted.workload))


def _warmed(wanted: Wanted) -> Collection[str]:
    """Parts that a warm guest has in its cache: what the workload reads; all of tree a where it reads metadata alone."""
    return READ_PARTS[wanted.workload.reads.part] or READ_PARTS["all"]


def _total(parts: Collection[Mapping[str, int]]) -> dict[str, int]:
    names = ("files", "pages", "resident_pages", "dirty_pages", "dax_pages")
    total = {name: sum(part.get(name, 0) for part in parts) for name in names}
    return total if total["dax_pages"] else {name: value for name, value in total.items() if name != "dax_pages"}


def _missed(wanted: Wanted, host: Residency, guests: Sequence[Mapping[str, Mapping[str, int]]]) -> str | None:
    """None, or how far from the wanted state host or a guest are."""
    expected = 0 if wanted.host_cache == "cold" else host.pages
    if host.resident_pages != expected:
        return f"host {wanted.host_cache}: {host.resident_pages} of {host.pages} pages are resident, {expected} were wanted"
    for guest in guests:
        looked = guest if wanted.guest_cache == "cold" else {part: guest[part] for part in _warmed(wanted)}
        total = _total(looked.values())
        cached_pages = total["pages"] - total.get("dax_pages", 0)
        expected = 0 if wanted.guest_cache == "cold" else cached_pages
        if total["resident_pages"] != expected:
            return f"guest {wanted.guest_cache}: {total['resident_pages']} of {cached_pages} pages are resident, {expected} were wanted"
    return None
