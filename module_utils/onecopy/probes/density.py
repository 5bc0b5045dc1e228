"""What N guests that read the same data cost the host: copies of each page, logical and physical, memory by party, storage, first read."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import Any, Final

from .. import dataset_frames, io_path, ksm, ledger, state, storage_ledger
from ..runner_client import RunnerLost
from ..testbed import Boot
from ..workloads import WORKLOADS
from .merging import FAST, scanning, settings_note, settle
from .scene import Probe, Probed, Scene

_CALL_SECONDS: Final = 60.0
_PARTS: Final = ("a/large", "a/small")
# Takes the pages that were freed last, which programs that ended had, and leaves zeros in them.
_OVERWRITE: Final = ("dd", "if=/dev/zero", "of=/dev/null", "bs=4M", "count=1")


def run(scene: Scene) -> Probed:
    """Every guest reads tree a once, one after another, from a cold start; then everybody's pages are counted.

    ``copies_ratio``: places (page slots of host cache and guests, and the ends of files that daemons keep themselves) ÷ pages of the tree;
    ``physical_copies_ratio``: distinct frames, by PFN and content, without the buffers that the readers left behind. Where KSM can merge the
    guests' memory both are taken before it runs, and ``merged_copies_ratio`` at its plateau.
    ``held_bytes``: memory that guests, QEMUs and daemons hold, and the host's cache of the guests' storage (``host_data_bytes``).
    ``idle_used_bytes`` and ``used_bytes``: the whole machine's memory in use before and after the reading, caches and strangers included.
    ``moved_per_read_ratio``: bytes read at all layers below the guests' programs ÷ bytes that these read; ``images``: files with a file system
    in them that guests have open; ``scanned_pages``: by KSM while the guests read.
    A guest that goes away is named in ``lost``, and the others go on. Raises ProbeError, PageFramesError, OSError, RunnerLost.
    """
    scene.reach("cold", "cold")
    before, moved_before, scanned_before = _snapshot(scene), [_moved(boot) for boot in scene.boots], _scanned_pages()
    seconds: dict[int, float] = {}
    read_bytes = 0
    for number, boot in enumerate(scene.boots):
        now = time.monotonic()
        try:
            read_bytes += scene.read(boot)["read_bytes"]
        except RunnerLost:
            if len(scene.boots) == 1:
                raise
            continue
        seconds[number] = time.monotonic() - now
    lost = [number + 1 for number in range(len(scene.boots)) if number not in seconds]
    if not seconds:
        raise RunnerLost("every guest went away while it read")
    before["guests"] = [before["guests"][number] for number in seconds]
    before["daemons"] = [before["daemons"][number] for number in seconds] if before["daemons"] else []
    scene = dataclasses.replace(scene, boots=[scene.boots[number] for number in seconds])
    scanned = _scanned_pages()
    moved = sum(_moved(boot) - moved_before[number] for number, boot in zip(seconds, scene.boots, strict=True))
    host_data = scene.data.residency().resident_pages * ledger.PAGE_SIZE
    metrics = _copies(scene) | _memory(before, _snapshot(scene), host_data) | _storage(scene) | _starts(scene)
    metrics["physical_copies_ratio"] = _physical_copies(scene)
    first, *later = seconds.values()
    metrics |= {"first_read_seconds": first, "later_read_seconds": sum(later) / len(later) if later else first}
    metrics |= {"moved_per_read_ratio": moved / read_bytes, "images": len(_open_images(scene))}
    if scanned is not None and scanned_before is not None:
        metrics["scanned_pages"] = scanned - scanned_before
    notes = []
    if lost:
        notes.append(f"guests {', '.join(map(str, lost))} were lost while they read: the figures are the others'")
    if scene.system.merges == "guest_memory":
        merged, settings = _merged(scene, metrics["held_bytes"])
        metrics |= merged
        notes.append(settings)
    return Probed(metrics, notes="; ".join(notes), lost=lost)


def _starts(scene: Scene) -> dict[str, float]:
    """The slowest guest from its power button to its runner's answer, and the whole fleet from the first command to the last guest's mounts."""
    slowest = [boot.hello_seconds for boot in scene.boots if boot.hello_seconds is not None]
    started = [boot.started_at for boot in scene.boots if boot.started_at is not None]
    ready = [boot.ready_at for boot in scene.boots if boot.ready_at is not None]
    found = {"slowest_start_seconds": max(slowest)} if slowest else {}
    return found | ({"all_ready_seconds": max(ready) - min(started)} if started and ready else {})


def _moved(boot: Boot) -> float:
    """Bytes that everybody below this guest's programs read so far."""
    assert boot.qemu_pid is not None
    guest = io_path.Guest(boot.qemu_pid, counters=boot.runner.call("counters", _CALL_SECONDS))
    daemons = [io_path.Daemon(boot.daemon_pid)] if boot.daemon_pid is not None else []
    return io_path.moved_bytes(io_path.snapshot([guest], daemons))


