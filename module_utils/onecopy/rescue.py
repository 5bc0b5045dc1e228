"""Bring records that a KVM host still holds into the controller's reports, before the host's state is removed."""

from __future__ import annotations

from pathlib import Path

from . import records
from .run_directory import RunDirectory

UNKNOWN = "rescued"


def find_run(reports: Path, run_id: str) -> RunDirectory | None:
    """Return the run of that id below any experiment, or None when this controller does not know it."""
    found = sorted(path.parent for path in reports.glob(f"*/{run_id}/plan.json"))
    return RunDirectory(found[0]) if found else None


def rescue(reports: Path, run_id: str, host: str, fetched: Path, *, check_mode: bool = False) -> tuple[Path, int]:
    """Store those of ``fetched`` that are missing; return where, and how many.

    Records of a run that this controller does not know are kept below ``reports/rescued/``. Raises OSError.
    """
    whole = records.read(fetched).records
    run = find_run(reports, run_id)
    if run is not None:
        missing = [record for record in whole if record["id"] not in run.done(host)]
        if missing and not check_mode:
            run.add_records(host, missing)
        return run.results, len(missing)
    path = reports / UNKNOWN / run_id / f"{host}.jsonl"
    known = {record["id"] for record in records.read(path).records}
    missing = [record for record in whole if record["id"] not in known]
    if missing and not check_mode:
        path.parent.mkdir(parents=True, exist_ok=True)
        records.append(path, *missing)
    return path, len(missing)
