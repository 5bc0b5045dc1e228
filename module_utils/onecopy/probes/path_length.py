"""How many instructions a guest executes per byte that a workload reads: the work on its path, which needs no clock that can be trusted.

Under TCG with ``icount`` a nanosecond of the guest's clock is an instruction, and what counts is the time in which the guest's CPU was not
idle: waiting for a device is no work. Under KVM the host's hardware counters tell, where it has them. Counted are instructions alone: no
cycles, no misses, no exits, no memory bandwidth; so this says something about a mechanism, and nothing about speed.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from statistics import median
from typing import Any, Final

from .. import io_path, perf, qemu, state
from ..systems import System
from ..testbed import Boot
from ..workloads import WORKLOADS, bytes_missed, command_line
from .scene import Probe, Probed, ProbeError, Scene

_NANOSECONDS: Final = 1e9
# QEMU's threads that carry a request between guest and host; the vCPU's own time is emulation under TCG.
_IO_THREADS: Final = ("io", "main", "worker")
_DATA_DISK: Final = "data"


def run(scene: Scene) -> Probed:
    """Metrics per state of the guest's cache (``cold``, ``warm``), medians over ``rounds``, over a warm host where the system can have one.

    ``STATE_instructions_per_byte``; ``STATE_spread_ratio``: largest minus smallest of the rounds, by their median; host CPU seconds of one
    round, ``STATE_io_threads_seconds`` and ``STATE_daemon_seconds``. ``cold_by_warm_ratio``: a first read by a second one. A block device
    is read throttled too: ``throttled_by_plain_ratio`` is 1 where waiting is no work. Raises ProbeError, and what state.reach raises.
    """
    inapplicable = scene.system.not_applicable
    host = "cold" if ("host_cache", "warm") in inapplicable else "warm"
    metrics = _rounds(scene, host, "cold", "cold")
    if ("guest_cache", "warm") not in inapplicable:
        metrics |= _rounds(scene, host, "warm", "warm")
        metrics["cold_by_warm_ratio"] = metrics["cold_instructions_per_byte"] / metrics["warm_instructions_per_byte"]
    limit = int(scene.parameters["throttle_bytes_per_second"])
    if limit and scene.system.path == "block":
        metrics |= _rounds(scene, host, "cold", "throttled", limit)
        throttled, plain = (metrics[f"{name}_instructions_per_byte"] for name in ("throttled", "cold"))
        metrics["throttled_by_plain_ratio"] = throttled / plain
    return Probed(metrics)


def unsuitable(system: System, parameters: Mapping[str, Any]) -> str | None:
    """Workloads that read nothing have no bytes to divide by."""
    workload = WORKLOADS.get(parameters["workload"])
    if workload is None or workload.reads.part == "none" or workload.writes or workload.exit_codes:
        return f"workload {parameters['workload']!r} is none of the table that only reads, and reads to its end"
    return None


def _rounds(scene: Scene, host: str, guest: str, name: str, limit: int = 0) -> dict[str, float]:
    """Metrics called ``name`` of the workload in one state."""
    workload = WORKLOADS[scene.parameters["workload"]]
    pipeline = command_line(workload, state.places(scene.context.dataset, scene.boot))
    wanted_bytes = scene.context.dataset.wanted_bytes(workload.reads)
    count = _counter(scene)
    rounds: list[dict[str, float]] = []
    for _ in range(scene.parameters["rounds"]):
        scene.reach(host, guest, is_residency=False, workload=workload)
        before = _host_seconds(scene.boot)
        with _throttled(scene.boot, limit):
            result, instructions = count(pipeline)
        missed = bytes_missed(workload.reads, wanted_bytes, result["read_bytes"])
        if missed is not None:
            raise ProbeError(missed)
        spent = {party: value - before[party] for party, value in _host_seconds(scene.boot).items()}
        rounds.append({"instructions_per_byte": instructions / wanted_bytes, **spent})
    counted = [one["instructions_per_byte"] for one in rounds]
    metrics = {f"{name}_{key}": median(one[key] for one in rounds) for key in rounds[0]}
    return metrics | {f"{name}_spread_ratio": (max(counted) - min(counted)) / median(counted)}


def _counter(scene: Scene) -> Any:
    """A function from a pipeline to the runner's answer and the number of instructions that the guest executed meanwhile."""
    if scene.context.plan["accelerator"] == "kvm":
        return lambda pipeline: _by_hardware(scene, pipeline)
    if not scene.options.get("icount"):
        raise ProbeError(f"{scene.trial['label']}: under TCG instructions are counted with options: {{icount: true}}")
    return lambda pipeline: _by_clock(scene, pipeline)


def _by_clock(scene: Scene, pipeline: Sequence[Sequence[str]]) -> tuple[dict[str, Any], float]:
    result = scene.run(scene.boot, *pipeline)
    if "busy_seconds" not in result:
        raise ProbeError("the guest cannot tell how long its CPU worked: it needs one vCPU and /proc/timer_list")
    return result, result["busy_seconds"] * _NANOSECONDS


def _by_hardware(scene: Scene, pipeline: Sequence[Sequence[str]]) -> tuple[dict[str, Any], float]:
    assert scene.boot.qemu_pid is not None
    try:
        with perf.guest_instructions(scene.boot.qemu_pid) as counted:
            result = scene.run(scene.boot, *pipeline)
    except perf.PerfError as error:
        raise ProbeError(str(error)) from error
    return result, counted[0]


def _host_seconds(boot: Boot) -> dict[str, float]:
    """CPU seconds on the host so far, of what serves the guest's requests."""
    seconds: dict[str, float] = {}
    if boot.qemu_pid is not None:
        counters = io_path.process_counters(boot.qemu_pid)
        seconds["io_threads_seconds"] = sum(counters.get(f"cpu_seconds_{kind}", 0.0) for kind in _IO_THREADS)
    if boot.daemon_pid is not None:
        seconds["daemon_seconds"] = io_path.process_counters(boot.daemon_pid)["cpu_seconds"]
    return seconds


@contextmanager
def _throttled(boot: Boot, bytes_per_second: int) -> Iterator[None]:
    """Slow the guest's data disk down meanwhile; 0: leave it alone."""
    if not bytes_per_second:
        yield
        return
    assert boot.qmp is not None
    _limit(boot, bytes_per_second)
    try:
        yield
    finally:
        _limit(boot, 0)


def _limit(boot: Boot, bytes_per_second: int) -> None:
    assert boot.qmp is not None
    none = dict.fromkeys(("bps_rd", "bps_wr", "iops", "iops_rd", "iops_wr"), 0)
    qemu.qmp(boot.qmp, "block_set_io_throttle", device=_DATA_DISK, bps=bytes_per_second, **none)


PROBE: Final = Probe(
    "path_length",
    run,
    {"workload": "cat", "rounds": 3, "throttle_bytes_per_second": 0},
    unsuitable,
    seconds=15.0,
)
