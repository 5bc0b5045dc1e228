"""What probes of content-based sharing have in common: guests whose memory can be merged, brought to a start at which nothing read is merged."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

from .. import dataset_frames, host_settings, ksm, ksm_run
from ..ksm_run import Scanner
from ..merged_places import ReadPages
from ..paths import MACHINE
from ..systems import System
from .scene import ProbeError, Scene

_MIB: Final = 1 << 20
_CALL_SECONDS: Final = 60.0
# As fast as it can, passing no page by: for what has to be merged before, or where its cost is not the question.
FAST: Final = {"pages_to_scan": 20000, "sleep_millisecs": 10, "smart_scan": 0}
_FAST_SECONDS: Final = 60.0
# Zero pages are counted apart, nothing but the settings that a probe gives steers the scanner, and the kernel's own defaults hold for the rest.
_COMMON: Final = {"use_zero_pages": 1, "advisor_mode": "none", "smart_scan": 1, "max_page_sharing": 256}
# Left free while a guest's free memory is overwritten: less, and the kernel would begin to reclaim.
_SPARE_MIB: Final = 32


def is_mergeable(scene: Scene) -> bool:
    """Whether every guest's memory is private and offered to KSM."""
    return all(any("merge=on" in word for word in boot.command_lines["qemu"]) for boot in scene.boots)


def why_not_mergeable(system: System, parameters: Mapping[str, Any]) -> str | None:
    """Why no option makes the memory of this system's guests mergeable, or None."""
    del parameters
    if system.storage == "share":
        return "KSM merges private memory alone: a share's daemon needs the guest's memory shared"
    if system.dax:
        return "KSM merges private memory alone: this guest reads pages of the host's page cache"
    return None


def settings_note(scanner: Scanner) -> str:
    """KSM's settings and the host's for huge pages, in words for a record."""
    return "settings: " + ", ".join(f"{name} {value}" for name, value in scanner.settings().items())


def drop(scene: Scene) -> None:
    """Empty the guests' page caches."""
    for boot in scene.boots:
        boot.runner.call("release", _CALL_SECONDS)
        boot.runner.call("drop", _CALL_SECONDS, what=3)


def start_afresh(scene: Scene, scanner: Scanner, *, is_aged: bool = False) -> None:
    """Nothing of the data in any guest's memory, free pages included, and whatever else can be merged is. KSM is fast afterwards.

    ``is_aged``: all memory was scanned so often that smart_scan passes most of it by, which it does then, as in guests that run for long.
    Raises ProbeError.
    """
    drop(scene)
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
    scanner.set(**FAST)
    if is_aged:
        scanner.set(smart_scan=1)
    settle(scanner)


def read_pages(scene: Scene, parts: Collection[str]) -> ReadPages:
    """The pages of these parts (large, small), or files, that the guests read from now on. Raises PageFramesError, OSError."""
    manifest = scene.context.paths.dataset_manifest(scene.context.plan["dataset"]["name"])
    return ReadPages(dataset_frames.qemu_pids(scene.boots), dataset_frames.wanted_pages(manifest, parts))


def settle(scanner: Scanner) -> ksm.Sample:
    """Wait until merging is done. Raises ProbeError."""
    samples, reached = scanner.watch(_FAST_SECONDS)
    if reached is None:
        raise ProbeError(f"merging came to no end within {_FAST_SECONDS:g} s: is this host at work?")
    return samples[-1]


@contextmanager
def scanning(scene: Scene, settings: Mapping[str, Any]) -> Iterator[Scanner]:
    """KSM from nothing merged, with ``settings`` over the common ones; the run's hold again afterwards. Raises KsmAbsentError, KnobError."""
    of_run = host_settings.of_run(scene.context.plan)
    with ksm_run.scanning({**_COMMON, **settings}, MACHINE / "knobs", of_run) as scanner:
        yield scanner


@contextmanager
def fast_scanner(scene: Scene) -> Iterator[Scanner | None]:
    """KSM at its fastest, started afresh, where the guests' memory can be merged; None where it cannot."""
    if not is_mergeable(scene):
        yield None
        return
    with scanning(scene, FAST) as scanner:
        start_afresh(scene, scanner)
        yield scanner
