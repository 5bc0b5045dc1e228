"""One slice: work through the plan for some seconds, then say what remains. Guests, daemons and runners survive between slices."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, Protocol

from . import lock, records, testbed
from .host_data import DataMissingError, DataSet, HostData, host_data
from .paths import HostPaths
from .state import drop_host_caches
from .systems import SYSTEMS
from .testbed import Boot, BootError, BootSpec
from .trial import Context, Record, not_run, run_trial
from .workloads import from_plan

FAILED_BOOTS: Final = 3
_BOOT_SECONDS: Final = {"kvm": 60.0, "tcg": 120.0}


class SliceError(Exception):
    """A slice that cannot work at all; one line."""


class Testbed(Protocol):
    """The functions of testbed.py; tests give others."""

    def boot(self, spec: BootSpec, paths: HostPaths, deadline_seconds: float = 60) -> Boot: ...

    def attach(self, spec: BootSpec, paths: HostPaths) -> Boot | None: ...

    def sweep(self, paths: HostPaths) -> object: ...


@dataclass
class Slice:
    """What one slice did. ``boots`` has one entry per new boot: label, system, boot_id, kernel, command_lines."""

    done: int
    remaining: int
    boots: list[dict[str, Any]] = field(default_factory=list)


class _Run:
    """Files of one run on the KVM host."""

    def __init__(self, directory: Path) -> None:
        self.results = directory / "results.jsonl"
        self.boots = directory / "boots.json"
        self.slice_lock = directory / "slice.lock"

    def failed_boots(self) -> dict[str, int]:
        try:
            counts = json.loads(self.boots.read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            return {}
        return {str(block): int(count) for block, count in counts.items()}

    def count_failed_boot(self, block: str) -> int:
        counts = self.failed_boots()
        counts[block] = counts.get(block, 0) + 1
        records.write_atomically(self.boots, counts)
        return counts[block]


def run_slice(
    plan: Mapping[str, Any],
    run_id: str,
    host: str,
    paths: HostPaths,
    *,
    seconds: float = 30.0,
    leave_out: Collection[str] = (),
    bed: Testbed = testbed,
    drop_host: Callable[[], None] | None = None,
    clock: Callable[[], float] = time.monotonic,
) -> Slice:
    """Run trials of ``plan`` that have no record yet, for ``seconds`` or one trial, whichever is longer; records are on the disk then.

    ``leave_out``: blocks that are not worked on, and do not count as remaining.

    A slice of the same run that a killed controller left is ended first. When nothing remains, nothing of the run is left running but its
    unit. Raises SliceError; whatever goes wrong in a trial or a boot is in the records.
    """
    run = _Run(paths.run(run_id))
    fd = _only_slice(run.slice_lock)
    try:
        done = {str(record["id"]) for record in records.read(run.results).records}
        left = [trial for trial in plan["trials"] if trial["id"] not in done and trial["block"] not in leave_out]
        result = Slice(len(done), len(left))
        if left:
            context = _context(plan, run_id, host, paths, drop_host=drop_host, clock=clock)
            _Worker(context, run, paths, bed, result).work(left, clock() + seconds)
        if not result.remaining:
            bed.sweep(paths)
        return result
    finally:
        os.close(fd)


class _Worker:
    """Walks over blocks; holds the one boot that is alive."""

    def __init__(self, context: Context, run: _Run, paths: HostPaths, bed: Testbed, result: Slice) -> None:
        self.context = context
        self.run = run
        self.paths = paths
        self.bed = bed
        self.result = result
        self.failed_boots = run.failed_boots()

    def work(self, left: Sequence[Mapping[str, Any]], deadline: float) -> None:
        """Go through ``left`` in order until ``deadline``."""
        for block, group in itertools.groupby(left, key=lambda trial: trial["block"]):
            trials = list(group)
            if not self._work_block(block, trials, deadline):
                return

    def _work_block(self, block: str, trials: Sequence[Mapping[str, Any]], deadline: float) -> bool:
        """Trials of one block; False when the time is over before its end."""
        spec = boot_spec(self.context.plan, self.context.run_id, trials[0])
        try:
            data = host_data(SYSTEMS[spec.system], spec.dataset, self.paths)
        except DataMissingError as error:
            raise SliceError(str(error)) from error
        boot = self.bed.attach(spec, self.paths)
        waiting = list(trials)
        while waiting:
            if boot is None:
                boot = self._boot(block, spec, waiting)
                if boot is None:
                    if not waiting:
                        break
                    if self.context.clock() >= deadline:
                        return False
                    continue
            boot = self._run_one(waiting.pop(0), boot, data)
            if waiting and self.context.clock() >= deadline:
                return False
        if boot is not None:
            boot.stop()
        return self.context.clock() < deadline

    def _boot(self, block: str, spec: BootSpec, waiting: list[Mapping[str, Any]]) -> Boot | None:
        """A new boot with no other guest alive; None when it failed. After FAILED_BOOTS the block's trials are recorded as failed."""
        self.bed.sweep(self.paths)
        try:
            boot = self.bed.boot(spec, self.paths, _BOOT_SECONDS[spec.accelerator])
        except BootError as error:
            # On the disk: a boot that needs its whole deadline ends the slice, and the next must not start counting anew.
            if self.run.count_failed_boot(block) >= FAILED_BOOTS:
                message = f"{FAILED_BOOTS} boots of {spec.label} failed, the last one: {error.message}"
                while waiting:
                    self._record(not_run(self.context, waiting.pop(0), "guest_not_ready", message))
            return None
        self.result.boots.append(
            {
                "label": spec.label,
                "system": spec.system,
                "boot_id": boot.boot_id,
                "kernel": boot.runner.hello.get("kernel"),
                "command_lines": boot.command_lines,
            }
        )
        return boot

    def _run_one(self, trial: Mapping[str, Any], boot: Boot, data: HostData) -> Boot | None:
        record, fit = run_trial(self.context, trial, boot, data)
        self._record(record)
        if fit:
            return boot
        boot.stop()
        return None

    def _record(self, record: Record) -> None:
        records.append(self.run.results, record)
        self.result.done += 1
        self.result.remaining -= 1


