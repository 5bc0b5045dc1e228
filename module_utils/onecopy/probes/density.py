"""What N guests that read the same data cost the host: copies of each page, logical and physical, memory by party, storage, first read."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from .. import dataset_frames, ledger, state, storage_ledger
from ..host_data import ImageData, ImagesData
from ..ksm_run import scanning
from ..paths import MACHINE
from ..testbed import Boot
from ..workloads import WORKLOADS
from .merging import COMMON, FAST, settle
from .scene import Probe, Probed, Scene

_CALL_SECONDS: Final = 60.0
_PARTS: Final = ("a/large", "a/small")


def run(scene: Scene) -> Probed:
    """Every guest reads tree a once, one after another, from a cold start; then everybody's pages are counted.

    ``copies_ratio``: places (page slots of host cache and guests) ÷ pages of the tree; ``physical_copies_ratio``: distinct frames, by PFN
    and content. Where KSM can merge the guests' memory both are taken before it runs, and ``merged_copies_ratio`` at its plateau.
    ``idle_used_bytes`` and ``used_bytes``: the whole machine's memory in use before and after the reading, caches included.
    Raises ProbeError, PageFramesError, OSError.
    """
    scene.reach("cold", "cold")
    before = _snapshot(scene)
    seconds = []
    for boot in scene.boots:
        now = time.monotonic()
        scene.read(boot)
        seconds.append(time.monotonic() - now)
    after = _snapshot(scene)
    metrics = _copies(scene) | _memory(before, after) | _storage(scene)
    metrics["first_read_seconds"] = seconds[0]
    metrics["later_read_seconds"] = sum(seconds[1:]) / len(seconds[1:]) if seconds[1:] else seconds[0]
    started = [boot.hello_seconds for boot in scene.boots if boot.hello_seconds is not None]
    if started:
        metrics["slowest_start_seconds"] = max(started)
    if scene.system.merges == "guest_memory":
        metrics |= _merged(scene)
    return Probed(metrics)


def _copies(scene: Scene) -> dict[str, float]:
    pages = scene.context.dataset.pages(_PARTS)
    host = scene.data.resident_pages(_PARTS)
    guests = sum(_guest_pages(boot) for boot in scene.boots)
    return {
        "copies_ratio": (host + guests) / pages,
        "host_copies_ratio": host / pages,
        "guest_copies_ratio": guests / pages,
        "physical_copies_ratio": _frames(scene)["physical_copies"],
    }


def _guest_pages(boot: Boot) -> int:
    parts = state.guest_parts(boot, WORKLOADS["cat"])
    found = boot.runner.call("residency", _CALL_SECONDS, parts=parts)
    return sum(int(part["resident_pages"]) for part in found.values())


def _frames(scene: Scene) -> dict[str, Any]:
    """Frames with a page of the tree's content, wherever: the twin has the same content and is not read."""
    paths, dataset = scene.context.paths, scene.context.plan["dataset"]["name"]
    share = [str(paths.share(dataset) / "data" / "a")] if scene.system.storage == "share" else []
    images = [
        (image.image, [piece for part in _PARTS for piece in image.ranges.get(part, ())]) for image in _images(scene)
    ]
    mapped = [(pid, image) for image, _ in images for pid in _qemus(scene.boots)] if scene.system.path == "pmem" else []
    return dataset_frames.count(
        paths.dataset_manifest(dataset),
        ("large", "small"),
        paths=share,
        images=images,
        guests=_qemus(scene.boots),
        daemons=[boot.daemon_pid for boot in scene.boots if boot.daemon_pid is not None],
        mapped=mapped,
    )


def _images(scene: Scene) -> Sequence[ImageData]:
    match scene.data:
        case ImagesData(images):
            return images
        case ImageData() as image:
            return [image]
    return []


def _qemus(boots: Sequence[Boot]) -> list[int]:
    return [boot.qemu_pid for boot in boots if boot.qemu_pid is not None]


def _snapshot(scene: Scene) -> ledger.Snapshot:
    guests = [
        ledger.Guest(pid, boot.runner.call("memory", _CALL_SECONDS))
        for pid, boot in zip(_qemus(scene.boots), scene.boots, strict=True)
    ]
    return ledger.snapshot(guests, [boot.daemon_pid for boot in scene.boots if boot.daemon_pid is not None])


def _memory(before: ledger.Snapshot, after: ledger.Snapshot) -> dict[str, float]:
    """Bytes of the machine in use, and of its parties after the reading."""
    table = ledger.ledger(after)
    guests = table["guests"]
    metrics: dict[str, float] = {
        "idle_used_bytes": before["host"]["total_bytes"] - before["host"]["free_bytes"],
        "used_bytes": after["host"]["total_bytes"] - after["host"]["free_bytes"],
        "host_cache_bytes": table["host"]["cache_bytes"],
        "host_used_bytes": table["host"]["used_bytes"],
        "qemu_bytes": sum(party["used_bytes"] for party in table["qemu"]),
        "unexplained_bytes": ledger.difference(before, after)["remainder_bytes"],
    }
    for name in ("used_bytes", "cache_bytes", "free_bytes"):
        metrics[f"guests_{name}"] = sum(guest[name] for guest in guests)
    if after["daemons"]:
        metrics["daemons_bytes"] = sum(daemon["used_bytes"] for daemon in after["daemons"])
    return metrics


def _storage(scene: Scene) -> dict[str, float]:
    """What the data of all guests take on the host's file system."""
    if scene.system.storage == "share":
        tree = scene.context.paths.share(scene.context.plan["dataset"]["name"]) / "data"
        return {"storage_bytes": storage_ledger.share(str(tree))["allocated_bytes"]}
    return {"storage_bytes": sum(_allocated(image.image) for image in _images(scene))}


def _allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def _merged(scene: Scene) -> dict[str, float]:
    """Copies and memory at KSM's plateau, at its fastest setting; the cost of slower ones is ksm_cost's question."""
    began = time.monotonic()
    with scanning({**COMMON, **FAST}, MACHINE / "knobs") as scanner:
        reached = settle(scanner)
        after = _snapshot(scene)
        return {
            "merged_copies_ratio": _frames(scene)["physical_copies"],
            "merged_used_bytes": after["host"]["total_bytes"] - after["host"]["free_bytes"],
            "merged_saved_bytes": reached.saved_bytes,
            "plateau_seconds": time.monotonic() - began,
        }


PROBE: Final = Probe("density", run, seconds=30.0)
