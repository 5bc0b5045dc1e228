"""What a residency trial counts: the frames that hold a page of the data, by who holds them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .host_data import READ_PARTS, DataSet, HostData
from .workloads import Workload


def copies(
    workload: Workload,
    dataset: DataSet,
    data: HostData,
    guest: Mapping[str, Mapping[str, int]] | None,
    daemon_pages: int = 0,
) -> dict[str, Any]:
    """``copies``, ``extra_pages``, ``overhead_pages`` and ``reclaimed_pages`` of one residency trial, after its workload.

    R is what the workload is defined to read, all of it (its bytes are asserted). Of ``some`` nobody knows it: after a cold start R is at
    least what the party holds that holds most, and a part of which nobody holds a page is left out. ``guest``: residency of the held parts in the guest.
    """
    read = READ_PARTS[workload.reads.part]
    guest = guest or {}
    groups = {"all": read} | {name: tuple(part for part in read if part.endswith(name)) for name in ("large", "small")}
    counted = {
        name: {
            "accessed_pages": dataset.pages(parts),
            "host_pages": data.resident_pages(parts),
            "guest_pages": sum(guest[part]["resident_pages"] for part in parts if part in guest),
            "daemon_pages": daemon_pages if name == "all" else 0,
        }
        for name, parts in groups.items()
        if parts
    }
    # Where the path does not use the host's cache, what the kernel remembers is from before this trial.
    reclaimed = data.reclaimed_pages(read) if counted["all"]["host_pages"] else 0
    if workload.reads.part == "some":
        for count in counted.values():
            count["accessed_pages"] = max(count[party] for party in ("host_pages", "guest_pages", "daemon_pages"))
        counted = {name: count for name, count in counted.items() if count["accessed_pages"]}
    outside = tuple(part for part in dataset.files if part not in read)
    extra = data.resident_pages(outside) + sum(guest[part]["resident_pages"] for part in outside if part in guest)
    return {
        "copies": counted,
        "extra_pages": extra,
        "overhead_pages": data.overhead_pages(),
        "reclaimed_pages": reclaimed,
    }
