"""One slice: work through the plan for some seconds, then say what remains. Guests, daemons and runners survive between slices."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import time
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Protocol

from . import lock, records, storage_ledger, testbed, units
from .host_data import DataMissingError, DataSet, HostData, host_data
from .paths import HostPaths
from .state import StateMissedError, drop_host_caches, make_host_cold
from .systems import SYSTEMS
from .testbed import Boot, BootError, BootSpec
from .trial import REASONS, Context, Record, not_run, run_trial
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
    """What one slice did. ``boots`` has one entry per new boot: label, system, boot_id, kernel, hello_seconds, facts, command_lines.

    Of a fleet the first guest has ``facts`` and ``command_lines``, and the others ``like``, its boot_id: theirs are the same but for the guest's name.
    """

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
    is_stopping: Callable[[], bool] = units.host_is_stopping,
    clock: Callable[[], float] = time.monotonic,
) -> Slice:
    """Run trials of ``plan`` that have no record yet, for ``seconds`` or one trial, whichever is longer; records are on the disk then.

    ``leave_out``: blocks that are not worked on, and do not count as remaining.

    A slice of the same run that a killed controller left is ended first. When nothing remains, nothing of the run is left running but its
    unit. Raises SliceError; whatever goes wrong in a trial or a boot is in the records, unless it is that this host is being shut down.
    """
    run = _Run(paths.run(run_id))
    fd = _only_slice(run.slice_lock)
    try:
        done = {str(record["id"]) for record in records.read(run.results).records}
        left = [trial for trial in plan["trials"] if trial["id"] not in done and trial["block"] not in leave_out]
        result = Slice(len(done), len(left))
        if left:
            context = _context(plan, run_id, host, paths, drop_host=drop_host, clock=clock)
            _Worker(context, run, paths, bed, is_stopping, result).work(left, clock() + seconds)
        if not result.remaining:
            bed.sweep(paths)
        return result
    finally:
        os.close(fd)


class _Worker:
    """Walks over blocks; holds the boots that are alive."""

    def __init__(
        self,
        context: Context,
        run: _Run,
        paths: HostPaths,
        bed: Testbed,
        is_stopping: Callable[[], bool],
        result: Slice,
    ) -> None:
        self.context = context
        self.run = run
        self.paths = paths
        self.bed = bed
        self.is_stopping = is_stopping
        self.result = result

    def work(self, left: Sequence[Mapping[str, Any]], deadline: float) -> None:
        """Go through ``left`` in order until ``deadline``."""
        for block, group in itertools.groupby(left, key=lambda trial: trial["block"]):
            trials = list(group)
            if not self._work_block(block, trials, deadline):
                return

    def _work_block(self, block: str, trials: Sequence[Mapping[str, Any]], deadline: float) -> bool:
        """Trials of one block; False when the time is over before its end."""
        specs = boot_specs(self.context.plan, self.context.run_id, trials[0])
        try:
            names = [spec.name for spec in specs]
            data = host_data(SYSTEMS[specs[0].system], specs[0].dataset, self.paths, names)
        except DataMissingError as error:
            raise SliceError(str(error)) from error
        boots = self._attach(specs)
        waiting = list(trials)
        while waiting:
            if not boots:
                boots = self._boot(block, specs, waiting)
                if not boots:
                    if not waiting:
                        break
                    if self.context.clock() >= deadline:
                        return False
                    continue
            boots = self._run_one(waiting.pop(0), boots, data)
            if waiting and self.context.clock() >= deadline:
                return False
        for boot in boots:
            boot.stop()
        return self.context.clock() < deadline

    def _attach(self, specs: Sequence[BootSpec]) -> list[Boot]:
        """The block's boots when every one of them still runs; otherwise none."""
        found = [self.bed.attach(spec, self.paths) for spec in specs]
        return [boot for boot in found if boot is not None] if None not in found else []

    def _boot(self, block: str, specs: Sequence[BootSpec], waiting: list[Mapping[str, Any]]) -> list[Boot]:
        """New boots with no other guest alive; none when one failed. After FAILED_BOOTS the block's trials are recorded as failed, for
        the reason of the last one.
        """
        self.bed.sweep(self.paths)
        try:
            if "root" in specs[0].options:
                self._make_host_cold(specs[0])  # they read it while they start
            boots = self._boot_all(block, specs)
        except BootError as error:
            self._only_where_the_host_stays()
            # On the disk: a boot that needs its whole deadline ends the slice, and the next must not start counting anew.
            if self.run.count_failed_boot(block) >= FAILED_BOOTS:
                message = (
                    f"{FAILED_BOOTS} boots of {specs[0].label} failed, the last one: {error.reason}: {error.message}"
                )
                reason = error.reason if error.reason in REASONS else "internal"
                while waiting:
                    self._record(not_run(self.context, waiting.pop(0), reason, message, error.console))
            return []
        for spec, boot in zip(specs, boots, strict=True):
            boot.is_fresh = True
            entry: dict[str, Any] = {"label": spec.label, "system": spec.system, "boot_id": boot.boot_id}
            entry |= {"kernel": boot.runner.hello.get("kernel"), "hello_seconds": boot.hello_seconds}
            # A fleet's command lines differ in the guest's name alone, and there may be hundreds of them.
            own = {"facts": boot.facts, "command_lines": boot.command_lines}
            entry |= own if boot is boots[0] else {"like": boots[0].boot_id}
            self.result.boots.append(entry)
        return boots

    def _make_host_cold(self, spec: BootSpec) -> None:
        """Evict the data that all guests have in common; what is a guest's own is made at its boot. Raises BootError."""
        try:
            make_host_cold(host_data(SYSTEMS[spec.system], spec.dataset, self.paths), self.context.drop_host)
        except StateMissedError as missed:
            raise BootError("state_missed", str(missed)) from missed

    def _boot_all(self, block: str, specs: Sequence[BootSpec]) -> list[Boot]:
        """One boot, or a fleet with as many starting at once as the host has CPUs.

        A fleet's guests that fail are booted again beside the others. Raises BootError for the one that would be the last allowed.
        """
        deadline = _BOOT_SECONDS[specs[0].accelerator]
        if len(specs) == 1:
            return [self.bed.boot(specs[0], self.paths, deadline)]
        booted: dict[str, Boot] = {}
        while missing := [spec for spec in specs if spec.name not in booted]:
            with ThreadPoolExecutor(max_workers=os.cpu_count() or 1) as pool:
                started = [(spec, pool.submit(self.bed.boot, spec, self.paths, deadline)) for spec in missing]
            failed: list[BootError] = []
            for spec, boot in started:
                error = boot.exception()
                if isinstance(error, BootError):
                    error.message = f"guest {specs.index(spec) + 1} of {len(specs)}: {error.message}"
                    failed.append(error)
                else:
                    booted[spec.name] = boot.result()
            if failed:
                if self.run.failed_boots().get(block, 0) + 1 >= FAILED_BOOTS:
                    raise failed[0]
                self._only_where_the_host_stays()
                self.run.count_failed_boot(block)
        return [booted[spec.name] for spec in specs]

    def _run_one(self, trial: Mapping[str, Any], boots: list[Boot], data: HostData) -> list[Boot]:
        record, fit = run_trial(self.context, trial, boots, data)
        if record["status"] != "ok":
            self._only_where_the_host_stays()
        self._record(record)
        if fit:
            return boots
        for boot in boots:
            boot.stop()
        return []

    def _only_where_the_host_stays(self) -> None:
        """What a shutdown broke is no result: the trial has no record and is done again."""
        if self.is_stopping():
            raise SliceError(
                "this host is being shut down: no record is lost, run the same command again when it is back"
            )

    def _record(self, record: Record) -> None:
        records.append(self.run.results, record)
        self.result.done += 1
        self.result.remaining -= 1


def boot_specs(plan: Mapping[str, Any], run_id: str, trial: Mapping[str, Any]) -> list[BootSpec]:
    """What to boot for the block of ``trial``; names are the block's own, or a later repeat could take over an earlier one's boots."""
    label = plan["labels"][trial["label"]]
    block = hashlib.sha256(f"{run_id}/{trial['block']}".encode()).hexdigest()
    first = BootSpec(
        system=trial["system"],
        label=trial["label"],
        dataset=plan["dataset"]["name"],
        accelerator=plan["accelerator"],
        memory_mib=plan["guest"]["memory_mib"],
        cpus=plan["guest"]["cpus"],
        name=f"t{block[:8]}",
        options=label["options"],
    )
    if trial["guests"] <= 1:
        return [first]
    return [
        replace(first, name=f"{first.name}-{number}", is_one_of_many=True) for number in range(1, trial["guests"] + 1)
    ]


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
        tree = paths.share(plan["dataset"]["name"]) / "data"
        dataset = DataSet.of_share(tree)
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
        paths=paths,
        # Now, since looking fills the inode cache, which a trial wants cold.
        share=storage_ledger.share(str(tree)),
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
