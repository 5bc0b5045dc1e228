"""The second, equal tree of a data set: whether there is one, and who could not do without. Controller alone."""

from __future__ import annotations

import string
from collections.abc import Iterable, Mapping
from typing import Any

from .probes import PROBES
from .workloads import Workload


def _has_twin(dataset: Mapping[str, Any]) -> bool:
    """Whether an experiment's ``dataset`` has tree b: a made one unless it says no, a copy of somebody's files never."""
    return _is_made(dataset) and bool(dataset.get("twin", True))


def why_wrong(
    dataset: Mapping[str, Any],
    workloads: Iterable[tuple[str, str, Workload]],
    probes: Iterable[tuple[str, str]],
    guests: int,
) -> str | None:
    """None, or one line on what asks for a twin that is not there: place, what, cure.

    ``workloads`` and ``probes``: place in the experiment and name, of a workload also the definition; ``guests``: the fewest at once.
    """
    if _has_twin(dataset):
        return None
    if dataset.get("twin"):
        return "dataset.twin: only a data set that is made has one: take twin away"
    keep = ", or twin: false from dataset" if _is_made(dataset) else ""
    for place, name, workload in workloads:
        if _reads_twin(workload):
            return f"{place}: {name!r} reads the second tree, and this data set has no twin: take it away{keep}"
    for place, name in probes:
        least = PROBES[name].twin_below_guests
        if guests < least:
            return (
                f"{place}: {name} reads the second tree with {guests} guest, and this data set has no twin: "
                f"take {least} guests or more{keep}"
            )
    return None


def _is_made(dataset: Mapping[str, Any]) -> bool:
    return "from" not in dataset and "guest_root" not in dataset


def _reads_twin(workload: Workload) -> bool:
    words = [workload.cwd, *(word for argv in workload.pipeline for word in argv)]
    return workload.reads.part == "both" or any("twin" in string.Template(word).get_identifiers() for word in words)
