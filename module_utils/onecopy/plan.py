"""From a validated experiment to the ordered list of its trials: a pure function of the experiment and of what a host can do."""

from __future__ import annotations

import hashlib
import itertools
import json
import random
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypedDict

from . import fleet_memory
from .experiment import adaptive, digest, for_accelerator, labelled_probes, labelled_systems, workloads
from .probes import PROBES, why_unsuitable
from .several_hosts import why_lacking
from .systems import SYSTEMS, System

SCHEMA: Final = 1


class Trial(TypedDict):
    """One plan entry; ``id`` is the digest of all but ``id`` and ``order``."""

    id: str
    order: int
    repeat: int
    block: str
    label: str
    system: str
    guests: int
    kind: str
    workload: str
    host_cache: str
    guest_cache: str


class NoTrialsError(Exception):
    """Every combination of the experiment is impossible or unsupported on this host; the text is one line."""


@dataclass(frozen=True, slots=True)
class Cost:
    """Seconds, from the runs in which they were seen; for the estimate that is printed before a run, nothing else."""

    boot: float
    trial: float
    reach_per_file: float
    read_per_mib: float
    read_per_file: float


_UNCOUNTED: Final = (
    "what is cached beforehand does not tell what the command read: its copies are counted after a cold start"
)
COSTS: Final = {
    "kvm": Cost(boot=4.0, trial=0.5, reach_per_file=0.00005, read_per_mib=0.002, read_per_file=0.00005),
    "tcg": Cost(boot=9.0, trial=1.0, reach_per_file=0.0006, read_per_mib=0.025, read_per_file=0.0005),
    "none": Cost(boot=1.0, trial=0.2, reach_per_file=0.00005, read_per_mib=0.002, read_per_file=0.00005),
}


def make_plan(experiment: Mapping[str, Any], capabilities: Mapping[str, Any]) -> dict[str, Any]:
    """The plan of ``experiment`` for one host, or for several that run it alike; an adaptive one is planned up to its cap.

    ``capabilities`` is the host's ``capabilities.json``, or ``several_hosts.common()``: ``accelerator`` (``kvm`` or ``tcg``), per need of a
    system ``{"supported": bool, "reason": text}``, and ``memory_mib``. The plan is self-contained: schema, experiment, digest, accelerator,
    seed, dataset, guest, timeout_seconds, labels, workloads, trials, excluded, unsupported (both with reason and number of trials),
    estimate_seconds.
    Raises NoTrialsError when no trial is left.
    """
    accelerator = str(capabilities["accelerator"])
    effective = for_accelerator(experiment, accelerator)
    rule = adaptive(effective)
    if rule is not None:
        effective["repeats"] = rule["cap"]
    table = workloads(effective)
    systems = labelled_systems(effective)
    excluded: list[dict[str, Any]] = []
    unsupported: list[dict[str, Any]] = []
    combinations: dict[str, list[dict[str, Any]]] = {}
    for entry in systems:
        possible, impossible = _combinations(effective, entry, capabilities)
        missing = _missing(entry, capabilities)
        if missing:
            unsupported.append(
                {
                    "label": entry["label"],
                    "system": entry["system"],
                    "reason": missing,
                    "trials": len(possible) * effective["repeats"],
                }
            )
        else:
            combinations[entry["label"]] = possible
        excluded += [item | {"trials": item["trials"] * effective["repeats"]} for item in impossible]
    trials = [Trial(**trial, order=order) for order, trial in enumerate(_order(effective, combinations))]  # type: ignore[typeddict-item]
    if not trials:
        reasons = sorted({item["reason"] for item in (*unsupported, *excluded)})
        raise NoTrialsError(f"{experiment['name']}: no trial is left to run here: {'; '.join(reasons)}")
    used = sorted({trial["workload"] for trial in trials if trial["kind"] != "probe"})
    plan = {
        "schema": SCHEMA,
        "experiment": experiment["name"],
        "digest": digest(experiment),
        "accelerator": accelerator,
        "seed": effective["seed"],
        "repeats": effective["repeats"],
        "dataset": effective["dataset"],
        "guest": effective["guest"],
        "timeout_seconds": effective["timeout_seconds"],
        "labels": {entry["label"]: {"system": entry["system"], "options": entry["options"]} for entry in systems},
        "workloads": {name: table[name].as_dict() for name in used},
        "trials": trials,
        "excluded": excluded,
        "unsupported": unsupported,
    }
    if rule is not None:
        plan["adaptive"] = rule
    if "settings" in effective:
        plan["settings"] = effective["settings"]
    if effective.get("probes"):
        plan["probes"] = {
            entry["label"]: {"probe": entry["probe"], "parameters": entry["parameters"]}
            for entry in labelled_probes(effective)
        }
    return plan | {"estimate_seconds": estimate(plan)}