def _scanned_pages() -> int | None:
    try:
        return ksm.sample(time.monotonic()).pages_scanned
    except ksm.KsmAbsentError:
        return None


def _open_images(scene: Scene) -> set[str]:
    """Images with the data that the guests' QEMUs have open: what Satori's guests must have in common, and a share's have none of."""
    store = scene.context.paths.store
    tops = tuple(f"{store / place}/" for place in ("images", "own"))
    found = set()
    for pid in dataset_frames.qemu_pids(scene.boots):
        for entry in Path(f"/proc/{pid}/fd").iterdir():
            try:
                target = str(entry.readlink())
            except FileNotFoundError:
                continue
            if target.startswith(tops):
                found.add(target)
    return found


def _copies(scene: Scene) -> dict[str, float]:
    pages = scene.context.dataset.pages(_PARTS)
    host = scene.data.resident_pages(_PARTS)
    guests = sum(_guest_pages(boot) for boot in scene.boots)
    daemons = sum(_tail_pages(boot) for boot in scene.boots)
    return {
        "copies_ratio": (host + guests + daemons) / pages,
        "host_copies_ratio": host / pages,
        "guest_copies_ratio": guests / pages,
        "daemon_copies_ratio": daemons / pages,
    }


def _guest_pages(boot: Boot) -> int:
    parts = state.guest_parts(boot, WORKLOADS["cat"])
    found = boot.runner.call("residency", _CALL_SECONDS, parts=parts)
    return sum(int(part["resident_pages"]) for part in found.values())


def _tail_pages(boot: Boot) -> int:
    """Pages of files' ends that this guest's daemon keeps itself for its DAX window."""
    return int(io_path.fuse_counters(io_path.ask(boot.stats))["tail_pages"]) if boot.stats else 0


def _physical_copies(scene: Scene) -> float:
    """Copies by frames. What the readers' own buffers were is free memory, which nobody holds: it is overwritten first."""
    for boot in scene.boots:
        scene.run(boot, _OVERWRITE)
    return float(_frames(scene)["physical_copies"])


def _frames(scene: Scene) -> dict[str, Any]:
    context = scene.context
    return dataset_frames.around(context.paths, context.plan["dataset"]["name"], scene.system, scene.data, scene.boots)


def _snapshot(scene: Scene) -> ledger.Snapshot:
    guests = [
        ledger.Guest(pid, boot.runner.call("memory", _CALL_SECONDS))
        for pid, boot in zip(dataset_frames.qemu_pids(scene.boots), scene.boots, strict=True)
    ]
    return ledger.snapshot(guests, [boot.daemon_pid for boot in scene.boots if boot.daemon_pid is not None])


def _memory(before: ledger.Snapshot, after: ledger.Snapshot, host_data: int) -> dict[str, float]:
    """Bytes of the machine in use, and of its parties after the reading."""
    table = ledger.ledger(after)
    guests = table["guests"]
    parties = [*guests, *table["qemu"], *table["daemons"]]
    metrics: dict[str, float] = {
        "held_bytes": host_data + sum(sum(party.values()) for party in parties),
        "host_data_bytes": host_data,
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
    return {"storage_bytes": sum(_allocated(image.image) for image in dataset_frames.images_of(scene.data))}


def _allocated(path: Path) -> int:
    return path.stat().st_blocks * 512


def _merged(scene: Scene, held_bytes: float) -> tuple[dict[str, float], str]:
    """Copies and memory at KSM's plateau, at its fastest setting, with KSM's settings; the cost of slower ones is ksm_cost's question."""
    with scanning(scene, FAST) as scanner:
        baseline = scanner.sample()
        reached = settle(scanner)
        after = _snapshot(scene)
        cost = ksm.cost(baseline, reached)
        metrics = {
            "merged_copies_ratio": _frames(scene)["physical_copies"],
            "merged_held_bytes": held_bytes - cost.saved_bytes,
            "merged_used_bytes": after["host"]["total_bytes"] - after["host"]["free_bytes"],
            "merged_saved_bytes": cost.saved_bytes,
            "merged_zero_bytes": cost.zero_pages * ksm.PAGE_SIZE,
            "plateau_seconds": cost.seconds,
        }
        if cost.pages_scanned is not None:
            metrics["merging_scanned_pages"] = cost.pages_scanned
        if cost.cpu_seconds is not None:
            metrics["merging_cpu_seconds"] = cost.cpu_seconds
        return metrics, settings_note(scanner)


PROBE: Final = Probe("density", run, seconds=30.0)
