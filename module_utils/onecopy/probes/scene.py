"""What a probe gets and gives: the guests of one boot, the data as the host stores them, and a few things that every probe does."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from .. import state
from ..host_data import HostData
from ..systems import SYSTEMS, System
from ..testbed import Boot
from ..workloads import WORKLOADS, Workload

if TYPE_CHECKING:
    from ..trial import Context

_ANSWER_SECONDS: Final = 30.0


class ProbeError(Exception):
    """The probe could not find out what it is for; one line."""


@dataclass(frozen=True)
class Scene:
    """One probe trial. ``boots``: the guests that are alive, the first of them where a probe needs one alone."""

    context: Context
    trial: Mapping[str, Any]
    boots: Sequence[Boot]
    data: HostData
    parameters: Mapping[str, Any]
    phases: state.Phases

    @property
    def boot(self) -> Boot:
        """The first guest."""
        return self.boots[0]

    @property
    def system(self) -> System:
        """The system under test."""
        return SYSTEMS[self.trial["system"]]

    @property
    def options(self) -> Mapping[str, Any]:
        """Tuning options of the boot."""
        options: Mapping[str, Any] = self.context.plan["labels"][self.trial["label"]]["options"]
        return options

    def reach(
        self,
        host_cache: str,
        guest_cache: str,
        *,
        is_residency: bool = True,
        workload: Workload = WORKLOADS["cat"],
    ) -> dict[str, Any]:
        """Bring every guest and the host to a verified state. Raises state.StateMissedError."""
        wanted = state.Wanted(self.system, host_cache, guest_cache, is_residency, workload)
        return state.reach(self.boots, self.data, wanted, self.context.drop_host, self.phases)

    def run(self, boot: Boot, *pipeline: Sequence[str]) -> dict[str, Any]:
        """Run a pipeline in a guest; the runner's answer. Raises ProbeError when it fails or takes too long."""
        timeout = float(self.context.plan["timeout_seconds"])
        now = self.phases.clock()
        result: dict[str, Any] = boot.runner.call(
            "run",
            timeout + _ANSWER_SECONDS,
            pipeline=[list(argv) for argv in pipeline],
            timeout_seconds=timeout,
            cwd="/",
        )
        self.phases.measure("workload", now)
        if result["timed_out"] or any(result["exit_codes"]):
            last_words = str(result.get("stderr", "")).strip().rpartition("\n")[2]
            how = f"took more than {timeout:g} s" if result["timed_out"] else f"ended with {result['exit_codes']}"
            raise ProbeError(f"{' '.join(pipeline[0])[:80]}: {how}: {last_words}")
        return result

    def read(self, boot: Boot, part: str = "", tree: str = "a") -> dict[str, Any]:
        """Read a tree (or its ``part``: large, small, or one file) once, to the end, in a guest."""
        top = f"{boot.data_roots[tree]}/{part}".rstrip("/")
        return self.run(boot, ["find", top, "-type", "f", "-exec", "cat", "{}", "+"])


@dataclass(frozen=True, slots=True)
class Probed:
    """What a probe found. ``metrics``: numbers whose names carry the unit; ``series``: lists of points (x, y) by name, for figures.

    ``lost``: numbers of the guests that went away meanwhile (from 1); the trial has failed then, and the figures are the others'.
    """

    metrics: Mapping[str, float]
    series: Mapping[str, Sequence[Sequence[float]]] = field(default_factory=dict)
    notes: str = ""
    lost: Sequence[int] = ()

    def as_dict(self) -> dict[str, Any]:
        """The form of the record schema."""
        found: dict[str, Any] = {"metrics": dict(self.metrics)}
        if self.series:
            found["series"] = {name: [list(point) for point in points] for name, points in self.series.items()}
        return found | ({"notes": self.notes} if self.notes else {})


@dataclass(frozen=True, slots=True)
class Probe:
    """One entry of the table.

    ``parameters`` are those that an experiment may set, with their defaults; ``unsuitable`` says why a system cannot be probed (None: it can);
    with fewer guests than ``twin_below_guests`` it reads the data's second tree, too; one that needs a ``fresh_boot`` shares its guests
    with no other trial; ``seconds`` is about what it takes under TCG, for the estimate alone.
    """

    name: str
    run: Callable[[Scene], Probed]
    parameters: Mapping[str, Any] = field(default_factory=dict)
    unsuitable: Callable[[System, Mapping[str, Any]], str | None] = lambda system, parameters: None
    min_guests: int = 1
    twin_below_guests: int = 0
    fresh_boot: bool = False
    seconds: float = 20.0
