"""What content-based sharing (KSM) saves and costs at one setting, and what it misses: pages that live shorter than its scan takes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any, Final

from .. import ksm
from ..ksm_run import Scanner, scanning
from ..paths import MACHINE
from ..systems import System
from .scene import Probe, Probed, ProbeError, Scene

_MIB: Final = 1 << 20
_CALL_SECONDS: Final = 60.0
# To have merged what is there before a read, the scanner may be as fast as it can.
_FAST: Final = {"pages_to_scan": 20000, "sleep_millisecs": 10}
_FAST_SECONDS: Final = 60.0
# Left free while a guest's free memory is overwritten: less, and the kernel would begin to reclaim.
_SPARE_MIB: Final = 32


def run(scene: Scene) -> Probed:
    """Merge the data set at the setting of the parameters, then pages of known life; each time from an unmerged start.

    Every page lies in as many places as there are guests; one guest alone reads both trees. ``merged_ratio`` = places of read pages that
    were merged ÷ places; ``merged_after_Ns_ratio`` the same for pages that are dropped N seconds after they were read. What merges before
    the read is baseline and not counted. Raises ProbeError, KsmAbsentError, KnobError.
    """
    for boot in scene.boots:
        if not any("merge=on" in word for word in boot.command_lines["qemu"]):
            raise ProbeError("this guest's memory cannot be merged: give the system options: {memory: private_merge}")
    parameters = scene.parameters
    tested = {"pages_to_scan": parameters["pages_to_scan"], "sleep_millisecs": parameters["sleep_millisecs"]}
    common = {"use_zero_pages": 1, "advisor_mode": "none", "smart_scan": int(parameters["smart_scan"])}
    with scanning(common | tested, MACHINE / "knobs") as scanner:
        metrics, series = _whole_set(scene, scanner, tested)
        lives = []
        for life in parameters["lives"]:
            age, ratio = _short_life(scene, scanner, tested, float(life))
            lives.append([age, ratio])
            metrics[f"merged_after_{life}s_ratio"] = ratio
        series["merged_by_life_ratio"] = lives
        settings = ", ".join(f"{name} {value}" for name, value in scanner.settings().items())
    notes = "" if "plateau_seconds" in metrics else f"no plateau within {parameters['limit_seconds']:g} s; "
    return Probed(metrics, series, f"{notes}KSM: {settings}")


def _whole_set(
    scene: Scene, scanner: Scanner, tested: Mapping[str, Any]
) -> tuple[dict[str, float], dict[str, list[list[float]]]]:
    _afresh(scene, scanner, tested)
    baseline = scanner.sample()
    _read(scene, "")
    read_at = time.monotonic()
    samples, reached = scanner.watch(float(scene.parameters["limit_seconds"]))
    last = samples[-1]
    pages = scene.context.dataset.pages(("a/large", "a/small"))
    saved = last.pages_sharing - baseline.pages_sharing
    cost = ksm.cost(baseline, samples[reached if reached is not None else -1])
    metrics: dict[str, float] = {
        "baseline_merged_bytes": baseline.pages_sharing * ksm.PAGE_SIZE,
        "saved_bytes": saved * ksm.PAGE_SIZE,
        "zero_saved_bytes": (last.zero_pages - baseline.zero_pages) * ksm.PAGE_SIZE,
        "merged_ratio": _merged_places(baseline, last) / (_places(scene) * pages),
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


def _short_life(scene: Scene, scanner: Scanner, tested: Mapping[str, Any], life: float) -> tuple[float, float]:
    """Mean age of a large file's pages when they were dropped (they are read one after another), and the share of them that was merged."""
    name = scene.context.dataset.large_file()
    pages = next(-(-size // ksm.PAGE_SIZE) for path, size in scene.context.dataset.files["a/large"] if path == name)
    _afresh(scene, scanner, tested)
    baseline = scanner.sample()
    started = time.monotonic()
    _read(scene, name.partition("/")[2])
    read_at = time.monotonic()
    time.sleep(life)
    last = scanner.sample()
    _drop(scene)
    return last.seconds - (started + read_at) / 2, _merged_places(baseline, last) / (_places(scene) * pages)


def _afresh(scene: Scene, scanner: Scanner, tested: Mapping[str, Any]) -> None:
    """Nothing of the data in any guest's memory, free pages included; what else can be merged is; then the setting under test."""
    _drop(scene)
    for boot in scene.boots:
        # Freed pages keep their content: KSM would merge the data read next with what an earlier read left there.
        boot.runner.call(
            "mount", _CALL_SECONDS, source="tmp", target="/tmp", fstype="tmpfs", options="remount,size=95%"
        )
        free = boot.runner.call("memory", _CALL_SECONDS)["MemFree"]
        count = max(1, free // _MIB - _SPARE_MIB)
        scene.run(boot, ["dd", "if=/dev/urandom", "of=/tmp/unique", "bs=1M", f"count={count}"])
        scene.run(boot, ["rm", "/tmp/unique"])
    scanner.unmerge()
    scanner.set(**_FAST)
    if scanner.watch(_FAST_SECONDS)[1] is None:
        raise ProbeError(
            f"merging came to no end within {_FAST_SECONDS:g} s before anything was read: is this host at work?"
        )
    scanner.set(**tested)


def _read(scene: Scene, part: str) -> None:
    if len(scene.boots) == 1:
        for tree in "ab":
            scene.read(scene.boot, part, tree)
    else:
        for boot in scene.boots:
            scene.read(boot, part)


def _drop(scene: Scene) -> None:
    for boot in scene.boots:
        boot.runner.call("release", _CALL_SECONDS)
        boot.runner.call("drop", _CALL_SECONDS, what=3)


def _places(scene: Scene) -> int:
    return max(2, len(scene.boots))


def _merged_places(before: ksm.Sample, after: ksm.Sample) -> int:
    return after.pages_shared + after.pages_sharing - before.pages_shared - before.pages_sharing


def _unsuitable(system: System, parameters: Mapping[str, Any]) -> str | None:
    del parameters
    if system.storage == "share":
        return "KSM merges private memory alone: a share's daemon needs the guest's memory shared"
    if system.dax:
        return "KSM merges private memory alone: this guest reads pages of the host's page cache"
    return None


PROBE: Final = Probe(
    "ksm_cost",
    run,
    {"pages_to_scan": 100, "sleep_millisecs": 20, "smart_scan": True, "lives": [1, 5, 30], "limit_seconds": 120.0},
    _unsuitable,
    seconds=150.0,
)