def trial_id(trial: Mapping[str, Any]) -> str:
    """First 16 hex digits of the sha256 of the entry without ``id`` and ``order``."""
    content = {key: value for key, value in trial.items() if key not in ("id", "order")}
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()[:16]


def estimate(plan: Mapping[str, Any], done: frozenset[str] = frozenset()) -> float:
    """Seconds that the trials of ``plan`` that are not ``done`` will take, roughly: boots, states to reach, workloads."""
    table = {name: _workload_cost(plan, definition) for name, definition in plan["workloads"].items()}
    left = [trial for trial in plan["trials"] if trial["id"] not in done]
    files = plan["dataset"]["large_files"] + plan["dataset"]["small_files"]
    seconds = 0.0
    for trial in left:
        cost = _cost(plan, trial)
        if trial["kind"] == "probe":
            seconds += PROBES[plan["probes"][trial["workload"]]["probe"]].seconds
            continue
        reads = 2 if trial["guest_cache"] == "warm" else 1
        seconds += cost.trial + files * cost.reach_per_file + reads * _run_seconds(cost, table[trial["workload"]])
    boots = {trial["block"]: trial for trial in left}
    return seconds + sum(_cost(plan, trial).boot * max(1, int(trial["guests"])) for trial in boots.values())


def _cost(plan: Mapping[str, Any], trial: Mapping[str, Any]) -> Cost:
    return COSTS["none" if SYSTEMS[trial["system"]].path == "host" else plan["accelerator"]]


def _workload_cost(plan: Mapping[str, Any], definition: Mapping[str, Any]) -> tuple[float, float, float]:
    """Weight, MiB and files of one workload."""
    dataset, reads = plan["dataset"], definition["reads"]
    large, small = (dataset["large_mib"], dataset["large_files"]), (dataset["small_mib"], dataset["small_files"])
    total = (large[0] + small[0], large[1] + small[1])
    mib, files = {
        "all": total,
        "large": large,
        "small": small,
        "both": (2 * total[0], 2 * total[1]),
        "sample": (small[0] * min(1.0, 500 / max(1, small[1])), min(500, small[1])),
        "some": total,
        "none": (0, total[1]),
    }[reads["part"]]
    return float(definition["weight"]), reads["bytes"] / (1 << 20) if reads["bytes"] else float(mib), float(files)


def _run_seconds(cost: Cost, workload: tuple[float, float, float]) -> float:
    weight, mib, files = workload
    return weight * (mib * cost.read_per_mib + files * cost.read_per_file)


def _missing(entry: Mapping[str, Any], capabilities: Mapping[str, Any]) -> str | None:
    """Why this host cannot run the system with these options, or None."""
    needs = SYSTEMS[entry["system"]].needs
    for need in (*needs, "device_limit") if "device" in entry["options"] else needs:
        why = why_lacking(capabilities, need)
        if why is not None:
            return f"{need}: {why}"
    return None


