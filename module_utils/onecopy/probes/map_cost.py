"""What one more mapping costs when there are many, beside copying: for QEMU every range of the window is a memory region among all others."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from .. import io_path, qemu
from ..systems import System
from ..testbed import Boot
from . import reader
from .scene import Probe, Probed, ProbeError, Scene

_CALL_SECONDS: Final = 120.0
_NAME: Final = "sparse"
_COPIED: Final = "copied"
_COPIED_FILES: Final = 32
_COPIED_BYTES: Final = 256 << 10
# The guest's kernel takes ranges back when less than a fifth of them is free.
_USABLE: Final = 0.8


def run(scene: Scene) -> Probed:
    """Touch a sparse file range by range until as many are live as ``ranges`` says, the last ``sampled`` of each step counted.

    Per number N of live ranges that the window can hold: ``map_at_N_seconds`` (the daemon waits for QEMU), ``map_at_N_wall_seconds`` (the
    guest waits for a page), ``qemu_at_N_seconds`` of QEMU's main thread, each per mapping, ``regions_at_N`` (memory blocks of QEMU), and
    ``map_at_N_instructions`` of the guest where they can be counted; the series have the same over N. ``copy_seconds_per_byte``: of the
    daemon, for files below the threshold. Raises ProbeError, RunnerError, OSError.
    """
    boot, sampled = scene.boot, int(scene.parameters["sampled"])
    window = reader.window(boot)
    most = int(window["window_bytes"] // reader.RANGE_BYTES * _USABLE) if window else 0
    steps = [number for number in sorted(scene.parameters["ranges"]) if sampled < number <= most]
    if not steps:
        raise ProbeError(
            f"{most} ranges can be live in this window: none of {scene.parameters['ranges']} can be reached"
        )
    metrics: dict[str, float] = {"guest_used_bytes": reader.guest_used_bytes(boot)}
    metrics |= {"window_bytes": window["window_bytes"], "copy_seconds_per_byte": _copy_seconds(scene)}
    series: dict[str, list[list[float]]] = {}
    path = boot.plan.share_scratch / _NAME
    _make(path, steps[-1])
    try:
        live = 0
        for step in steps:
            _touch(scene, live, step - sampled)
            for name, value in _sample(scene, step - sampled, step).items():
                series.setdefault(f"{name}_by_live_ranges", []).append([step, value])
                metrics[_metric(name, step)] = value
            live = step
    finally:
        path.unlink()
    return Probed(metrics, series)


def _metric(name: str, step: int) -> str:
    what, _, unit = name.partition("_")
    return f"{what}_at_{step}" + (f"_{unit}" if unit else "")


def _sample(scene: Scene, start: int, end: int) -> dict[str, float]:
    """Per mapping, while ranges from ``start`` to ``end`` are touched."""
    boot = scene.boot
    before, main = reader.window(boot), _main_seconds(boot)
    found = _touch(scene, start, end)
    after = reader.window(boot)
    maps = after["maps_total"] - before["maps_total"]
    if maps != end - start or after["ranges_live"] != end:
        raise ProbeError(f"{maps} maps for {end - start} ranges, {after['ranges_live']} live where {end} were wanted")
    counted: dict[str, float] = {
        "map_seconds": (after["map_seconds"] - before["map_seconds"]) / maps,
        "map_wall_seconds": found.seconds / maps,
        "qemu_seconds": (_main_seconds(boot) - main) / maps,
        "regions": _regions(boot),
    }
    if found.instructions is not None:
        counted["map_instructions"] = found.instructions / maps
    return counted


def _copy_seconds(scene: Scene) -> float:
    """Seconds that the daemon is occupied per byte that it copies."""
    boot = scene.boot
    directory = boot.plan.share_scratch / _COPIED
    directory.mkdir()
    try:
        for number in range(_COPIED_FILES):
            (directory / str(number)).write_bytes(bytes(_COPIED_BYTES))
        reader.read(scene, boot, "sequential", [])  # the program's own pages come from the root disk
        before = reader.snapshot(boot)
        reader.read(
            scene, boot, "sequential", [f"{boot.scratch}/{_COPIED}/{number}" for number in range(_COPIED_FILES)]
        )
        counted = reader.crossed(before, boot)
    finally:
        shutil.rmtree(directory, ignore_errors=True)
    if counted["read_bytes"] != _COPIED_FILES * _COPIED_BYTES:
        raise ProbeError(
            f"{counted['read_bytes']:.0f} bytes were copied: inode_dax_kib must be above {_COPIED_BYTES >> 10}"
        )
    return counted["service_seconds"] / counted["read_bytes"]


def _touch(scene: Scene, start: int, end: int) -> reader.Reading:
    span = (start * reader.RANGE_BYTES, end * reader.RANGE_BYTES)
    return reader.read(scene, scene.boot, "touch", [f"{scene.boot.scratch}/{_NAME}"], span)


def _main_seconds(boot: Boot) -> float:
    assert boot.qemu_pid is not None
    return io_path.process_counters(boot.qemu_pid).get("cpu_seconds_main", 0.0)


def _regions(boot: Boot) -> int:
    """Blocks of memory that QEMU manages, guest RAM and firmware included: one line each, under one of titles."""
    assert boot.qmp is not None
    text: str = qemu.qmp(boot.qmp, "x-query-ramblock", _CALL_SECONDS)["human-readable-text"]
    return len(text.splitlines()) - 1


def _make(path: Path, ranges: int) -> None:
    with open(path, "xb") as file:
        file.truncate(ranges * reader.RANGE_BYTES)


def _unsuitable(system: System, parameters: Mapping[str, Any]) -> str | None:
    del parameters
    return None if system.path == "hostfsd" else "it has no window of which the host sees the ranges"


PROBE: Final = Probe("map_cost", run, {"ranges": [50, 500, 1000, 2000], "sampled": 20}, _unsuitable, seconds=60.0)
