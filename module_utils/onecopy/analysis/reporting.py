"""From a stored run to summary.json, report.html and report.md in its directory."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from . import claims, report, stored_run, two_runs
from .ranking import ranking_lines
from .results import TCG_BANNER
from .stored_run import RunError
from .summary import dump, summarise


@dataclass(frozen=True, slots=True)
class Report:
    """The files of a report by name, not stored yet; ``lines`` say the outcome to a person at a terminal."""

    directory: Path
    files: Mapping[str, str]
    lines: list[str]


def make(path: Path, claims_path: Path, templates: Path) -> Report:
    """Summarise and render the run at ``path``; an experiment's directory means its newest run.

    Raises RunError and ClaimsError.
    """
    directory = newest(path)
    run = stored_run.load(directory)
    summary = summarise(run, claims.load(claims_path))
    files = {"summary.json": dump(summary), **report.render(report.document(run, summary), templates)}
    return Report(directory, files, lines(summary, directory))


def against(path: Path, other: Path, claims_path: Path, templates: Path, *, anyway: bool = False) -> Report:
    """Compare the run at ``path`` with the one at ``other``: ``against-RUN_ID`` as JSON, page and Markdown beside the first.

    Raises RunError, ClaimsError, SameRunError, and NotComparableError unless it is wanted ``anyway``.
    """
    directory = newest(path)
    runs = stored_run.load(directory), stored_run.load(newest(other))
    compared = two_runs.compare(*runs, claims.load(claims_path), anyway=anyway)
    stem = f"against-{compared['to']['run_id']}"
    pages = report.render(two_runs.document(compared), templates)
    files = {f"{stem}.json": two_runs.dump(compared)}
    files |= {f"{stem}{Path(name).suffix}": text for name, text in pages.items()}
    return Report(directory, files, [*two_runs.lines(compared), f"comparison: {directory / f'{stem}.html'}"])


def store(made: Report, *, dry: bool = False) -> bool:
    """Write what differs from what is there, each file whole or not at all; returns whether anything differed.

    Nothing is written ``dry``. Raises RunError when a file cannot be written.
    """
    changed = False
    for name, text in made.files.items():
        path = made.directory / name
        content = text.encode()
        try:
            if path.is_file() and path.read_bytes() == content:
                continue
            changed = True
            if not dry:
                _write(path, content)
        except OSError as error:
            raise RunError(
                f"{path}: cannot be written: {error.strerror}: make room there, or mend its rights"
            ) from None
    return changed


def newest(path: Path) -> Path:
    """``path`` when it is a run, otherwise the newest run of an experiment, or of all of them. Raises RunError."""
    if (path / "plan.json").is_file():
        return path
    runs = [file.parent for pattern in ("*/plan.json", "*/*/plan.json") for file in path.glob(pattern)]
    if not runs:
        raise RunError(f"{path}: holds no run: name the directory of a run or of an experiment")
    return max(runs, key=lambda run: run.name)


def lines(summary: Mapping[str, Any], directory: Path) -> list[str]:
    """Copies of every system, the A/A outcome, verdicts and where the report is."""
    text = []
    whole = [row for row in summary["copies"] if row["part"] == "all"]
    for label in dict.fromkeys(row["label"] for row in whole):
        found = [row for row in whole if row["label"] == label]
        states = ", ".join(
            f"{row['copies']:.2f} (host {row['host_cache']}, guest {row['guest_cache']})" for row in found
        )
        text.append(f"{label:<16} copies {states}")
    text += ranking_lines(summary.get("ranking", []))
    text.append(f"A/A pair: {summary['aa']['outcome']}")
    decided = [f"{claim['id']} {claim['verdict']}" for claim in summary["claims"] if claim["verdict"] != "inconclusive"]
    undecided = len(summary["claims"]) - len(decided)
    text.append("claims: " + ", ".join([*decided, f"{undecided} inconclusive"]))
    if summary["accelerator"] == "tcg":
        text.append(TCG_BANNER)
    return [*text, f"report: {directory / 'report.html'}"]


def _write(path: Path, content: bytes) -> None:
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
