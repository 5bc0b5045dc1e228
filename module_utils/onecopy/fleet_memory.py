"""The memory that a fleet of guests may take, held against what a host has at all, for the plan, and against what is available at a run's start."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

OVERHEAD_MIB: Final = 128  # of one guest: QEMU's own memory under TCG, and a daemon's
USABLE: Final = 0.85  # of the host's memory; the rest is for the host itself and its page cache


def needed_mib(plan: Mapping[str, Any], guests: int) -> int:
    """The most that so many guests of a plan or an experiment take. What they share is not counted on: it is what is to be found out."""
    return guests * (int(plan["guest"]["memory_mib"]) + OVERHEAD_MIB)


def why_never(experiment: Mapping[str, Any], guests: int, capabilities: Mapping[str, Any]) -> str | None:
    """Why a host with these ``capabilities`` can never hold so many guests, or None."""
    memory_mib, needed = capabilities.get("memory_mib"), needed_mib(experiment, guests)
    if memory_mib is None or needed <= USABLE * memory_mib:
        return None
    host = capabilities.get("memory_host", "this host")
    return f"{guests} guests may need {needed} MiB, and {host} has {memory_mib} MiB: fewer guests, or smaller ones"


def why_not_now(plan: Mapping[str, Any], guests: int, available_mib: int) -> str | None:
    """Why so many guests do not fit into the memory that is available now (MemAvailable), or None."""
    needed = needed_mib(plan, guests)
    if needed <= available_mib:
        return None
    fits = available_mib // needed_mib(plan, 1)
    plural = "s" if guests > 1 else ""
    return (
        f"{guests} guest{plural} at once may need {needed} MiB, and {available_mib} MiB of memory are available now: "
        f"end what else uses it, or plan {f'{fits} guests at most' if fits else 'smaller guests'}"
    )
