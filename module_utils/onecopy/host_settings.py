"""Host settings by name: where each lies, which of them this host has, and setting several so that they come back."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from . import knobs
from .knobs import KnobError

_KSM: Final = "sys/kernel/mm/ksm"
_THP: Final = "sys/kernel/mm/transparent_hugepage"
# KSM takes CPU time and merges what is counted. A probe about it switches it on for itself. Huge pages are the kernel's defaults everywhere: in a
# guest's shared memory they would back 2 MiB where a page was touched.
_QUIET: Final = {"ksm_run": 0, "thp_enabled": "madvise", "thp_shmem_enabled": "never"}


@dataclass(frozen=True, slots=True)
class Place:
    """Files below the root (a glob), and what ``on`` and ``off`` are called there."""

    pattern: str
    words: Mapping[str, str] = field(default_factory=dict)


# The first place that exists counts. KSM's switch stands last of its kind: it is set last.
SETTINGS: Final[Mapping[str, tuple[Place, ...]]] = {
    **{
        f"ksm_{name}": (Place(f"{_KSM}/{name}"),)
        for name in (
            "max_page_sharing",
            "merge_across_nodes",
            "use_zero_pages",
            "smart_scan",
            "advisor_mode",
            "pages_to_scan",
            "sleep_millisecs",
        )
    },
    "ksm_run": (Place(f"{_KSM}/run"),),
    "thp_enabled": (Place(f"{_THP}/enabled"),),
    "thp_defrag": (Place(f"{_THP}/defrag"),),
    "thp_shmem_enabled": (Place(f"{_THP}/shmem_enabled"),),
    "swappiness": (Place("proc/sys/vm/swappiness"),),
    "numa_balancing": (Place("proc/sys/kernel/numa_balancing"),),
    "mglru": (Place("sys/kernel/mm/lru_gen/enabled"),),
    "damon_reclaim": (Place("sys/module/damon_reclaim/parameters/enabled"),),
    "governor": (Place("sys/devices/system/cpu/cpufreq/policy*/scaling_governor"),),
    "turbo": (
        Place("sys/devices/system/cpu/intel_pstate/no_turbo", {"on": "0", "off": "1"}),
        Place("sys/devices/system/cpu/cpufreq/boost", {"on": "1", "off": "0"}),
    ),
    "read_ahead_kb": (Place("sys/class/bdi/{device}/read_ahead_kb"),),
}


@dataclass(slots=True)
class Outcome:
    """Names of the settings that changed, that this host does not have, and the values before, by name and file."""

    changed: list[str] = field(default_factory=list)
    absent: list[str] = field(default_factory=list)
    before: dict[str, dict[str, str]] = field(default_factory=dict)


def of_run(plan: Mapping[str, Any]) -> dict[str, Any]:
    """What holds while a run of ``plan`` lasts: all is off that would disturb, and what its experiment asks for."""
    return {**_QUIET, **plan.get("settings", {})}


def check(wanted: Mapping[str, Any], store: Path | None) -> None:
    """Raise KnobError for an unknown name, a value that is no word or number, or read_ahead_kb without a path."""
    for name, value in wanted.items():
        if name not in SETTINGS:
            raise KnobError(f"{name}: no such setting: known are {', '.join(SETTINGS)}")
        if isinstance(value, (dict, list)) or value is None or not str(value).strip():
            raise KnobError(f"{name}: {value!r} is no value: give a word or a number")
    if "read_ahead_kb" in wanted and store is None:
        raise KnobError("read_ahead_kb: of which device? Give store, a path that lies on it")


def files(name: str, store: Path | None = None, root: Path = Path("/")) -> list[tuple[Path, Mapping[str, str]]]:
    """The files of one setting on this host; none where it does not have it."""
    device = ""
    if "{device}" in SETTINGS[name][0].pattern:
        if store is None:
            return []
        number = os.stat(store).st_dev
        device = f"{os.major(number)}:{os.minor(number)}"
    for place in SETTINGS[name]:
        found = sorted(root.glob(place.pattern.replace("{device}", device)))
        if found:
            return [(path, place.words) for path in found]
    return []


def current(store: Path | None = None, root: Path = Path("/")) -> dict[str, str]:
    """Every setting that this host has and lets be read; where its files differ, all values in one line."""
    values: dict[str, str] = {}
    for name in SETTINGS:
        found = []
        for path, words in files(name, store, root):
            try:
                found.append(_word(knobs.read(path), words))
            except KnobError:
                continue  # some are for root's eyes, some fail while their feature is off
        if found:
            values[name] = " ".join(dict.fromkeys(found))
    return values


def apply(
    wanted: Mapping[str, Any], directory: Path, store: Path | None = None, root: Path = Path("/"), dry: bool = False
) -> Outcome:
    """Set and verify ``wanted``; what was before is remembered in ``directory`` until knobs.restore(). Settings that are absent are named, not set.

    Raises KnobError; what was set by then is remembered and comes back.
    """
    check(wanted, store)
    outcome = Outcome()
    planned: list[tuple[Path, str]] = []
    for name in (name for name in SETTINGS if name in wanted):
        # All are read before the first is set: a value that does not fit changes nothing.
        targets = [(path, _text(wanted[name], words)) for path, words in files(name, store, root)]
        before = {str(path): knobs.read(path) for path, _ in targets}
        planned += targets
        if not targets:
            outcome.absent.append(name)
            continue
        outcome.before[name] = before
        if any(before[str(path)] != text for path, text in targets):
            outcome.changed.append(name)
    for path, text in () if dry else planned:
        knobs.set_knob(directory, path, text)
    return outcome


def _text(value: Any, words: Mapping[str, str]) -> str:
    """What to write. YAML reads a bare on, off, yes and no as truth values."""
    text = {True: "on", False: "off"}[value] if isinstance(value, bool) else str(value).strip()
    if words and text not in words:
        raise KnobError(f"{text!r} is neither {' nor '.join(words)}")
    return words.get(text, text)


def _word(text: str, words: Mapping[str, str]) -> str:
    return next((word for word, raw in words.items() if raw == text), text)
