"""Every party at one moment, and what became of it between two: memory, I/O path, storage, settings of the host, and whether others disturbed."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import host_settings, io_path, ledger, storage_ledger
from .testbed import Boot

_CALL_SECONDS: Final = 60.0
_DROPPED: Final = "drop_pagecache"
_SHORT_OF_MEMORY: Final = {
    "pswpin": "the host swapped in",
    "pswpout": "the host swapped out",
    "oom_kill": "the host ran out of memory and killed a process",
}
# KSM's advisor sets it by itself.
_SELF_ADJUSTING: Final = "ksm_pages_to_scan"
_COMMON_BASE: Final = "common base"
# What spoils a wall time: CPU seconds that were stolen, or that programs of nobody's here took, by share of the time and at least so much
# (the kernel counts in hundredths of a second).
_STOLEN: Final = (0.05, 0.05)
_OTHERS: Final = (0.2, 0.1)


@dataclass(frozen=True, slots=True)
class Sample:
    """``memory``: ledger.snapshot(); ``layers``: io_path.snapshot(); ``storage``: the store, and images by mount point in the guest with what
    overlays stand on; ``settings`` of the host; ``disturbances``: host_disturbances(); ``own_user_seconds``: what this program itself has used.
    """

    memory: ledger.Snapshot
    layers: io_path.Counters
    storage: dict[str, Any]
    settings: dict[str, str]
    disturbances: dict[str, int]
    own_user_seconds: float


@dataclass(frozen=True, slots=True)
class _Answers:
    """What the guests say: /proc/meminfo, counters, free bytes by mount point."""

    memory: list[Mapping[str, int]]
    counters: list[dict[str, float]]
    free_bytes: list[dict[str, int]]


def take(
    boots: Sequence[Boot], store: Path, *, has_guests: bool, is_before: bool, counts_requests: bool = False
) -> Sample:
    """All parties now. Guests are asked outside of the interval, so that the asking is not in QEMU's and the daemons' counters.

    ``counts_requests``: guests count the FUSE requests that they send, which costs a little at each; say so before and after.

    Raises RunnerLost, RunnerError, OSError, ValueError (a monitor or a daemon that answers nonsense).
    """
    asked = boots if has_guests else []
    answers = _ask(asked, counts_requests) if is_before else None
    disturbances = host_disturbances()
    memory, layers = _parties(boots, store)
    settings, own = host_settings.current(store), os.times().user
    answers = answers or _ask(asked, counts_requests)
    for guest, meminfo in zip(memory["guests"], answers.memory, strict=False):
        guest.update(ledger.told(meminfo))
    if answers.counters:
        layers = {"guest": io_path.add_up(answers.counters)} | layers
    return Sample(memory, layers, _storage(boots, store, answers.free_bytes), settings, disturbances, own)


def change(before: Sample, after: Sample, dataset_bytes: int, share: Mapping[str, int] | None = None) -> dict[str, Any]:
    """The record's ``ledger`` (T = used + cache + free by party, before and after, and what explains the change), ``io_path`` (the change of
    every counter), ``storage`` and ``settings``. ``share``: storage_ledger.share() of the data where they are shared files.
    """
    memory = ledger.difference(before.memory, after.memory)
    return {
        "ledger": {
            "before": ledger.ledger(before.memory),
            "after": ledger.ledger(after.memory),
            "change": memory,
            "is_closed": ledger.is_closed(memory, dataset_bytes),
            "snapshots": {"before": before.memory, "after": after.memory},
        },
        "io_path": io_path.difference(before.layers, after.layers),
        "storage": {"before": before.storage, "after": after.storage} | ({"share": dict(share)} if share else {}),
        "settings": after.settings,
    }


def tail_pages(taken: Sample) -> int:
    """Pages of files' ends that a daemon keeps itself for its DAX window."""
    return int(taken.layers.get("fuse", {}).get("tail_pages", 0))


def host_disturbances(text: str | None = None) -> dict[str, int]:
    """Counters of /proc/vmstat that stand still while nobody disturbs; those that this kernel has."""
    text = Path("/proc/vmstat").read_text(encoding="ascii") if text is None else text
    counters = dict(line.split() for line in text.splitlines())
    return {name: int(counters[name]) for name in (_DROPPED, *_SHORT_OF_MEMORY) if name in counters}


