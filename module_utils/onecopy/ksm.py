"""KSM: its counters, what merging cost, and when it is done. KSM merges private anonymous memory alone, never shared memory or page cache."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

PAGE_SIZE: Final = 4096
DIRECTORY: Final = Path("/sys/kernel/mm/ksm")
BOXED_KSMD: Final = Path("/run/onecopy-ksmd")  # a box does not see the machine's threads: this one is bound there
# A page is merged at its second visit at the earliest, when its content was the same as at the first. With smart_scan the kernel passes a page
# by that was not merged for long in up to 8 scans between two visits (mm/ksm.c, Linux 6.7 and later), so two visits can take 18 scans.
# The first scan that ends had begun before, and proves nothing about the pages behind which it already was.
_SCANS_OF_TWO_VISITS: Final = 1 + 2
_SMART_SCANS_OF_TWO_VISITS: Final = 1 + 18


class Sample(NamedTuple):
    """KSM's counters at one moment of the monotonic clock. ``cpu_seconds`` of ksmd is None where its process is not to be seen.

    ``pages_sharing`` is how many pages were saved; zero pages are counted apart.
    """

    seconds: float
    pages_shared: int
    pages_sharing: int
    pages_unshared: int
    pages_volatile: int
    zero_pages: int
    full_scans: int
    pages_scanned: int | None
    cpu_seconds: float | None

    @property
    def saved_bytes(self) -> int:
        """Memory that merging saved, zero pages included."""
        return (self.pages_sharing + self.zero_pages) * PAGE_SIZE


class KsmAbsentError(Exception):
    """This kernel has no KSM."""


def sample(seconds: float, directory: Path = DIRECTORY, ksmd: Path | None = None) -> Sample:
    """The counters now; ``seconds`` is the caller's clock, ``ksmd`` what find_ksmd() said. Raises KsmAbsentError."""
    if not (directory / "pages_sharing").exists():
        raise KsmAbsentError(f"{directory}: this kernel has no KSM (CONFIG_KSM)")
    return Sample(
        seconds,
        _number(directory, "pages_shared") or 0,
        _number(directory, "pages_sharing") or 0,
        _number(directory, "pages_unshared") or 0,
        _number(directory, "pages_volatile") or 0,
        # Older kernels count zero pages nowhere, and merge them as any other.
        _number(directory, "ksm_zero_pages") or 0,
        _number(directory, "full_scans") or 0,
        _number(directory, "pages_scanned"),
        None if ksmd is None else _cpu_seconds(ksmd),
    )


def find_ksmd(proc: Path = Path("/proc"), boxed: Path = BOXED_KSMD) -> Path | None:
    """The process directory of KSM's thread; None in a container that sees nothing of it. Ask once: it looks through all processes."""
    for process in (boxed, *(proc / name for name in os.listdir(proc) if name.isdigit())):
        try:
            if (process / "comm").read_text("utf-8", "replace") == "ksmd\n":
                return process
        except (FileNotFoundError, ProcessLookupError):
            continue
    return None


def plateau(samples: Sequence[Sample], is_smart: bool, tolerance: float = 0.01) -> int | None:
    """Index of the first sample from which on merging is done; None while it goes on, or while nobody can know.

    Done means that every page was visited twice since, by whole scans, with ``pages_sharing`` within ``tolerance`` of the last value;
    time proves nothing. ``is_smart``: whether KSM passes pages by (``smart_scan``), which takes more scans.
    """
    scans = _SMART_SCANS_OF_TWO_VISITS if is_smart else _SCANS_OF_TWO_VISITS
    if not samples:
        return None
    last = samples[-1]
    allowed = max(1.0, tolerance * last.pages_sharing)
    start = len(samples) - 1
    while start > 0 and abs(samples[start - 1].pages_sharing - last.pages_sharing) <= allowed:
        start -= 1
    return start if last.full_scans - samples[start].full_scans >= scans else None


class Cost(NamedTuple):
    """What merging took from a baseline to its plateau."""

    seconds: float
    full_scans: int
    saved_bytes: int
    zero_pages: int
    pages_scanned: int | None
    cpu_seconds: float | None


def cost(baseline: Sample, reached: Sample) -> Cost:
    """The change between two samples; ``zero_pages`` are in ``saved_bytes`` and shown apart."""
    scanned = (
        None
        if baseline.pages_scanned is None or reached.pages_scanned is None
        else reached.pages_scanned - baseline.pages_scanned
    )
    cpu = (
        None
        if baseline.cpu_seconds is None or reached.cpu_seconds is None
        else reached.cpu_seconds - baseline.cpu_seconds
    )
    return Cost(
        reached.seconds - baseline.seconds,
        reached.full_scans - baseline.full_scans,
        reached.saved_bytes - baseline.saved_bytes,
        reached.zero_pages - baseline.zero_pages,
        scanned,
        cpu,
    )


def process_merged_pages(pid: int, proc: Path = Path("/proc")) -> int | None:
    """Pages of one process that KSM merged; None where the kernel does not tell by process (before Linux 6.1)."""
    try:
        lines = (proc / str(pid) / "ksm_stat").read_text("ascii").splitlines()
    except FileNotFoundError:
        return _number(proc / str(pid), "ksm_merging_pages")
    fields = dict(line.replace(":", " ").split()[:2] for line in lines if line.strip())
    return int(fields["ksm_merging_pages"]) if "ksm_merging_pages" in fields else None


def _number(directory: Path, name: str) -> int | None:
    try:
        return int((directory / name).read_text("ascii"))
    except FileNotFoundError:
        return None


def _cpu_seconds(process: Path) -> float:
    # Nanoseconds on a CPU, the first of schedstat's numbers.
    return int((process / "schedstat").read_text("ascii").split()[0]) / 1e9
