"""Pause systemd units that would disturb a measurement, remember which, and start exactly those again."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from .commands import run


def parse_active(text: str) -> list[str]:
    """Return the active units in the output of ``systemctl show --property=Id,ActiveState``: blocks of two lines."""
    active = []
    for block in text.strip().split("\n\n"):
        values = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if values.get("ActiveState") in {"active", "activating", "reloading"}:
            active.append(values["Id"])
    return active


def active_units(names: Sequence[str]) -> list[str]:
    """Return which of ``names`` are active here; unknown ones are not."""
    return parse_active(run(["systemctl", "show", "--property=Id,ActiveState", *names])) if names else []


def read_record(record: Path) -> list[str]:
    """Return the units that an earlier call paused."""
    return list(json.loads(record.read_text(encoding="utf-8"))) if record.exists() else []


def pause(names: Sequence[str], record: Path, *, check_mode: bool = False) -> list[str]:
    """Stop the active ones of ``names`` and remember them in ``record`` first; return them."""
    active = active_units(names)
    if active and not check_mode:
        record.parent.mkdir(parents=True, exist_ok=True)
        partial = record.with_name(f"{record.name}.partial")
        partial.write_text(json.dumps(sorted({*read_record(record), *active})), encoding="utf-8")
        partial.replace(record)
        run(["systemctl", "stop", *active])
    return active


def restore(record: Path, *, check_mode: bool = False) -> list[str]:
    """Start what ``record`` names and forget it; return what was started."""
    paused = read_record(record)
    if paused and not check_mode:
        run(["systemctl", "start", *paused])
    if record.exists() and not check_mode:
        record.unlink()
    return paused
