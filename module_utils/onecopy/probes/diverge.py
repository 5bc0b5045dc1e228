"""Guests that overwrite part of their blocks: how sharing by position is lost, what that costs in memory and storage, and what KSM gets back.

All guests write the same bytes to the same places, and no two pages of a guest alike: the content stays equal from guest to guest, so what is
lost is lost to sharing by position alone.
"""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from .. import cachestat
from ..pageout import mapped_ranges
from ..systems import System
from ..testbed import Boot
from .merging import FAST, scanning, settings_note, settle
from .scene import Probe, Probed, ProbeError, Scene

_CALL_SECONDS: Final = 60.0
_PAGE: Final = 4096
_PATTERNS: Final = ("sequential", "random")
_UNTOUCHED: Final = 0.1
_NOTHING_BACK: Final = (
    "KSM gets nothing back: it merges neither disks, nor the host's page cache of them, nor guest memory that is shared"
)
_WRITER: Final = """
import os, random, sys
share, pattern, *names = sys.argv[1:]
for name in names:
    fd = os.open(name, os.O_RDWR)
    pages = list(range(os.fstat(fd).st_size // 4096))
    if pattern == "random":
        random.Random(len(pages)).shuffle(pages)
    for page in pages[:round(float(share) * len(pages))]:
        os.pwrite(fd, random.Random(f"{name}/{page}").randbytes(4096), page * 4096)
    os.fsync(fd)
    os.close(fd)
"""


