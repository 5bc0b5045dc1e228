"""One trial: reach and verify the state, run the workload, count, and make the record of whatever became of it."""

from __future__ import annotations

import errno
import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, Final

from . import dataset_frames, measure, sample, state
from .host_data import DataSet, HostData
from .page_frames import PageFramesError
from .paths import HostPaths
from .probes import PROBES, ProbeError, Scene
from .runner_client import RunnerError, RunnerLost
from .systems import SYSTEMS, System
from .testbed import Boot
from .workloads import Reads, Workload, bytes_missed, command_line, working_directory

RECORD_SCHEMA: Final = 2
REASONS: Final = frozenset(
    {
        "state_missed",
        "bytes_missed",
        "workload_failed",
        "workload_timeout",
        "guest_not_ready",
        "guest_died",
        "daemon_died",
        "runner_lost",
        "no_space",
        "mount_failed",
        "disturbed",
        "internal",
    }
)
# The answer travels after the workload's own limit, from a guest that may just have been busy.
_ANSWER_SECONDS: Final = 30.0
_CALL_SECONDS: Final = 60.0
_SAMPLED_GUESTS: Final = 16
_DEATH_SECONDS: Final = 2.0
_MESSAGE_LENGTH: Final = 500

# Below it, reclaim moves copies by less than the intervals show; what there was of it stands in the record.
RECLAIMED_SHARE: Final = 0.005

Record = dict[str, Any]


@dataclass(frozen=True)
class Context:
    """What all trials of a run on one host share. ``share``: storage_ledger.share() of the data, taken once: trials only read them."""

    run_id: str
    host: str
    machine_id: str
    plan: Mapping[str, Any]
    workloads: Mapping[str, Workload]
    dataset: DataSet
    drop_host: Callable[[], None]
    clock: Callable[[], float] = time.monotonic
    paths: HostPaths = field(default_factory=HostPaths)
    share: Mapping[str, int] | None = None


class _Outcome(Exception):
    """A trial that ends without being ok."""

    def __init__(self, status: str, reason: str, message: str) -> None:
        super().__init__(message)
        self.status = status
        self.reason = reason


def run_trial(context: Context, trial: Mapping[str, Any], boots: Sequence[Boot], data: HostData) -> tuple[Record, bool]:
    """The record of one trial on ``boots``, and whether all of them are still fit for the next.

    A workload has one boot alone, a probe as many guests as its trial says; the record's ``boot_id`` is the first one's.
    Never raises: what went wrong is in the record.
    """
    started = context.clock()
    record = new_record(context, trial) | {"boot_id": boots[0].boot_id}
    phases = state.Phases(context.clock)
    fit = True
    try:
        if trial["kind"] == "probe":
            _probe(context, boots, data, record, phases)
        else:
            _measure(context, boots[0], data, record, phases)
        record["status"] = "ok"
    except _Outcome as outcome:
        record |= {"status": outcome.status, "reason": outcome.reason, "message": _one_line(outcome)}
    except state.StateMissedError as missed:
        record |= {
            "status": "invalid",
            "reason": "state_missed",
            "message": _one_line(missed),
            "reached": dict(missed.reached),
        }
    except ProbeError as error:
        record |= {"status": "failed", "reason": "workload_failed", "message": _one_line(error)}
    except RunnerLost as lost:
        fit = False
        record |= {"status": "failed", "reason": "runner_lost", "message": _one_line(lost)}
    except RunnerError as error:
        reason = error.reason if error.reason in REASONS else "internal"
        record |= {"status": "failed", "reason": reason, "message": _one_line(error.message)}
    except OSError as error:
        reason = "no_space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "internal"
        record |= {"status": "failed", "reason": reason, "message": _one_line(error)}
    except Exception as error:  # a bug is a failed trial, seen in the report, and not the end of a night's run
        record |= {"status": "failed", "reason": "internal", "message": _one_line(f"{type(error).__name__}: {error}")}
    if fit:
        fit = not [boot for boot in boots if not _tidy_up(context, trial, boot)]
    # A guest's connection ends before its process does.
    died = _who_died(boots, 0.0 if fit else _DEATH_SECONDS)
    if died is not None:
        fit = False
        if record["status"] != "ok":
            # What the host knows about a death says more than how the trial noticed it.
            record |= died
    total = context.clock() - started
    phases.seconds["probe" if trial["kind"] == "probe" else "overhead"] = max(0.0, total - sum(phases.seconds.values()))
    record["phases"] = phases.seconds
    return record, fit


