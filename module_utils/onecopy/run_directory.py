"""A run on the controller: ``reports/<experiment>/<run_id>/`` with plan.json, manifest.json and results.jsonl. The same command goes on
with an unfinished run of the same plan, or starts a new one.
"""

from __future__ import annotations

import fcntl
import json
import os
import platform
import subprocess
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from . import lock, records

SCHEMA: Final = 1


class RunDirectoryError(Exception):
    """Reports cannot be written or read; one line."""


@dataclass(frozen=True, slots=True)
class RunDirectory:
    """One run. Workers of several hosts share it: records are appended and the manifest is changed under a file lock."""

    path: Path

    @property
    def run_id(self) -> str:
        """UTC time of its start, unique below its experiment."""
        return self.path.name

    @property
    def results(self) -> Path:
        """All records of all hosts."""
        return self.path / "results.jsonl"

    def manifest(self) -> dict[str, Any]:
        """What is known of the run so far."""
        return _read_object(self.path / "manifest.json")

    def plan(self) -> dict[str, Any]:
        """The plan, the same for every host."""
        return _read_object(self.path / "plan.json")

    def add_records(self, host: str, fetched: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
        """Store those of ``fetched`` that are new, and return them: fetching twice stores once."""
        with _locked(self.path):
            known = {record["id"] for record in records.read(self.results).records if record.get("host") == host}
            fresh = [record for record in records.merge(fetched) if record["id"] not in known]
            if fresh:
                records.append(self.results, *fresh)
        return fresh

    def records(self, host: str) -> list[dict[str, Any]]:
        """Those of ``host``."""
        return [record for record in records.read(self.results).records if record.get("host") == host]

    def done(self, host: str) -> frozenset[str]:
        """Trials of ``host`` whose records are here."""
        return frozenset(str(record["id"]) for record in self.records(host))

    def update_host(self, host: str, change: Callable[[dict[str, Any]], None]) -> None:
        """Change what the manifest says about ``host``."""
        with _locked(self.path):
            manifest = self.manifest()
            change(manifest["hosts"].setdefault(host, {}))
            records.write_atomically(self.path / "manifest.json", manifest)

    def discard_if_empty(self) -> None:
        """Remove a run that no host could start, so that what was refused leaves nothing behind."""
        with _locked(self.path.parent):
            if not self.results.exists() and not any(self.manifest()["hosts"].values()):
                for name in ("manifest.json", "plan.json"):
                    (self.path / name).unlink()
                self.path.rmdir()

    def is_finished(self) -> bool:
        """Whether every host of the run has a record for every trial."""
        return all("finished_at" in host for host in self.manifest()["hosts"].values())


def claim(reports: Path, experiment: str, host: str) -> int:
    """Be the only controller that works on ``experiment`` on ``host``; whoever has the descriptor open has the claim, also when he is killed.

    Called by the process that works, whose parent is the controller. One that a killed controller left is ended first, or it would go on
    beside this one. Raises RunDirectoryError.
    """
    path = reports / experiment / f".{host}.lock"
    holder = {"pid": os.getpid(), "controller": os.getppid()}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            return lock.acquire(path, holder)
        except lock.LockHeldError as held:
            if _is_orphan(path, held.holder):
                lock.stop_holder(path)
            return lock.acquire(path, holder)
    except lock.LockHeldError as held:
        raise RunDirectoryError(
            f"{path.parent}: another controller (pid {held.holder.get('controller', '?')}) works on this experiment on {host}: "
            "wait for its end, or end it"
        ) from held
    except OSError as error:
        raise _cannot_be_written(path.parent, error) from error


def find_or_start(
    reports: Path,
    plan: Mapping[str, Any],
    hosts: Sequence[str],
    project: Path,
    *,
    now: datetime,
    is_repeated: bool = True,
) -> tuple[RunDirectory, bool]:
    """The run to go on with and whether it was there before.

    Not ``is_repeated``: a finished run of the same plan will do, instead of a new one. Raises RunDirectoryError.
    """
    top = reports / plan["experiment"]
    try:
        top.mkdir(parents=True, exist_ok=True)
        with _locked(top):
            for path in sorted((entry for entry in top.iterdir() if (entry / "manifest.json").is_file()), reverse=True):
                run = RunDirectory(path)
                if _is_of(run, plan, hosts) and not (is_repeated and run.is_finished()):
                    return run, True
            return _start(top, plan, hosts, project, now), False
    except OSError as error:
        raise _cannot_be_written(top, error) from error


def controller_facts(project: Path) -> dict[str, Any]:
    """Revision of the kit, whether files differ from it, and versions on the controller; what is unknown is absent."""
    facts: dict[str, Any] = {
        "python": platform.python_version(),
        "kernel": platform.release(),
        "machine": platform.node(),
    }
    revision = _git(project, "rev-parse", "HEAD")
    if revision is not None:
        facts["git_revision"] = revision.strip()
        facts["git_dirty"] = bool(_git(project, "status", "--porcelain"))
    return facts


def _is_of(run: RunDirectory, plan: Mapping[str, Any], hosts: Sequence[str]) -> bool:
    """Whether ``run`` has the same plan, and all of ``hosts``."""
    try:
        manifest, stored = run.manifest(), run.plan()
    except RunDirectoryError:
        return False
    # The estimate may be computed anew by a newer kit; the trials decide.
    keys = ("digest", "accelerator", "trials", "workloads", "dataset", "guest")
    return set(hosts) <= set(manifest["hosts"]) and all(
        stored.get(key) == json.loads(json.dumps(plan[key])) for key in keys
    )


def _start(top: Path, plan: Mapping[str, Any], hosts: Sequence[str], project: Path, now: datetime) -> RunDirectory:
    stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    names = [stamp, *(f"{stamp}_{number}" for number in range(2, 100))]
    run = RunDirectory(top / next(name for name in names if not (top / name).exists()))
    run.path.mkdir()
    records.write_atomically(run.path / "plan.json", plan)
    manifest = {
        "schema": SCHEMA,
        "experiment": plan["experiment"],
        "run_id": run.run_id,
        "digest": plan["digest"],
        "seed": plan["seed"],
        "accelerator": plan["accelerator"],
        "started_at": now.astimezone(UTC).isoformat(timespec="seconds"),
        "controller": controller_facts(project),
        "hosts": {host: {} for host in hosts},
    }
    # Last: a run without a manifest is no run.
    records.write_atomically(run.path / "manifest.json", manifest)
    return run


def _is_orphan(path: Path, holder: Mapping[str, Any]) -> bool:
    """Whether the process that wrote ``holder`` into the lock ``path`` is one of this machine that lost its controller."""
    process = Path("/proc", str(holder.get("pid")))
    try:
        status = (process / "status").read_text(encoding="utf-8", errors="replace")
        parent = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("PPid:"))
        # A pid of another machine, or of another container, means somebody else here.
        return parent != holder.get("controller") and any(_shows(entry, path) for entry in (process / "fd").iterdir())
    except OSError:
        return False


def _shows(link: Path, path: Path) -> bool:
    try:
        return link.readlink() == path.resolve()
    except FileNotFoundError:
        return False


def _cannot_be_written(directory: Path, error: OSError) -> RunDirectoryError:
    return RunDirectoryError(
        f"{directory}: cannot be written: {error.strerror or error}: give the reports another place"
    )


def _git(project: Path, *arguments: str) -> str | None:
    # safe.directory: root runs the kit from a checkout that another user owns.
    argv = ["git", "-c", "safe.directory=*", "-C", str(project), *arguments]
    try:
        answer = subprocess.run(argv, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return answer.stdout if answer.returncode == 0 else None


def _read_object(path: Path) -> dict[str, Any]:
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise RunDirectoryError(
            f"{path}: cannot be read: {error}: remove the directory of that run, or mend the file"
        ) from error
    if not isinstance(document, dict):
        raise RunDirectoryError(f"{path}: is no JSON object: remove the directory of that run, or mend the file")
    return document


@contextmanager
def _locked(directory: Path) -> Iterator[None]:
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX)
        yield
    finally:
        os.close(fd)