def _combinations(
    experiment: Mapping[str, Any], entry: Mapping[str, Any], capabilities: Mapping[str, Any]
) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Trials that one system can have in one repeat, and those it cannot, by state, each with the reason."""
    system = SYSTEMS[entry["system"]]
    possible: list[dict[str, Any]] = []
    impossible: list[dict[str, Any]] = []
    guest_states = ["none"] if system.path == "host" else experiment["guest_cache"]
    if system.path == "host" and "warm" in experiment["guest_cache"]:
        reason = system.not_applicable["guest_cache", "warm"]
        for host in experiment["host_cache"]:
            trials = len(list(_workloads_of(experiment, "warm")))
            impossible.append(_state(entry, host, "warm") | {"reason": reason, "trials": trials})
    table = workloads(experiment)
    for host, guest in itertools.product(experiment["host_cache"], guest_states):
        runs = list(_workloads_of(experiment, guest))
        why_not = _why_not(system, host, guest)
        if why_not:
            impossible.append(_state(entry, host, guest) | {"reason": why_not, "trials": len(runs)})
            continue
        if "warm" in (host, guest):
            uncounted = [run for run in runs if run[0] == "residency" and not table[run[1]].reads.full]
            if uncounted:
                impossible.append(_state(entry, host, guest) | {"reason": _UNCOUNTED, "trials": len(uncounted)})
            runs = [run for run in runs if run not in uncounted]
        for kind, workload in runs:
            possible.append(
                {"system": entry["system"], "guests": 0 if guest == "none" else 1, "kind": kind, "workload": workload}
                | {"host_cache": host, "guest_cache": guest}
            )
    probes = [
        probe for probe in labelled_probes(experiment) if probe["only"] is None or entry["label"] in probe["only"]
    ]
    for probe, guests in itertools.product(probes, experiment.get("guests", [1])):
        why_not = why_unsuitable(PROBES[probe["probe"]], system, probe["parameters"], guests)
        if why_not is None and guests > 1:
            why_not = fleet_memory.why_never(experiment, guests, capabilities)
        if why_not:
            impossible.append(
                _state(entry, "cold", "cold")
                | {"workload": probe["label"], "guests": guests, "reason": why_not, "trials": 1}
            )
            continue
        # A probe makes the states that it needs; it starts from a cold one.
        possible.append(
            {"system": entry["system"], "guests": guests, "kind": "probe", "workload": probe["label"]}
            | {"host_cache": "cold", "guest_cache": "cold"}
        )
    return possible, impossible


def _why_not(system: System, host: str, guest: str) -> str | None:
    wanted = {"host_cache": host, "guest_cache": guest}
    for (party, state), reason in system.not_applicable.items():
        if wanted[party] == state:
            return reason
    if system.dax and host == "cold" and guest == "warm":
        return "what the guest maps through DAX are the host's own pages: they cannot be warm there and cold here"
    return None


def _workloads_of(experiment: Mapping[str, Any], guest: str) -> Iterator[tuple[str, str]]:
    only = experiment.get("guest_warm_only")
    for kind in ("residency", "timed"):
        for workload in experiment.get(kind, []):
            if guest != "warm" or only is None or workload in only:
                yield kind, workload


def _state(entry: Mapping[str, Any], host: str, guest: str) -> dict[str, Any]:
    return {"label": entry["label"], "system": entry["system"], "host_cache": host, "guest_cache": guest}


def _block(name: str, trial: Mapping[str, Any], fresh: Collection[str]) -> str:
    """The boot on which a trial runs: one for every number of guests, and one of its own for who needs a fresh one."""
    guests = f"-x{trial['guests']}" if trial["guests"] > 1 else ""
    own = f"-{trial['workload']}" if trial["kind"] == "probe" and trial["workload"] in fresh else ""
    return f"{name}{guests}{own}"


def _order(experiment: Mapping[str, Any], combinations: Mapping[str, list[dict[str, Any]]]) -> Iterator[dict[str, Any]]:
    """Systems shuffled per repeat, trials within a block; every shuffle has a seed of its own, so that one more system moves no other trial."""
    fresh = {entry["label"] for entry in labelled_probes(experiment) if PROBES[entry["probe"]].fresh_boot}
    for repeat in range(experiment["repeats"]):
        labels = [label for label, trials in combinations.items() if trials]
        labels.sort(key=lambda label: random.Random(f"{experiment['seed']}/{repeat}/{label}").random())
        for label in labels:
            trials = list(combinations[label])
            random.Random(f"{experiment['seed']}/{repeat}/{label}/trials").shuffle(trials)
            first = next((trial for trial in trials if trial["kind"] == "residency"), None)
            # A block is one boot: so many guests, all its trials. Frames are counted in its first one, while no freed page of the guest holds
            # what it once cached.
            placed = [(_block(f"{repeat}-{label}", trial, fresh), trial) for trial in trials]
            turns = {block: turn for turn, (block, _) in reversed(list(enumerate(placed)))}  # the first of each
            placed.sort(key=lambda one: (max(1, one[1]["guests"]), turns[one[0]], one[1] is not first))
            for block, trial in placed:
                content = {"repeat": repeat, "block": block, "label": label, **trial}
                yield content | {"id": trial_id(content)}
