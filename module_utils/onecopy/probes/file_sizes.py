"""What reading files of each size costs where they are mapped and where they are copied: requests, mappings, bytes, guest instructions.

A mapping costs the same for a small file as for a large one, a copy costs by the byte and by the read: so there is a size, and a number of reads, from
which on mapping costs less. The boot's threshold (``inode_dax_kib``) decides which files are mapped.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any, Final

from ..systems import System
from . import reader
from .scene import Probe, Probed, ProbeError, Scene

_CALL_SECONDS: Final = 60.0
_KIB: Final = 1024
_NAME: Final = "sizes"
# Real files seldom end with a page: what a window shows of the last one is a copy.
_SHORT_BYTES: Final = 96
_COUNTED: Final = ("requests", "read_requests", "read_bytes", "map_requests", "instructions", "service_seconds")


def run(scene: Scene) -> Probed:
    """Read ``files`` files of every size of ``sizes_kib`` (less a few bytes) from a cold guest over a warm host, then ``rounds`` times again.

    Series of points (bytes of a file, value per file), medians over rounds: ``first_`` and ``reread_`` with ``requests``, ``read_requests``,
    ``read_bytes`` (copied by READ), ``map_requests``, ``service_seconds`` (see reader.snapshot), ``instructions`` of the guest where they can
    be counted; and ``guest_cached_bytes``.
    Metrics: sums over all files, and ``second_copy_bytes``: what tails hold of the files' last pages.
    Raises ProbeError, RunnerError, OSError.
    """
    files, rounds = int(scene.parameters["files"]), int(scene.parameters["rounds"])
    series: dict[str, list[list[float]]] = {}
    metrics: dict[str, float] = {"guest_used_bytes": reader.guest_used_bytes(scene.boot)}
    window = reader.window(scene.boot)
    metrics |= {name: window[name] for name in ("window_bytes",) if name in window}
    for size in (_KIB * int(kib) for kib in scene.parameters["sizes_kib"]):
        with _made(scene.boot.plan.share_scratch / _NAME, size - _SHORT_BYTES, files):
            found = _read(scene, size, files, rounds)
        for name, value in found.items():
            series.setdefault(name, []).append([size, value])
            metrics[name] = metrics.get(name, 0.0) + value * files
    return Probed(metrics, series)


def _read(scene: Scene, size: int, files: int, rounds: int) -> dict[str, float]:
    """Values per file."""
    boot = scene.boot
    top = f"{boot.scratch}/{_NAME}"
    # What the guest knows of the last files' directory must not be part of this size's figures.
    boot.runner.call("drop", _CALL_SECONDS, what=3)
    boot.runner.call("hold", _CALL_SECONDS, parts={_NAME: top})
    reader.read(scene, boot, "sequential", [])  # the program's own pages come from the root disk
    first, *again = [
        _one(scene, [f"{top}/{number}" for number in range(files)], size - _SHORT_BYTES) for _ in range(1 + rounds)
    ]
    cached = boot.runner.call("residency", _CALL_SECONDS, parts={_NAME: top})[_NAME]["resident_pages"]
    window = reader.window(boot)
    boot.runner.call("release", _CALL_SECONDS)
    found = {f"first_{name}": value for name, value in first.items()}
    found |= {f"reread_{name}": median(one[name] for one in again) for name in first}
    found |= {"guest_cached_bytes": cached * 4096, "second_copy_bytes": window.get("tail_pages", 0) * 4096}
    return {name: value / files for name, value in found.items()}


def _one(scene: Scene, paths: Sequence[str], size: int) -> dict[str, float]:
    before = reader.snapshot(scene.boot)
    found = reader.read(scene, scene.boot, "sequential", paths)
    counted: dict[str, float] = dict(reader.crossed(before, scene.boot))
    if found.read_bytes != len(paths) * size:
        raise ProbeError(f"read {found.read_bytes} bytes of {len(paths) * size}")
    if found.instructions is not None:
        counted["instructions"] = found.instructions
    return {name: counted[name] for name in _COUNTED if name in counted}


@contextmanager
def _made(directory: Path, size: int, files: int) -> Iterator[None]:
    """Files of text, clean and in the host's cache; they are gone afterwards."""
    directory.mkdir()
    try:
        for number in range(files):
            with open(directory / str(number), "wb") as file:
                file.write((b"onecopy\n" * -(-size // 8))[:size])
                file.flush()
                os.fsync(file.fileno())
        yield
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _unsuitable(system: System, parameters: Mapping[str, Any]) -> str | None:
    del parameters
    return None if system.storage == "share" else "its files lie in an image, and no threshold decides about them"


PROBE: Final = Probe(
    "file_sizes",
    run,
    {"sizes_kib": [4, 64, 256, 1024, 4096], "files": 16, "rounds": 1},
    _unsuitable,
    seconds=25.0,
)