def not_run(
    context: Context, trial: Mapping[str, Any], reason: str, message: str, console: Sequence[str] = ()
) -> Record:
    """The record of a trial that found no boot to run on; ``console``: the last lines of a guest that did not come up."""
    return new_record(context, trial) | _failed(reason, message, console)


def _failed(reason: str, message: str, console: Sequence[str]) -> Record:
    found: Record = {"status": "failed", "reason": reason, "message": _one_line(message)}
    return found | ({"console": list(console)} if console else {})


def new_record(context: Context, trial: Mapping[str, Any]) -> Record:
    """What is known of a trial before it starts."""
    is_host = SYSTEMS[trial["system"]].path == "host"
    return {
        "schema": RECORD_SCHEMA,
        "run_id": context.run_id,
        "experiment": context.plan["experiment"],
        "host": context.host,
        "machine_id": context.machine_id,
        "accelerator": "none" if is_host else context.plan["accelerator"],
        "started_at": datetime.now(UTC).isoformat(timespec="milliseconds"),
        **trial,
    }


def _measure(context: Context, boot: Boot, data: HostData, record: Record, phases: state.Phases) -> None:
    """Fill in the trial's ``record``; raises where it is not ok. A count that the host's own reclaim spoilt is taken again."""
    for _ in range(state.TRIES):
        _measure_once(context, boot, data, record, phases)
        if "copies" not in record:
            return
        accessed = record["copies"]["all"]["accessed_pages"]
        if record["reclaimed_pages"] <= RECLAIMED_SHARE * accessed:
            return
    raise _Outcome(
        "invalid",
        "disturbed",
        f"the host reclaimed {record['reclaimed_pages']} of {accessed} pages before they were counted, {state.TRIES} times: "
        "it is short of memory, or DAMON reclaims",
    )


def _measure_once(context: Context, boot: Boot, data: HostData, record: Record, phases: state.Phases) -> None:
    """One try of ``_measure``."""
    trial = record
    is_fresh, boot.is_fresh = boot.is_fresh, False
    workload = context.workloads[trial["workload"]]
    has_guest = trial["guest_cache"] != "none"
    is_residency = trial["kind"] == "residency"
    places = state.places(context.dataset, boot)
    pipeline, cwd = command_line(workload, places), working_directory(workload, places)
    wanted = state.Wanted(SYSTEMS[trial["system"]], trial["host_cache"], trial["guest_cache"], is_residency, workload)
    wanted_bytes = context.dataset.wanted_bytes(workload.reads)

    if workload.writes:
        # A slice that was killed may have left half a copy.
        boot.reset_scratch()
    record["reached"] = state.reach([boot], data, wanted, context.drop_host, phases)
    look = functools.partial(
        sample.take, [boot], context.paths.store, has_guests=has_guest, counts_requests=is_residency
    )
    before = look(is_before=True)
    now = context.clock()
    timeout = float(context.plan["timeout_seconds"])
    result = boot.runner.call("run", timeout + _ANSWER_SECONDS, pipeline=pipeline, timeout_seconds=timeout, cwd=cwd)
    phases.measure("workload", now)
    after = look(is_before=False)
    timed_out = bool(result.pop("timed_out"))
    record["result"] = {**result, "wanted_bytes": wanted_bytes}
    if timed_out:
        raise _Outcome("timeout", "workload_timeout", f"{trial['workload']} was ended after {timeout:g} s")
    expected = list(workload.exit_codes or [0] * len(pipeline))
    if result["exit_codes"] != expected:
        last_words = str(result.get("stderr", "")).strip().rpartition("\n")[2]
        raise _Outcome(
            "failed", "workload_failed", f"exit codes {result['exit_codes']}, {expected} are right: {last_words}"
        )
    if is_residency:
        guest = (
            boot.runner.call("residency", _CALL_SECONDS, parts=state.guest_parts(boot, workload)) if has_guest else None
        )
        record |= measure.copies(workload, context.dataset, data, guest, sample.tail_pages(after))
        if is_fresh and workload.reads.part == "all":
            now = context.clock()
            record["copies"]["all"] |= _frames(context, boot, data, SYSTEMS[trial["system"]])
            phases.measure("frames", now)
    record |= _change(context, record, before, after)
    disturbance = sample.disturbed(before, after, sample.host_disturbances())
    if disturbance is None and not is_residency and context.plan["accelerator"] == "kvm":
        # Pages and requests are the same on a busy machine, and times under TCG are no claims.
        disturbance = sample.slowed(before, after, result["wall_seconds"], 0 if has_guest else result["user_seconds"])
    if disturbance is not None:
        raise _Outcome("invalid", "disturbed", disturbance)
    missed = bytes_missed(workload.reads, wanted_bytes, result["read_bytes"])
    if missed is not None:
        raise _Outcome("invalid", "bytes_missed", missed)
    if result["written_bytes"] < workload.written_bytes:
        written = f"wrote {result['written_bytes']} bytes where at least {workload.written_bytes} were expected"
        raise _Outcome("invalid", "bytes_missed", written)