def run(scene: Scene) -> Probed:
    """Overwrite growing shares of the large files' blocks in every guest.

    After N per cent: ``own_after_Npc_bytes`` that a guest has for itself alone (mean), in memory or on the disk,
    ``own_per_overwritten_Npc_ratio``, its growth ÷ bytes overwritten, and ``host_cached_own_after_Npc_bytes`` (mean), what the host's page
    cache holds of the guest's own image. ``own_at_start_ratio``: what it had before ÷ the data; ``storage_bytes``: growth of what is
    allocated, all guests.
    Raises ProbeError, RunnerError, OSError.
    """
    pattern = str(scene.parameters["pattern"])
    if pattern not in _PATTERNS:
        raise ProbeError(f"pattern {pattern!r} is not known: {', '.join(_PATTERNS)}")
    sizes = dict(scene.context.dataset.files["a/large"])
    scene.reach("cold", "cold", is_residency=False)
    metrics: dict[str, float] = {}
    with _writable(scene):
        before = _own_bytes(scene)
        if scene.system.own_image != "copy" and before > _UNTOUCHED * sum(sizes.values()):
            raise ProbeError("these guests' blocks were overwritten before: this probe takes a fresh boot")
        stored = _stored_bytes(scene)
        cached = _cached_bytes(scene)
        metrics |= {"own_after_0pc_bytes": before, "own_at_start_ratio": before / _data_bytes(scene)}
        metrics["host_cached_own_after_0pc_bytes"] = cached
        points, cached_points = [[0.0, before]], [[0.0, cached]]
        for percent in scene.parameters["percents"]:
            overwritten = _PAGE * sum(round(percent / 100 * (size // _PAGE)) for size in sizes.values())
            for boot in scene.boots:
                top = boot.data_roots["a"].removesuffix("a")
                files = [top + name for name in sizes]
                scene.run(boot, ["python3", "-SEsc", _WRITER, str(percent / 100), pattern, *files])
            own, cached = _own_bytes(scene), _cached_bytes(scene)
            points.append([overwritten, own])
            cached_points.append([overwritten, cached])
            metrics[f"own_after_{percent}pc_bytes"] = own
            metrics[f"host_cached_own_after_{percent}pc_bytes"] = cached
            metrics[f"own_per_overwritten_{percent}pc_ratio"] = (own - before) / overwritten
        metrics["storage_bytes"] = _stored_bytes(scene) - stored
        notes = _NOTHING_BACK
        if scene.system.merges == "mapping":
            merged, notes = _merged_back(scene)
            metrics |= merged
    series = {"own_by_overwritten_bytes": points, "host_cached_own_by_overwritten_bytes": cached_points}
    return Probed(metrics, series, notes)


@contextmanager
def _writable(scene: Scene) -> Iterator[None]:
    """The data are mounted for writing in every guest, and as they were afterwards."""
    try:
        for boot in scene.boots:
            mount = boot.plan.data_mounts[-1]
            options = ",".join(word for word in mount.options.split(",") if word not in ("ro", "noload"))
            boot.runner.call("release", _CALL_SECONDS)
            boot.runner.call("unmount", _CALL_SECONDS, target=mount.target)
            writable = dataclasses.replace(mount, options=options)
            boot.runner.call("mount", _CALL_SECONDS, **dataclasses.asdict(writable))
        yield
    finally:
        for boot in scene.boots:
            boot.remount()


def _data_bytes(scene: Scene) -> int:
    """What every guest is given: every tree of the data set."""
    return sum(size for files in scene.context.dataset.files.values() for _, size in files)


def _own_bytes(scene: Scene) -> float:
    """What a guest has for itself alone, mean over guests."""
    return sum(_own(boot) for boot in scene.boots) / len(scene.boots)


def _own(boot: Boot) -> int:
    if boot.plan.own_image is not None:
        return boot.plan.own_image.stat().st_blocks * 512
    assert boot.qemu_pid is not None
    assert boot.plan.guest is not None
    assert boot.plan.guest.pmem is not None
    return private_bytes(Path(f"/proc/{boot.qemu_pid}/smaps").read_text("utf-8", "replace"), boot.plan.guest.pmem.path)


def private_bytes(smaps: str, path: Path) -> int:
    """Bytes of a process's mappings of ``path`` that are copies of its own, from the text of its smaps."""
    found = 0
    is_mapping = False
    for line in smaps.splitlines():
        words = line.split()
        if not words[0].endswith(":"):
            is_mapping = any(mapped_ranges(line, str(path)))
        elif is_mapping and words[0] == "Anonymous:":
            found += int(words[1]) * 1024
    return found


def _stored_bytes(scene: Scene) -> int:
    own = [boot.plan.own_image for boot in scene.boots if boot.plan.own_image is not None]
    return sum(path.stat().st_blocks * 512 for path in own)


def _cached_bytes(scene: Scene) -> float:
    """What the host's page cache holds of a guest's own image, mean over guests."""
    cached = 0
    for boot in scene.boots:
        if boot.plan.own_image is not None:
            with open(boot.plan.own_image, "rb") as file:
                cached += cachestat.cachestat(file.fileno()).resident * _PAGE
    return cached / len(scene.boots)


def _merged_back(scene: Scene) -> tuple[Mapping[str, float], str]:
    """What content-based sharing finds again of equal pages that sharing by position has lost, and by which settings."""
    own = sum(_own(boot) for boot in scene.boots)
    spare = own * (len(scene.boots) - 1) / len(scene.boots)
    began = time.monotonic()
    with scanning(scene, FAST) as scanner:
        saved = settle(scanner).pages_sharing * _PAGE
        settings = settings_note(scanner)
    seconds = time.monotonic() - began
    return {"merged_back_bytes": saved, "merged_back_ratio": saved / spare, "plateau_seconds": seconds}, settings


def _unsuitable(system: System, parameters: Mapping[str, Any]) -> str | None:
    del parameters
    if system.storage == "share":
        return "one file system shared by all: what a guest overwrites all guests see, so nothing diverges"
    if system.own_image is None and system.merges is None:
        return "its guests share one image that none of them may write"
    return None


PROBE: Final = Probe(
    "diverge",
    run,
    {"pattern": "sequential", "percents": [1, 10, 50]},
    _unsuitable,
    min_guests=2,
    fresh_boot=True,  # blocks that were overwritten are no start
    seconds=40.0,
)
