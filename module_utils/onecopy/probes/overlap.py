"""Guests that read sets of files which overlap: does the memory that holds them follow the overlap?"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from .. import merged_places
from .merging import fast_scanner, read_pages, settings_note, settle
from .scene import Probe, Probed, ProbeError, Scene

_CALL_SECONDS: Final = 60.0
_PART: Final = "a/large"


def run(scene: Scene) -> Probed:
    """Every guest reads as many large files; the share ``overlap`` of them is common to all, the rest its own.

    ``copies_ratio`` = frames that hold the files ÷ distinct pages; ``frames_per_read_ratio`` = frames ÷ pages that the guests read, which is
    ``ideal_ratio`` where the data are shared by all that read them. Guests that can be merged are, before counting. Raises ProbeError.
    """
    sizes = dict(scene.context.dataset.files[_PART])
    sets = file_sets(list(sizes), len(scene.boots), float(scene.parameters["overlap"]))
    read = sum(_pages(sizes[name]) for names in sets for name in names)
    distinct = sum(_pages(sizes[name]) for name in {name for names in sets for name in names})
    with fast_scanner(scene) as scanner:
        scene.reach("cold", "cold")
        files = {name.partition("/")[2] for names in sets for name in names}
        watched = read_pages(scene, files) if scanner else None
        for boot, names in zip(scene.boots, sets, strict=True):
            top = boot.data_roots["a"].removesuffix("a")
            scene.run(boot, ["cat", *(top + name for name in names)])
        host = scene.data.resident_pages((_PART,))
        guests = sum(_resident(scene, number) for number in range(len(scene.boots)))
        merged, notes = 0, ""
        if scanner and watched:
            settle(scanner)
            merged = guests - merged_places.distinct(watched.frames(), watched.places())
            notes = settings_note(scanner)
    frames = host + guests - merged
    metrics: dict[str, float] = {
        "copies_ratio": frames / distinct,
        "frames_per_read_ratio": frames / read,
        "ideal_ratio": distinct / read,
        "host_pages": host,
        "guest_pages": guests,
        "merged_pages": merged,
    }
    return Probed(metrics, notes=notes)


def file_sets(files: Sequence[str], guests: int, overlap: float) -> list[list[str]]:
    """Names for each guest: sets of one size, of which the share ``overlap`` is the same files. Raises ProbeError."""
    if not 0 <= overlap <= 1:
        raise ProbeError(f"overlap is a share from 0 to 1, not {overlap:g}")
    size = len(files) // guests
    common = round(overlap * size)
    if size == 0 or abs(common - overlap * size) > 1e-6:
        raise ProbeError(
            f"{len(files)} large files cannot be dealt to {guests} guests with an overlap of {overlap:g}: take more"
        )
    own = size - common
    return [[*files[:common], *files[common + guest * own : common + (guest + 1) * own]] for guest in range(guests)]


def _resident(scene: Scene, number: int) -> int:
    boot = scene.boots[number]
    parts = {_PART: f"{boot.data_roots['a']}/large"}
    return int(boot.runner.call("residency", _CALL_SECONDS, parts=parts)[_PART]["resident_pages"])


def _pages(size: int) -> int:
    return -(-size // 4096)


PROBE: Final = Probe("overlap", run, {"overlap": 0.5}, min_guests=2, seconds=25.0)
