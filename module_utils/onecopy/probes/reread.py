"""What a guest's first read of the large files and its re-reads cost, by what crosses to the host: requests, mappings, faults, bytes.

A page that is mapped needs no READ, but faults and mappings in its place: moved is not removed, so all of it is counted.
"""

from __future__ import annotations

from collections.abc import Mapping
from statistics import median
from typing import Any, Final

from ..cachestat import PAGE_SIZE
from ..systems import System
from ..workloads import WORKLOADS
from . import reader
from .scene import Probe, Probed, ProbeError, Scene

_CALL_SECONDS: Final = 60.0
_PART: Final = "a/large"


def run(scene: Scene) -> Probed:
    """Read over a warm host (where the system can have one) and from a cold guest, then ``rounds`` times again; medians of those.

    Every reading opens the files anew; they are also held open, so that the guest keeps what it knows of them. ``first_`` and ``reread_``
    go before: what ``reader.snapshot`` counts, ``guest_faults`` of the program, ``seconds``, ``instructions_per_byte`` where they can be
    counted (the program's own loop is in them: little of a sequential read, much of a random one). ``guest_cached_bytes``: of the files,
    after the last. ``window_bytes`` and ``ranges_live`` of a window (ranges of 2 MiB).
    Raises ProbeError, and what state.reach raises.
    """
    pattern = scene.parameters["pattern"]
    boot = scene.boot
    sizes = dict(scene.context.dataset.files[_PART])
    top = boot.data_roots["a"].removesuffix("a")
    paths = [top + name for name in sizes]
    host = "cold" if ("host_cache", "warm") in scene.system.not_applicable else "warm"
    used_bytes = reader.guest_used_bytes(boot)
    scene.reach(host, "cold", workload=WORKLOADS["large_files"])
    reader.read(scene, boot, pattern, [])  # the program's own pages come from the root disk
    first, *again = [_one(scene, pattern, paths, sum(sizes.values())) for _ in range(1 + scene.parameters["rounds"])]
    metrics: dict[str, float] = {"working_set_bytes": sum(sizes.values()), "guest_used_bytes": used_bytes}
    metrics |= {f"first_{name}": value for name, value in first.items()}
    metrics |= {f"reread_{name}": median(one[name] for one in again) for name in first}
    parts = {_PART: f"{boot.data_roots['a']}/large"}
    cached = boot.runner.call("residency", _CALL_SECONDS, parts=parts)[_PART]["resident_pages"]
    metrics["guest_cached_bytes"] = cached * PAGE_SIZE
    window = reader.window(boot)
    metrics |= {name: window[name] for name in ("window_bytes", "ranges_live") if name in window}
    return Probed(metrics)


def _one(scene: Scene, pattern: str, paths: list[str], size: int) -> dict[str, float]:
    before = reader.snapshot(scene.boot)
    found = reader.read(scene, scene.boot, pattern, paths)
    counted = reader.crossed(before, scene.boot)
    # Random reads are of whole pages: they leave out the tail of a file.
    if not size - len(paths) * PAGE_SIZE <= found.read_bytes <= size:
        raise ProbeError(f"read {found.read_bytes} bytes of {size}")
    counted |= {"guest_faults": found.faults, "seconds": found.seconds}
    if found.instructions is not None:
        counted["instructions_per_byte"] = found.instructions / found.read_bytes
    return counted


def _unsuitable(system: System, parameters: Mapping[str, Any]) -> str | None:
    del system
    if parameters["pattern"] not in reader.PATTERNS:
        return f"pattern {parameters['pattern']!r} is none of {', '.join(reader.PATTERNS)}"
    return None


PROBE: Final = Probe("reread", run, {"pattern": "sequential", "rounds": 2}, _unsuitable, seconds=8.0)
