"""A run on a KVM host: start it (checks, lock, plan on the disk), work slices, end it. The host's half of what the controller loops over."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Collection, Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from . import fleet_memory, host_settings, image, knobs, ledger, lock, records, run_unit, slices, testbed
from .host_data import DataMissingError, DataSet, host_data
from .paths import MACHINE, RUNTIME, HostPaths
from .provenance import host_facts
from .systems import SYSTEMS

# Records of the longest plan, and what a boot keeps below the state directory.
NEEDED_MIB: Final = 64
_MIB: Final = 1 << 20


class HostRunError(Exception):
    """A run that cannot start or go on here; one line: what, where, cure."""


def start(
    plan: Mapping[str, Any],
    run_id: str,
    host: str,
    paths: HostPaths,
    *,
    machine: Path = MACHINE,
    runtime: Path = RUNTIME,
    root: Path = Path("/"),
) -> dict[str, Any]:
    """Make this host ready for slices of ``plan``; nothing is started where something is missing. Returns ``facts`` and ``resumed``.

    ``facts`` have the host's settings during the run, and ``quieted``: those that were changed for it, as they were before.

    Raises HostRunError.
    """
    _check(plan, paths)
    # A run that goes on has guests of its own in this memory; of another one the unit tells.
    if lock.holder_of(machine / "lock") is None:
        _check_memory(plan, paths, run_id, root)
    holder = {"experiment": plan["experiment"], "host": host, "since": datetime.now(UTC).isoformat(timespec="seconds")}
    try:
        is_new = run_unit.start(run_id, holder, machine, runtime)
    except lock.LockHeldError as held:
        raise HostRunError(lock.describe(held.holder)) from held
    except run_unit.RunUnitError as error:
        raise HostRunError(str(error)) from error
    quieted = _set(plan, paths, machine, root)
    directory = paths.run(run_id)
    directory.mkdir(parents=True, exist_ok=True)
    records.write_atomically(directory / "plan.json", plan)
    facts = host_facts(paths, plan["dataset"]["name"]) | {"settings": host_settings.current(paths.store, root)}
    return {"facts": facts | ({"quieted": quieted} if quieted else {}), "resumed": not is_new}


def work(
    run_id: str,
    host: str,
    paths: HostPaths,
    *,
    seconds: float,
    skip: int,
    leave_out: Collection[str] = (),
    machine: Path = MACHINE,
    root: Path = Path("/"),
) -> dict[str, Any]:
    """One slice of the blocks that are not in ``leave_out``.

    Returns ``records`` from the ``skip``-th whole line on, ``lines`` (how many there are), ``remaining``, ``boots``.

    Raises HostRunError.
    """
    held = lock.holder_of(machine / "lock")
    if held is None or held.get("run_id") != run_id:
        raise HostRunError(f"{machine / 'lock'}: run {run_id} does not hold it any more: run the same command again")
    directory = paths.run(run_id)
    try:
        plan = json.loads((directory / "plan.json").read_text(encoding="utf-8"))
        # Again: a probe that was killed left KSM as it had set it.
        _set(plan, paths, machine, root)
        done = slices.run_slice(plan, run_id, host, paths, seconds=seconds, leave_out=frozenset(leave_out))
    except (OSError, ValueError, slices.SliceError) as error:
        raise HostRunError(" ".join(str(error).split())) from error
    every = records.read(directory / "results.jsonl")
    return {
        "records": every.records[skip:],
        "lines": len(every.records),
        "remaining": done.remaining,
        "boots": done.boots,
    }


def finish(run_id: str, paths: HostPaths) -> None:
    """End what the run left running, free the lock, bring host settings back. Raises HostRunError."""
    testbed.sweep(paths)
    try:
        run_unit.stop(run_id)
    except run_unit.RunUnitError as error:
        raise HostRunError(str(error)) from error


def _set(plan: Mapping[str, Any], paths: HostPaths, machine: Path, root: Path) -> dict[str, str]:
    """Switch off what would disturb and set what the plan asks for; the run's unit brings it back. Returns what was changed, as it was before."""
    try:
        outcome = host_settings.apply(host_settings.of_run(plan), machine / "knobs", paths.store, root)
    except knobs.KnobError as error:
        raise HostRunError(str(error)) from error
    return {name: " ".join(dict.fromkeys(outcome.before[name].values())) for name in outcome.changed}


def _check(plan: Mapping[str, Any], paths: HostPaths) -> None:
    if os.geteuid():
        raise HostRunError("trials need root on the KVM host: set become")
    for program in ("systemd-run", "systemctl"):
        if shutil.which(program) is None:
            raise HostRunError(f"{program} is missing: a KVM host runs systemd; run role kvm_host first")
    try:
        status = os.statvfs(paths.state)
    except OSError as error:
        raise HostRunError(f"{paths.state}: {error.strerror}: run role kvm_host first") from error
    free = status.f_bavail * status.f_frsize // _MIB
    if free < NEEDED_MIB:
        raise HostRunError(f"{paths.state}: {free} MiB are free, {NEEDED_MIB} MiB are needed: make room")
    name = plan["dataset"]["name"]
    try:
        DataSet.of_share(paths.share(name) / "data")
        image.require_space(paths.store, _own_images_bytes(plan, paths))
        for system in sorted({trial["system"] for trial in plan["trials"]}):
            host_data(SYSTEMS[system], name, paths)
    except image.NoSpaceError as error:
        raise HostRunError(f"images of the guests' own: {error}, or plan fewer guests") from error
    except DataMissingError as error:
        raise HostRunError(str(error)) from error


def _check_memory(plan: Mapping[str, Any], paths: HostPaths, run_id: str, root: Path) -> None:
    """Refuse what is left to do where its largest fleet does not fit into the memory that is available now: the plan knows how much there is at all."""
    done = {record["id"] for record in records.read(paths.run(run_id) / "results.jsonl").records}
    guests = max((int(trial["guests"]) for trial in plan["trials"] if trial["id"] not in done), default=0)
    if fleet_memory.why_not_now(plan, guests, _available_mib(root)):
        # Guests of a run that was killed together with its unit.
        testbed.sweep(paths)
    why_not = fleet_memory.why_not_now(plan, guests, _available_mib(root))
    if why_not:
        raise HostRunError(why_not)


def _available_mib(root: Path) -> int:
    return ledger.read_meminfo((root / "proc/meminfo").read_text("ascii"))["MemAvailable"] // _MIB


def _own_images_bytes(plan: Mapping[str, Any], paths: HostPaths) -> int:
    """What the whole copies of the largest fleet take at once."""
    most = 0
    for trial in plan["trials"]:
        base = paths.image(plan["dataset"]["name"], trial["system"])
        if SYSTEMS[trial["system"]].own_image == "copy" and base.exists():
            most = max(most, trial["guests"] * base.stat().st_blocks * 512)
    return most