def _probe(context: Context, boots: Sequence[Boot], data: HostData, record: Record, phases: state.Phases) -> None:
    """Fill in a probe trial's ``record``; raises where it is not ok."""
    probe = context.plan["probes"][record["workload"]]
    scene = Scene(context, record, boots, data, probe["parameters"], phases)
    for boot in boots:
        boot.is_fresh = False
    # A larger fleet takes longer to ask than a trial may cost; its probe has counts of its own.
    is_sampled = len(boots) <= _SAMPLED_GUESTS
    before = sample.take(boots, context.paths.store, has_guests=True, is_before=True) if is_sampled else None
    disturbances = sample.host_disturbances()
    found = PROBES[probe["probe"]].run(scene)
    record["probe"] = found.as_dict()
    # A probe drops caches and changes settings by itself, so that these tell of nobody else.
    short = sample.short_of_memory(disturbances, sample.host_disturbances())
    if found.lost:
        raise RunnerLost(f"guests {', '.join(map(str, found.lost))} of {len(boots)} were lost, the others went on")
    if before is not None:
        after = sample.take(boots, context.paths.store, has_guests=True, is_before=False)
        record |= _change(context, record, before, after)
    if short is not None:
        raise _Outcome("invalid", "disturbed", short)


def _frames(context: Context, boot: Boot, data: HostData, system: System) -> dict[str, int]:
    """``physical_pages``; empty where this host does not show frame numbers."""
    try:
        counted = dataset_frames.around(context.paths, context.plan["dataset"]["name"], system, data, [boot])
    except PageFramesError:
        return {}
    return {"physical_pages": counted["physical_pages"]}


def _change(context: Context, record: Record, before: sample.Sample, after: sample.Sample) -> dict[str, Any]:
    share = context.share if SYSTEMS[record["system"]].storage == "share" else None
    return sample.change(before, after, context.dataset.wanted_bytes(Reads("all")), share)


def _who_died(boots: Sequence[Boot], patience_seconds: float) -> Record | None:
    """What a record says of the first dead guest or daemon: status, reason, message and the console's last lines; or None."""
    for number, boot in enumerate(boots, start=1):
        died = boot.alive(patience_seconds / len(boots))
        if died is not None:
            which = f"guest {number} of {len(boots)}: " if len(boots) > 1 else ""
            return _failed(died[0], which + died[1], boot.last_lines())
    return None


def _tidy_up(context: Context, trial: Mapping[str, Any], boot: Boot) -> bool:
    """Leave nothing of this trial to the next one; False when the boot no longer answers."""
    try:
        if trial["guest_cache"] != "none":
            boot.runner.call("release", _CALL_SECONDS)
        if trial["kind"] == "probe" or context.workloads[trial["workload"]].writes:
            boot.reset_scratch()
    except (RunnerLost, RunnerError):
        return False
    return True


def _one_line(what: object) -> str:
    return " ".join(str(what).split())[:_MESSAGE_LENGTH]
