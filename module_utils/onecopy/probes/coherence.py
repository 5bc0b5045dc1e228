"""Who sees whose changes of a shared directory, and how long they do not: for every kind of change and every way of looking at it."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final, Protocol

from .. import coherence
from ..arrangement import SHARE
from ..coherence import CASES, Case
from ..runner_coherence import OLD, PIECE, UNMAPPABLE, Onlooker, alter
from ..systems import System
from ..testbed import Boot
from .scene import Probe, Probed, ProbeError, Scene

_CALL_SECONDS: Final = 60.0
# No multiple of the page size: the last page of a file is where a mapping ends.
_ODD_BYTES: Final = 100


def run(scene: Scene) -> Probed:
    """``writer`` changes files of ``file_kib``, ``observer`` watches them: the host, or a guest (another one than the writer).

    ``CHANGE_OBSERVER_stale_seconds``: age of the change when a look last failed to show it; 0: no look did; ``seconds``, for which all is watched:
    none showed it. ``broken_promises_count``: cases that broke what the cache mode promises (coherence.py). Raises ProbeError.
    """
    parameters = scene.parameters
    parties = {str(parameters[name]) for name in ("writer", "observer")}
    if not parties <= {"host", "guest"} or parties == {"host"}:
        raise ProbeError("writer and observer are host or guest, and not both the host")
    place = scene.boots[0].plan.share_scratch / f"coherence_{scene.trial['workload']}"
    host = _Host(place)
    watching = host if parameters["observer"] == "host" else _Guest(scene.boots[0], place)
    changing = host if parameters["writer"] == "host" else _Guest(scene.boots[1], place)
    knowing = None if watching is host else host
    size = (int(parameters["file_kib"]) << 10) + _ODD_BYTES
    _lay_out(place, size)
    try:
        stale = _watch(scene, watching, changing, size, knowing)
        for party in {watching, host}:
            party.watch([])
    finally:
        shutil.rmtree(place)
    mode = coherence.mode_of(scene.system, scene.options)
    is_mapped = coherence.is_mapped(scene.system, scene.options, size)
    broken = 0
    for (change, observer), seconds in stale.items():
        promise = coherence.promised(mode, is_mapped, watching is host, change, observer)
        broken += not coherence.is_kept(promise, seconds)
    metrics = {coherence.metric_name(*case): seconds for case, seconds in stale.items()}
    return Probed({**metrics, "broken_promises_count": broken})


class _Party(Protocol):
    """Who changes or watches."""

    def alter(self, changes: Sequence[Mapping[str, str]]) -> None: ...

    def watch(self, cases: Sequence[Mapping[str, Any]]) -> list[str]: ...

    def look(self) -> list[str]: ...


class _Host:
    """The host itself, in the directory ``place``."""

    def __init__(self, place: Path) -> None:
        self._place = place
        self._onlooker = Onlooker()

    def alter(self, changes: Sequence[Mapping[str, str]]) -> None:
        alter(_below(self._place, changes))

    def watch(self, cases: Sequence[Mapping[str, Any]]) -> list[str]:
        return self._onlooker.watch(_below(self._place, cases))

    def look(self) -> list[str]:
        return self._onlooker.look()


class _Guest:
    """A guest, where it sees the host's ``place``: through the share that all have in common."""

    def __init__(self, boot: Boot, place: Path) -> None:
        self._runner = boot.runner
        self._place = Path(SHARE) / place.relative_to(boot.plan.share)

    def alter(self, changes: Sequence[Mapping[str, str]]) -> None:
        self._runner.call("alter", _CALL_SECONDS, changes=_below(self._place, changes))

    def watch(self, cases: Sequence[Mapping[str, Any]]) -> list[str]:
        seen: list[str] = self._runner.call("watch", _CALL_SECONDS, cases=_below(self._place, cases))["seen"]
        return seen

    def look(self) -> list[str]:
        seen: list[str] = self._runner.call("look", _CALL_SECONDS)["seen"]
        return seen


def _watch(scene: Scene, watching: _Party, changing: _Party, size: int, knowing: _Party | None) -> dict[Case, float]:
    """Seconds by case. ``knowing`` tells how files really are after the change; None: ``watching`` does."""
    clock, bound = scene.phases.clock, float(scene.parameters["seconds"])
    cases = [
        {
            "path": _path(case),
            "observer": case[1],
            "offset": {"append": size, "overwrite_end": size - PIECE}.get(case[0], 0),
        }
        for case in CASES
    ]
    # What is cached is as old as this look when the files change.
    before = dict(zip(CASES, watching.watch(cases), strict=True))
    changing.alter([{"path": _path(case), "change": case[0]} for case in CASES])
    changed = clock()
    stale = {case: 0.0 for case, seen in before.items() if seen != UNMAPPABLE}
    missed = set(stale)
    while missed and clock() - changed < bound:
        true = dict(zip(CASES, knowing.watch(cases), strict=True)) if knowing else {}
        seen = dict(zip(CASES, watching.look(), strict=True))
        missed = {case for case in stale if seen[case] == before[case] or seen[case] != true.get(case, seen[case])}
        stale |= dict.fromkeys(missed, min(clock() - changed, bound))
    scene.phases.measure("workload", changed)
    return {case: bound if case in missed else seconds for case, seconds in stale.items()}


def _lay_out(place: Path, size: int) -> None:
    """A directory with one file for every case, so that no look refreshes what another one sees."""
    if place.exists():
        shutil.rmtree(place)
    for case in CASES:
        path = place / _path(case)
        path.parent.mkdir(parents=True)
        if case[0] != "create":
            path.write_bytes(OLD * size)


def _path(case: Case) -> str:
    return f"{'_'.join(case)}/file"


def _below(place: Path, entries: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    return [{**entry, "path": str(place / entry["path"])} for entry in entries]


def _unsuitable(system: System, parameters: Mapping[str, Any]) -> str | None:
    del parameters
    return None if system.storage == "share" else "its guests have no file system in common that anybody may write to"


PROBE: Final = Probe(
    "coherence",
    run,
    {"writer": "host", "observer": "guest", "file_kib": 64, "seconds": 6.0},
    _unsuitable,
    min_guests=2,
    seconds=12.0,
)
