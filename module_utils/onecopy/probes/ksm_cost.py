"""What content-based sharing (KSM) saves and costs at one setting, and what it misses: pages that live shorter than its scan takes."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from typing import Any, Final

from .. import ksm
from ..ksm_run import Scanner
from ..merged_places import Frames, ReadPages, merged
from .merging import is_mergeable, read_pages, scanning, settings_note, start_afresh, why_not_mergeable
from .scene import Probe, Probed, ProbeError, Scene

_PARTS: Final = ("large", "small")
_FOUND: Final = 0.99  # of the pages that were read: a guest whose memory is too small drops them under the scanner


def run(scene: Scene) -> Probed:
    """Merge the data set at the setting of the parameters, then pages of known life; each time from an unmerged start.

    Every page lies in as many places as there are guests; one guest alone reads both trees. ``merged_ratio`` = places of read pages that
    were merged ÷ places, by their frames; ``merged_after_Ns_ratio`` the same for pages that live N seconds from being read. What is saved
    and what it costs are KSM's own counters; what merges before the read is baseline and not counted. With ``aged`` all memory was scanned
    for long before, which matters to smart_scan alone. Raises ProbeError, PageFramesError, KsmAbsentError, KnobError.
    """
    if not is_mergeable(scene):
        raise ProbeError("this guest's memory cannot be merged: give the system options: {memory: private_merge}")
    parameters = scene.parameters
    tested = {name: int(parameters[name]) for name in ("pages_to_scan", "sleep_millisecs", "smart_scan")}
    with scanning(scene, tested) as scanner:
        metrics, series = _whole_set(scene, scanner, tested)
        if parameters["lives"]:
            lives = sorted(parameters["lives"])
            series["merged_by_life_ratio"] = _by_life(scene, scanner, tested, lives)
            for life, (_, ratio) in zip(lives, series["merged_by_life_ratio"], strict=True):
                metrics[f"merged_after_{life}s_ratio"] = ratio
        settings = settings_note(scanner)
    notes = "" if "plateau_seconds" in metrics else f"no plateau within {parameters['limit_seconds']:g} s; "
    return Probed(metrics, series, notes + settings)


def _whole_set(
    scene: Scene, scanner: Scanner, tested: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, list[list[float]]]]:
    watched = _afresh(scene, scanner, tested, _PARTS)
    baseline = scanner.sample()
    _read(scene, "")
    read_at = time.monotonic()
    samples, reached = scanner.watch(float(scene.parameters["limit_seconds"]))
    last = samples[-1]
    pages = scene.context.dataset.pages([f"a/{part}" for part in _PARTS])
    [merged_ratio] = _merged_ratios(scene, watched, [watched.frames()], pages)
    saved = last.pages_sharing - baseline.pages_sharing
    cost = ksm.cost(baseline, samples[reached if reached is not None else -1])
    metrics: dict[str, float] = {
        "baseline_merged_bytes": baseline.pages_sharing * ksm.PAGE_SIZE,
        "saved_bytes": saved * ksm.PAGE_SIZE,
        "zero_saved_bytes": (last.zero_pages - baseline.zero_pages) * ksm.PAGE_SIZE,
        "merged_ratio": merged_ratio,
        "full_scans": cost.full_scans,
    }
    if reached is not None:
        metrics["plateau_seconds"] = max(0.0, samples[reached].seconds - read_at)
    if cost.cpu_seconds is not None:
        metrics["ksmd_cpu_seconds"] = cost.cpu_seconds
    if cost.pages_scanned is not None:
        metrics["scanned_pages"] = cost.pages_scanned
        if saved > 0:
            metrics["scanned_per_saved_ratio"] = cost.pages_scanned / saved
    curve = [
        [sample.seconds - read_at, (sample.pages_sharing - baseline.pages_sharing) * ksm.PAGE_SIZE]
        for sample in samples
    ]
    return metrics, {"saved_bytes": curve}


def _by_life(scene: Scene, scanner: Scanner, tested: Mapping[str, Any], lives: Sequence[float]) -> list[list[float]]:
    """For every life: the mean age of one large file's pages then (they are read one after another), and the share of them that was merged.

    One observation tells all: what is dropped at an age was merged by then, or never.
    """
    name = scene.context.dataset.large_file()
    below = name.partition("/")[2]
    pages = next(-(-size // ksm.PAGE_SIZE) for path, size in scene.context.dataset.files["a/large"] if path == name)
    watched = _afresh(scene, scanner, tested, [below])
    started = time.monotonic()
    _read(scene, below)
    read_at = time.monotonic()
    seen = []
    for life in lives:
        time.sleep(max(0.0, read_at + life - time.monotonic()))
        seen.append(watched.frames())
    ages = [life + (read_at - started) / 2 for life in lives]
    ratios = _merged_ratios(scene, watched, seen, pages)
    return [list(point) for point in zip(ages, ratios, strict=True)]


def _afresh(scene: Scene, scanner: Scanner, tested: Mapping[str, Any], parts: Sequence[str]) -> ReadPages:
    """The guests and KSM as they are to be before ``parts`` are read."""
    start_afresh(scene, scanner, is_aged=bool(scene.parameters["aged"]) and bool(tested["smart_scan"]))
    pages = read_pages(scene, parts)
    scanner.set(**tested)
    return pages


def _read(scene: Scene, part: str) -> None:
    if len(scene.boots) == 1:
        for tree in "ab":
            scene.read(scene.boot, part, tree)
    else:
        for boot in scene.boots:
            scene.read(boot, part)


def _merged_ratios(scene: Scene, watched: ReadPages, seen: Sequence[Frames], pages: int) -> list[float]:
    places = watched.places()
    found, expected = sum(map(len, places)), max(2, len(scene.boots)) * pages
    if found < _FOUND * expected:
        raise ProbeError(f"the guests cache {found} of the {expected} pages that they read: give them more memory")
    return [merged(frames, places) / found for frames in seen]


PROBE: Final = Probe(
    "ksm_cost",
    run,
    {
        "pages_to_scan": 100,
        "sleep_millisecs": 20,
        "smart_scan": True,
        "aged": True,
        "lives": [1, 5, 30],
        "limit_seconds": 180.0,
    },
    why_not_mergeable,
    twin_below_guests=2,
    seconds=95.0,
)
