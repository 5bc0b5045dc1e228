"""One run as one archive: its records and report, what they were made from and with, and the kit's source at that
revision.
"""

from __future__ import annotations

import io
import json
import subprocess
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import yaml

from ..experiment import digest as experiment_digest
from . import crate, handoff_readme, report
from .archive import ArchiveError
from .claims import ClaimsError
from .rebuild import rebuilt_summary
from .stored_run import Run, RunError, load

EXPERIMENT = "experiment.yml"
RUN = "run"
SOURCE = "source"
CLAIMS = f"{SOURCE}/experiments/claims.yml"
REPORTS = ("summary.json", "report.html", "report.md")
# What a host says about itself in run/hosts/HOST/, and what a reader misses where it is absent.
EVIDENCE = {
    "packages.txt": "packages of the host with versions",
    "kernel.config": "kernel configuration of the host",
    "guest-kernel.config": "kernel configuration of the guests",
    "dataset.json": "files, sizes and digests of the data set",
}
# The same in manifest.json, below hosts.HOST.
MANIFEST_EVIDENCE = {
    "guest": "packages with versions, kernel and digests of what guests booted",
    "images": "digests of the data set's images",
    "boots": "exact command lines of QEMU and daemons",
}


@dataclass(frozen=True, slots=True)
class Handoff:
    """Name of the archive's top directory, its files, and what the run did not leave behind, one line each."""

    top: str
    files: Mapping[str, bytes]
    absent: tuple[str, ...]


def find_run(reports: Path, name: str) -> Path:
    """The directory of a run: a path to it, EXPERIMENT/RUN_ID, RUN_ID, or EXPERIMENT for its newest run. Raises
    ArchiveError.
    """
    for directory in (Path(name), reports / name):
        if (directory / "manifest.json").is_file():
            return directory.resolve()
    patterns = () if Path(name).is_absolute() else (f"{name}/*/manifest.json", f"*/{name}/manifest.json")
    found = sorted(path.parent for pattern in patterns for path in reports.glob(pattern))
    if found:
        return found[-1].resolve()
    known = ", ".join(sorted(str(path.parent.relative_to(reports)) for path in reports.glob("*/*/manifest.json"))[-5:])
    there = f"are, newest last, {known}" if known else "is none yet: ./onecopy run EXPERIMENT makes one"
    raise ArchiveError(f"no run {name!r} in {reports}: there {there}")


def collect(directory: Path, repository: Path, *, dirty_allowed: bool = False) -> Handoff:
    """Everything that belongs into the archive of the run in ``directory``; the same run gives the same files.

    ``repository`` is a git checkout of the kit that has the run's revision; summary and report are those by the claims of that revision.
    Raises ArchiveError when a part is missing, when the run was made from a changed working tree (unless ``dirty_allowed``), or when its
    summary is not what the records give.
    """
    try:
        run = load(directory)
    except RunError as error:
        raise ArchiveError(str(error)) from None
    revision, dirty = kit_of(run.manifest)
    if not revision:
        raise ArchiveError(
            f"{directory / 'manifest.json'}: records no revision of the kit: run the experiment from a git clone"
        )
    if dirty and not dirty_allowed:
        raise ArchiveError(
            f"{directory}: was run from a working tree with uncommitted changes, "
            f"so revision {revision[:12]} is not its source: "
            "commit them and run again, or set handoff_dirty_allowed=true and the archive will say so"
        )
    files = _run_files(directory)
    source = _source(repository, revision)
    files |= source
    files[EXPERIMENT] = _experiment(run, directory, source)
    files |= _reports(run, files, directory, repository)
    absent = tuple(_absent(run, files))
    described = {name: _describe(name) for name in sorted(files) if name.startswith(f"{RUN}/")}
    facts = _facts(run, revision, dirty, files[EXPERIMENT])
    files[crate.README] = handoff_readme.text(facts, dirty, described, absent).encode()
    inputs = {name: text for name, text in described.items() if name == f"{RUN}/plan.json"}
    inputs[EXPERIMENT] = "the experiment"
    outputs = {name: text for name, text in described.items() if name not in inputs}
    files[crate.METADATA] = crate.metadata(facts, inputs, outputs, {name: len(data) for name, data in files.items()})
    return Handoff(f"onecopy-{run.experiment}-{run.run_id}", files, absent)


def kit_of(manifest: Mapping[str, Any]) -> tuple[str, bool]:
    """The kit's git revision that made a run (empty where it is unknown), and whether files differed from it."""
    controller = manifest.get("controller", {})
    return str(controller.get("git_revision") or ""), bool(controller.get("git_dirty"))


def _run_files(directory: Path) -> dict[str, bytes]:
    missing = [name for name in REPORTS if not (directory / name).is_file()]
    if missing:
        raise ArchiveError(f"{directory}: {', '.join(missing)} missing: render the report first (./onecopy report)")
    found = (
        path
        for path in sorted(directory.rglob("*"))
        if not any(part.startswith(".") for part in path.relative_to(directory).parts)
    )
    files = {}
    for path in found:
        if path.is_symlink():
            raise ArchiveError(f"{path}: is a link: put the file itself there")
        if path.is_file():
            files[f"{RUN}/{path.relative_to(directory)}"] = path.read_bytes()
    return files


