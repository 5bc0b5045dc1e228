"""What the kit itself adds to a trial: all but reaching and verifying the state and the workload."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any, Final

# Beyond these the kit would be measuring itself.
LIMIT_SECONDS: Final = {"kvm": 0.25, "tcg": 1.5, "none": 0.25}
# From the start of an emulated guest with its daemon until its runner answers, on a machine with two cores.
READY_LIMIT_SECONDS: Final = 8.0


def by_kind(records: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Per kind of trial and accelerator: ``n``, ``median_seconds``, ``max_seconds``, ``limit_seconds``, ``is_within`` (the median's verdict)."""
    seconds: dict[tuple[str, str], list[float]] = {}
    for record in records:
        if record["status"] == "ok" and "overhead" in record.get("phases", {}):
            seconds.setdefault((record["kind"], record["accelerator"]), []).append(record["phases"]["overhead"])
    rows = []
    for (kind, accelerator), values in sorted(seconds.items()):
        median, limit = statistics.median(values), LIMIT_SECONDS[accelerator]
        rows.append(
            {"kind": kind, "accelerator": accelerator, "n": len(values), "median_seconds": median}
            | {"max_seconds": max(values), "limit_seconds": limit, "is_within": median <= limit}
        )
    return rows


def readiness(manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One row as by_kind has them, for the boots with one guest: from the start until the guest was ready; no row where none is known."""
    boots = [boot for host in manifest.get("hosts", {}).values() for boot in host.get("boots", [])]
    fleets = {boot["like"] for boot in boots if "like" in boot}
    seconds = [
        boot["hello_seconds"]
        for boot in boots
        if "hello_seconds" in boot and boot["system"] != "hfs" and not fleets & {boot["boot_id"], boot.get("like")}
    ]
    if not seconds:
        return []
    median = statistics.median(seconds)
    row = {"kind": "boot", "accelerator": manifest["accelerator"], "n": len(seconds), "median_seconds": median}
    row |= {"max_seconds": max(seconds), "limit_seconds": READY_LIMIT_SECONDS}
    return [row | {"is_within": median <= READY_LIMIT_SECONDS}]


def lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The rows for a person."""
    found = []
    for row in rows:
        is_boot = row["kind"] == "boot"
        what, things = ("a guest is ready", "boots") if is_boot else (f"a {row['kind']} trial's own overhead", "trials")
        found.append(
            f"{what} ({row['accelerator']}): median {row['median_seconds']:.2f} s, at most {row['max_seconds']:.2f} s "
            f"over {row['n']} {things}; limit {row['limit_seconds']:g} s: {'kept' if row['is_within'] else 'EXCEEDED'}"
        )
    return found