def boot_spec(plan: Mapping[str, Any], run_id: str, trial: Mapping[str, Any]) -> BootSpec:
    """What to boot for the block of ``trial``; the name is the block's own, or a later repeat could take over an earlier one's boot."""
    label = plan["labels"][trial["label"]]
    block = hashlib.sha256(f"{run_id}/{trial['block']}".encode()).hexdigest()
    return BootSpec(
        system=trial["system"],
        label=trial["label"],
        dataset=plan["dataset"]["name"],
        accelerator=plan["accelerator"],
        memory_mib=plan["guest"]["memory_mib"],
        cpus=plan["guest"]["cpus"],
        name=f"t{block[:8]}",
        options=label["options"],
    )


def _context(
    plan: Mapping[str, Any],
    run_id: str,
    host: str,
    paths: HostPaths,
    *,
    drop_host: Callable[[], None] | None,
    clock: Callable[[], float],
) -> Context:
    try:
        dataset = DataSet.of_share(paths.share(plan["dataset"]["name"]) / "data")
    except DataMissingError as error:
        raise SliceError(str(error)) from error
    return Context(
        run_id=run_id,
        host=host,
        machine_id=machine_id(),
        plan=plan,
        workloads={name: from_plan(definition) for name, definition in plan["workloads"].items()},
        dataset=dataset,
        drop_host=drop_host or (lambda: drop_host_caches(paths)),
        clock=clock,
    )


def machine_id() -> str:
    """The running kernel's boot id: equal means same machine, same boot."""
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()


def _only_slice(path: Path) -> int:
    """Be the only slice of this run; one that was left behind is ended, and the guest with its workload notices the hang-up."""
    holder = {"pid": os.getpid()}
    try:
        return lock.acquire(path, holder)
    except lock.LockHeldError:
        try:
            lock.stop_holder(path)
            return lock.acquire(path, holder)
        except lock.LockHeldError as held:
            raise SliceError(
                f"a slice of this run (pid {held.holder.get('pid', '?')}) cannot be ended: see what it hangs on"
            ) from held
    except FileNotFoundError as error:
        raise SliceError(f"{path.parent}: is not there: start the run first") from error