def _source(repository: Path, revision: str) -> dict[str, bytes]:
    """The kit's files at ``revision``, as git has them."""
    command = ["git", "-c", f"safe.directory={repository}", "-C", str(repository), "archive", "--format=tar", revision]
    try:
        archived = subprocess.run(command, check=True, capture_output=True).stdout
    except FileNotFoundError:
        raise ArchiveError(
            "git is not installed: install it, the archive holds the kit's source at the run's revision"
        ) from None
    except subprocess.CalledProcessError as error:
        reason = error.stderr.decode(errors="replace").strip().splitlines()
        raise ArchiveError(
            f"{repository}: has no revision {revision[:12]} of the kit ({reason[-1] if reason else 'git archive failed'}): fetch it"
        ) from None
    files = {}
    with tarfile.open(fileobj=io.BytesIO(archived)) as tar:
        for entry in tar:
            if not entry.isreg():
                if not entry.isdir():
                    raise ArchiveError(
                        f"{entry.name} at revision {revision[:12]} is no regular file: the archive cannot hold it"
                    )
                continue
            stream = tar.extractfile(entry)
            files[f"{SOURCE}/{entry.name}"] = stream.read() if stream else b""
    return files


def _experiment(run: Run, directory: Path, source: Mapping[str, bytes]) -> bytes:
    """The experiment whose digest the plan carries: kept with the run, or the kit's own at that revision."""
    kept = directory / EXPERIMENT
    choices = [kept.read_bytes()] if kept.is_file() else []
    choices += [data for name, data in sorted(source.items()) if name.startswith(f"{SOURCE}/experiments/")]
    for text in choices:
        document = yaml.safe_load(text)
        if isinstance(document, dict) and experiment_digest(document) == run.plan["digest"]:
            return text
    raise ArchiveError(
        f"{directory}: the experiment with digest {run.plan['digest'][:12]} is neither there nor among the kit's: put its file there as {EXPERIMENT}"
    )


def _reports(run: Run, files: Mapping[str, bytes], directory: Path, kit: Path) -> dict[str, bytes]:
    """Summary and report where they must be others than those with the run: one that was rendered anew since is judged by the claims that
    ``kit`` has now, an archive by those of the run's revision. Raises ArchiveError when the summary is neither.
    """
    place, stored = f"{directory / 'summary.json'}", files[f"{RUN}/summary.json"]
    try:
        rebuilt = rebuilt_summary(run, files.get(CLAIMS, b""))
        if rebuilt == stored:
            return {}
        if stored != rebuilt_summary(run, (kit / "experiments/claims.yml").read_bytes()):
            raise ArchiveError(f"{place}: is not what the records give: render the report anew (./onecopy report)")
    except (ClaimsError, OSError) as error:
        raise ArchiveError(f"{place}: cannot be checked by the claims of the run's revision: {error}") from None
    pages = report.render(report.document(run, json.loads(rebuilt)), kit / "roles/report/templates")
    return {f"{RUN}/summary.json": rebuilt, **{f"{RUN}/{name}": page.encode() for name, page in pages.items()}}


def _absent(run: Run, files: Mapping[str, bytes]) -> list[str]:
    lines = []
    for host in run.hosts:
        names = {f"{RUN}/hosts/{host}/{name}": what for name, what in EVIDENCE.items()}
        lines += [f"{name}: {what}" for name, what in names.items() if name not in files]
        said = run.manifest.get("hosts", {}).get(host, {})
        lines += [
            f"{RUN}/manifest.json, hosts.{host}.{key}: {what}"
            for key, what in MANIFEST_EVIDENCE.items()
            if not said.get(key)
        ]
    return lines


def _describe(name: str) -> str:
    base = name.rpartition("/")[2]
    if name.startswith(f"{RUN}/hosts/"):
        return f"{name.split('/')[2]}: {EVIDENCE.get(base, base)}"
    if base.startswith("results"):
        return "raw records, one trial a line"
    return {
        "plan.json": "the ordered trials and the seed that ordered them",
        "manifest.json": "hosts, versions, mount options, exact command lines of QEMU and daemons, the kit's revision",
        "summary.json": "what the run found, computed from the records",
        "report.html": "the report, opens offline",
        "report.md": "the report as text",
    }.get(base, base)


def _facts(run: Run, revision: str, dirty: bool, experiment: bytes) -> crate.RunFacts:
    started = [datetime.fromisoformat(record["started_at"]) for record in run.records]
    ended = [when + timedelta(seconds=_seconds(record)) for when, record in zip(started, run.records, strict=True)]
    statuses: dict[str, int] = {}
    for record in run.records:
        statuses[record["status"]] = statuses.get(record["status"], 0) + 1
    outcome = ", ".join(f"{number} {status}" for status, number in sorted(statuses.items()))
    text = " ".join(str(yaml.safe_load(experiment).get("description", run.experiment)).split())
    return crate.RunFacts(
        experiment=run.experiment,
        run_id=run.run_id,
        description=f"{text}. {len(run.plan['trials'])} trials planned on {', '.join(run.hosts)}; records: {outcome}.",
        revision=revision + (" with uncommitted changes that are not in this archive" if dirty else ""),
        started=min(started),
        ended=max(ended),
        values={"accelerator": run.accelerator, "seed": int(run.plan["seed"])},
    )


def _seconds(record: Mapping[str, Any]) -> float:
    return float(sum(record.get("phases", {}).values()))
