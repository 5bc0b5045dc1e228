"""One stored run: plan, manifest and records as they lie in ``reports/<experiment>/<run_id>/``."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import records
from ..systems import SYSTEMS

SCHEMA = 1
RECORD_SCHEMAS = (1, 2)
STATUSES = ("ok", "invalid", "failed", "timeout")
PARTS = ("all", "large", "small")
_ORDER = {name: position for position, name in enumerate(SYSTEMS)}

Record = Mapping[str, Any]


class RunError(Exception):
    """A stored run that cannot be analysed; the text is one line: what, where, cure."""


@dataclass(frozen=True)
class Run:
    """Records are merged by host and trial and stand in the order of the plan.

    ``torn`` counts half-written lines that were left out.
    """

    plan: Mapping[str, Any]
    manifest: Mapping[str, Any]
    records: tuple[Record, ...]
    torn: int

    @property
    def experiment(self) -> str:
        return str(self.plan["experiment"])

    @property
    def run_id(self) -> str:
        return str(self.manifest.get("run_id") or self.records[0]["run_id"])

    @property
    def accelerator(self) -> str:
        """``kvm`` or ``tcg``: of the guests; trials of ``hfs`` have none."""
        return str(self.plan["accelerator"])

    @property
    def hosts(self) -> tuple[str, ...]:
        return tuple(sorted({str(record["host"]) for record in self.records}))

    @property
    def adaptive(self) -> Mapping[str, Any] | None:
        """The rule by which this run decided how often to boot, where it had one."""
        return self.plan.get("adaptive")

    def ok(self, kind: str) -> list[Record]:
        return [record for record in self.records if record["status"] == "ok" and record["kind"] == kind]


def load(directory: Path) -> Run:
    """Read a run; raises RunError for a missing or unreadable file, a foreign format version, or no record at all."""
    plan = _document(directory / "plan.json")
    manifest = _document(directory / "manifest.json")
    if plan.get("schema") != SCHEMA:
        raise RunError(
            f"{directory / 'plan.json'}: format version {plan.get('schema')!r}: this kit reads version {SCHEMA}"
        )
    files = sorted([*directory.glob("results.jsonl"), *directory.glob("results-*.jsonl")])
    read = [records.read(file) for file in files]
    merged = records.merge(*(part.records for part in read))
    if not merged:
        raise RunError(f"{directory}: holds no record: run the experiment first")
    foreign = next((record for record in merged if record.get("schema") not in RECORD_SCHEMAS), None)
    if foreign is not None:
        raise RunError(
            f"{directory}: record {foreign['id']} has format version {foreign.get('schema')!r}: this kit reads {' and '.join(map(str, RECORD_SCHEMAS))}"
        )
    return Run(plan, manifest, tuple(merged), sum(part.torn for part in read))


def group(rows: Iterable[Record], keys: tuple[str, ...]) -> dict[tuple[Any, ...], list[Record]]:
    """Records by the values of ``keys``, in the order of the systems table, then by key."""
    groups: dict[tuple[Any, ...], list[Record]] = defaultdict(list)
    for record in rows:
        groups[tuple(record[key] for key in keys)].append(record)
    system = keys.index("system")
    return {key: groups[key] for key in sorted(groups, key=lambda key: (system_order(key[system]), key))}


def system_order(system: str) -> int:
    """Position in the systems table: the order of every table and figure."""
    return _ORDER.get(system, len(_ORDER))


def by_boot(rows: Iterable[Record], value: Callable[[Record], float | None]) -> dict[str, list[float]]:
    """A sample (boot → values of its trials); trials without the value are left out."""
    sample: dict[str, list[float]] = defaultdict(list)
    for record in rows:
        number = value(record)
        if number is not None:
            # The planned boot, not boot_id: a block that went on after a kill is still one repetition, not two.
            sample[f"{record['host']}/{record['block']}"].append(number)
    return dict(sample)


def _document(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise RunError(f"{path}: is not there: is this the directory of a run?") from None
    except (OSError, ValueError) as error:
        raise RunError(f"{path}: cannot be read as JSON: {error}") from None
    if not isinstance(document, dict):
        raise RunError(f"{path}: must hold one JSON object")
    return document
