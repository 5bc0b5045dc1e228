"""What the kit itself adds to a trial: all but reaching and verifying the state and the workload."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from typing import Any, Final

# Beyond these the kit would be measuring itself.
LIMIT_SECONDS: Final = {"kvm": 0.25, "tcg": 1.5, "none": 0.25}


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


def lines(rows: Iterable[Mapping[str, Any]]) -> list[str]:
    """The rows for a person."""
    return [
        f"a {row['kind']} trial's own overhead ({row['accelerator']}): median {row['median_seconds']:.2f} s, "
        f"at most {row['max_seconds']:.2f} s over {row['n']} trials; limit {row['limit_seconds']:g} s: "
        f"{'kept' if row['is_within'] else 'EXCEEDED'}"
        for row in rows
    ]
