"""One line per finished trial for the person who waits."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, Final

from .plan import estimate

# Metrics of a probe that fit a line.
_SHOWN: Final = 3


def trial_line(host: str, position: int, total: int, record: Mapping[str, Any], left_seconds: float | None) -> str:
    """What one trial found, or why it found nothing."""
    guest = "" if record["guest_cache"] == "none" else f", guest {record['guest_cache']}"
    if record["status"] == "ok" and record["kind"] == "probe":
        found = ", ".join(f"{name} {value:.4g}" for name, value in list(record["probe"]["metrics"].items())[:_SHOWN])
    elif record["status"] == "ok":
        found = f"{record['result']['wall_seconds']:.2f} s"
        if "copies" in record:
            counted = record["copies"]["all"]
            frames = counted["host_pages"] + counted["guest_pages"] + counted["daemon_pages"]
            found += f"  {frames / counted['accessed_pages']:.2f} copies"
    else:
        found = f"{record['status'].upper()} {record['reason']}: {record['message']}"
    left = "" if left_seconds is None else f"   {duration(left_seconds)} left"
    what = f"{record['label']}  host {record['host_cache']}{guest}  {record['workload']}"
    return f"{host}  {position:{len(str(total))}}/{total}  {what}  {found}{left}"


def plan_lines(plan: Mapping[str, Any]) -> list[str]:
    """What is about to be done: printed before anything starts."""
    boots = len({trial["block"] for trial in plan["trials"]})
    lines = [
        f"{plan['experiment']}: {len(plan['trials'])} trials in {boots} boots, {repeats(plan)} of every system, accelerator "
        f"{plan['accelerator']}: {duration(plan['estimate_seconds'])}"
    ]
    if plan["accelerator"] == "tcg":
        lines.append("guests are emulated (TCG): page counts and request counts are claims, times are not")
    for item in plan["unsupported"]:
        lines.append(f"unsupported: {item['label']} ({item['trials']} trials): {item['reason']}")
    for item in plan["excluded"]:
        state = item.get("workload") or f"host {item['host_cache']}, guest {item['guest_cache']}"
        lines.append(f"not applicable: {item['label']} with {state} ({item['trials']} trials): {item['reason']}")
    return lines


def repeats(plan: Mapping[str, Any]) -> str:
    """How often every system boots, and who decides that."""
    rule = plan.get("adaptive")
    if rule is None:
        return str(plan["repeats"])
    return f"{rule['minimum']} to {rule['cap']} (until intervals are within {rule['half_width']:.0%} of the median)"


def last_lines(records: Iterable[Mapping[str, Any]], total: int, needless: int = 0) -> list[str]:
    """How the run ended: counts by status, and every reason with its number; ``needless`` trials an adaptive run did without."""
    every = list(records)
    statuses = Counter(str(record["status"]) for record in every)
    parts = [f"{statuses[status]} {status}" for status in ("ok", "invalid", "failed", "timeout") if statuses[status]]
    lines = [f"{len(every)} of {total} trials have a record: {', '.join(parts) or 'none'}"]
    reasons = Counter(str(record["reason"]) for record in every if record["status"] != "ok")
    if needless:
        lines.append(f"{needless} trials were not needed: the intervals were narrow enough before")
    return [*lines, *(f"{number} x {reason}" for reason, number in reasons.most_common())]


def left_seconds(
    plan: Mapping[str, Any],
    done: frozenset[str],
    worked_seconds: float,
    done_now: frozenset[str],
    needless: frozenset[str] = frozenset(),
) -> float:
    """Seconds that remain: the estimate, corrected by how the estimate did for what was ``done_now`` in ``worked_seconds``.

    ``needless`` trials will not be done; of an adaptive run it is the most that may remain.
    """
    left = estimate(plan, done | needless)
    before = frozenset(trial["id"] for trial in plan["trials"]) - done_now
    expected = estimate(plan, before)
    return left * worked_seconds / expected if expected > 0 and worked_seconds > 0 else left


def duration(seconds: float) -> str:
    """About how long, for a person."""
    if seconds < 90:
        return f"about {max(1, round(seconds))} s"
    if seconds < 90 * 60:
        return f"about {round(seconds / 60)} min"
    return f"about {seconds / 3600:.1f} h"
