"""Questions to running guests that are no workload: one module per probe, each named in the table below.

A new probe is a module with a function ``run(scene) -> Probed`` and one line here.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

from ..systems import System
from . import (
    coherence,
    density,
    diverge,
    equal_memory,
    file_sizes,
    free_space,
    idle_guest,
    ksm_cost,
    map_cost,
    overlap,
    path_length,
    reclaim,
    reread,
    rootfs,
    semantic_gap,
)
from .scene import Probe, Probed, ProbeError, Scene

__all__ = ["PROBES", "Probe", "ProbeError", "Probed", "Scene", "why_unsuitable"]

PROBES: Final[dict[str, Probe]] = {
    probe.name: probe
    for probe in (
        coherence.PROBE,
        density.PROBE,
        diverge.PROBE,
        equal_memory.PROBE,
        file_sizes.PROBE,
        free_space.PROBE,
        idle_guest.PROBE,
        ksm_cost.PROBE,
        map_cost.PROBE,
        overlap.PROBE,
        path_length.PROBE,
        reclaim.PROBE,
        reread.PROBE,
        rootfs.PROBE,
        semantic_gap.PROBE,
    )
}


def why_unsuitable(probe: Probe, system: System, parameters: Mapping[str, Any], guests: int = 1) -> str | None:
    """Why ``guests`` guests of ``system`` cannot be probed so, or None."""
    if system.path == "host":
        return "there is no guest to look into"
    if guests < probe.min_guests:
        return f"takes {probe.min_guests} guests at least"
    return probe.unsuitable(system, parameters)