def disturbed(before: Sample, after: Sample, now: Mapping[str, int]) -> str | None:
    """One line when somebody disturbed the host between ``before`` and ``now`` (host_disturbances()): that alone voids what was counted."""
    times = now.get(_DROPPED, 0) - before.disturbances.get(_DROPPED, 0)
    if times:
        return f"the host's page cache was dropped during the trial ({_DROPPED} rose by {times}): something else uses this machine"
    short = short_of_memory(before.disturbances, now)
    if short is not None:
        return short
    for name, value in after.settings.items():
        if before.settings.get(name) != value and name != _SELF_ADJUSTING:
            return f"{name} of the host was changed from {before.settings.get(name)} to {value} during the trial"
    return None


def short_of_memory(before: Mapping[str, int], now: Mapping[str, int]) -> str | None:
    """One line when the host swapped or killed for memory between two host_disturbances(): what was held then is not what the parties wanted."""
    for name, what in _SHORT_OF_MEMORY.items():
        times = now.get(name, 0) - before.get(name, 0)
        if times:
            return f"{what} during the trial ({name} rose by {times}): it is short of memory, or something else uses it"
    return None


def slowed(before: Sample, after: Sample, wall_seconds: float, user_seconds: float = 0.0) -> str | None:
    """One line when steal or programs that are no party took the CPU while a workload was timed.

    ``user_seconds``: what the workload used on the host itself. Only time in user mode tells others from the kernel's own threads, which work
    for the parties.
    """
    layers = io_path.difference(before.layers, after.layers)
    stolen = layers["host"]["steal_seconds"]
    if stolen > _least(_STOLEN, wall_seconds):
        return f"{stolen:.2f} CPU seconds were stolen during {wall_seconds:.2f} s: another machine uses this one's processors"
    parties = sum(layers.get(layer, {}).get("user_seconds", 0.0) for layer in ("qemu", "daemon"))
    own = after.own_user_seconds - before.own_user_seconds
    others = layers["host"]["user_seconds"] - parties - own - user_seconds
    if others > _least(_OTHERS, wall_seconds):
        return f"other programs used {others:.2f} CPU seconds during {wall_seconds:.2f} s: something else uses this machine"
    return None


def _least(limit: tuple[float, float], wall_seconds: float) -> float:
    share, seconds = limit
    return max(seconds, share * wall_seconds)


def _ask(boots: Sequence[Boot], counts_requests: bool) -> _Answers:
    return _Answers(
        [boot.runner.call("memory", _CALL_SECONDS) for boot in boots],
        [
            io_path.guest_counters(
                boot.runner.call("counters", _CALL_SECONDS, fuse=counts_requests and boot.daemon_pid is not None)
            )
            for boot in boots
        ],
        [
            {
                target: boot.runner.call("statfs", _CALL_SECONDS, target=target)["free_bytes"]
                for target in boot.plan.mounted_images
            }
            for boot in boots
        ],
    )


def _parties(boots: Sequence[Boot], store: Path) -> tuple[ledger.Snapshot, io_path.Counters]:
    qemus = [boot for boot in boots if boot.qemu_pid is not None]
    daemons = [io_path.Daemon(boot.daemon_pid, boot.stats) for boot in boots if boot.daemon_pid is not None]
    memory = ledger.snapshot(
        [ledger.Guest(boot.qemu_pid) for boot in qemus if boot.qemu_pid is not None], [daemon.pid for daemon in daemons]
    )
    guests = [io_path.Guest(boot.qemu_pid, boot.qmp) for boot in qemus if boot.qemu_pid is not None]
    return memory, io_path.snapshot(guests, daemons, store)


def _storage(boots: Sequence[Boot], store: Path, free_bytes: Sequence[Mapping[str, int]]) -> dict[str, Any]:
    images: dict[str, Any] = {}
    for number, (boot, free) in enumerate(zip(boots, free_bytes, strict=False), start=1):
        base = None if boot.plan.base_image is None else os.stat(boot.plan.base_image)
        for target, path in boot.plan.mounted_images.items():
            status = os.stat(path)
            name = target if len(boots) == 1 else f"{target} of guest {number}"
            # An overlay is as large as its base; its own length says nothing.
            whole = base if base is not None and path == boot.plan.own_image else status
            images[name] = storage_ledger.allocation(status, whole.st_size, free[target])
        if base is not None:
            images[_COMMON_BASE] = storage_ledger.allocation(base, base.st_size, None)
    return {"store": storage_ledger.file_system(store), "images": images}
