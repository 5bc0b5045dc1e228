"""Table on guests that read files which overlap: whether the memory that holds these follows the overlap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final

from .document import Block, Column, Table, Text, text_row
from .results import row_name
from .stored_run import Run

Row = Mapping[str, Any]
PROBE: Final = "overlap"
_EXPLAINED: Final = (
    "Frames that hold what the guests read ÷ pages that they read. “Follows”: by how much the frames become fewer from the least overlap to the "
    "largest ÷ by how much the distinct pages do: 1 where one frame of each page serves all guests, 0 where each has its own. Frames above 1 "
    "without overlap are copies that one guest alone causes (its own cache beside the host's): these follow nothing."
)


def overlap_tables(run: Run, rows: Sequence[Row]) -> list[Block]:
    """Medians over boots, of rows of this probe alone; nothing where all guests read with one overlap."""
    overlaps = {
        label: float(entry["parameters"]["overlap"])
        for label, entry in run.plan["probes"].items()
        if entry["probe"] == PROBE
    }
    shares = sorted(set(overlaps.values()))
    if len(shares) < 2:
        return []
    frames: dict[str, dict[float, float]] = {}
    ideals: dict[str, dict[float, float]] = {}
    for row in rows:
        found = {"frames_per_read_ratio": frames, "ideal_ratio": ideals}.get(row["metric"])
        if found is not None:
            found.setdefault(row_name(run, row), {})[overlaps[row["probe"]]] = row["value"]
    columns = [Column("system"), *(Column(f"overlap {share:.0%}", "frames (ideal)", "right") for share in shares)]
    columns.append(Column("follows", "0 to 1", "right"))
    cells = []
    for name, values in frames.items():
        shown = [f"{values[share]:.2f} ({ideals[name][share]:.2f})" if share in values else "" for share in shares]
        cells.append(text_row(name, *shown, _follows(values, ideals[name])))
    return [Text(_EXPLAINED), Table(columns, cells, "Does memory follow the overlap?")]


def _follows(frames: Mapping[float, float], ideal: Mapping[float, float]) -> str:
    least, most = min(frames), max(frames)
    return f"{(frames[least] - frames[most]) / (ideal[least] - ideal[most]):.2f}" if least < most else ""
