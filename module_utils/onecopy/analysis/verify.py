"""Is an archive whole, and do its raw records give the summary and report that it carries?"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from . import archive, handoff, report
from .archive import Archive, ArchiveError
from .claims import ClaimsError
from .rebuild import first_difference, rebuilt_summary
from .stored_run import Run, RunError, load

_REQUIRED = (
    handoff.EXPERIMENT,
    handoff.CLAIMS,
    f"{handoff.RUN}/plan.json",
    f"{handoff.RUN}/manifest.json",
    f"{handoff.RUN}/summary.json",
)


@dataclass(frozen=True, slots=True)
class Opened:
    """An archive that is whole, unpacked in ``directory``."""

    archive: Archive
    directory: Path
    run: Run

    @property
    def revision(self) -> str:
        """The kit's revision that made the run."""
        return handoff.kit_of(self.run.manifest)[0]

    @property
    def dirty(self) -> bool:
        """Whether the kit was not exactly that revision."""
        return handoff.kit_of(self.run.manifest)[1]

    @property
    def guest_suite(self) -> str:
        """Debian release of the guests; empty where the run does not tell."""
        return str(self._of_guests("suite") or "")

    @property
    def guest_packages(self) -> tuple[list[str], list[str]]:
        """What was asked for, and every package with its version; empty where the run does not tell."""
        return list(self._of_guests("include") or []), list(self._of_guests("packages") or [])

    def _of_guests(self, name: str) -> Any:
        """What the manifests of all hosts' guests say, where they say the same."""
        guests = [host.get("guest", {}) for host in self.run.manifest.get("hosts", {}).values()]
        said = [guest[name] for guest in guests if name in guest]
        return said[0] if said and all(other == said[0] for other in said) else None

    @property
    def experiment(self) -> Mapping[str, Any]:
        """The experiment that was run."""
        document: Mapping[str, Any] = yaml.safe_load(self.archive.files[handoff.EXPERIMENT])
        return document

    @property
    def run_directory(self) -> Path:
        """The run as it lies in reports/ on the maker's controller."""
        return self.directory / handoff.RUN


@dataclass(frozen=True, slots=True)
class Rebuilt:
    """What the raw records gave. ``difference``: where the summary differs first, empty when it is the same bytes;
    ``same``: by file.
    """

    directory: Path
    difference: str
    same: Mapping[str, bool]


def unpack(path: Path, parent: Path, digest: str = "") -> Opened:
    """Check every byte of the archive at ``path``, then unpack it below ``parent`` under its digest (once: it is kept
    when it is there).

    ``digest`` is the SHA-256 that its maker printed; empty: not compared. Raises ArchiveError; nothing is unpacked
    then.
    """
    found = archive.read(path)
    if digest and digest.strip().lower() != found.digest:
        raise ArchiveError(
            f"{path}: its SHA-256 is {found.digest}, not {digest}: this is not the archive that was meant; get it again from its maker"
        )
    missing = [name for name in _REQUIRED if name not in found.files]
    if missing:
        raise ArchiveError(f"{path}: holds no {', '.join(missing)}: it was not made by handoff")
    directory = parent / found.digest[:16]
    if directory.exists() and not archive.is_unpacked(found, directory):
        raise ArchiveError(f"{directory}: its files were changed since they were unpacked: remove it and start again")
    if not directory.exists():
        archive.unpack(found, directory)
    try:
        return Opened(found, directory, load(directory / handoff.RUN))
    except RunError as error:
        raise ArchiveError(f"{path}: {error}") from None


def rebuild(opened: Opened, templates: Path) -> Rebuilt:
    """Write summary and report, made from the raw records by this kit, into ``rebuilt/`` beside the unpacked files.
    Raises ArchiveError.
    """
    try:
        summary = rebuilt_summary(opened.run, opened.archive.files[handoff.CLAIMS])
        pages = report.render(report.document(opened.run, json.loads(summary)), templates)
    except (ClaimsError, KeyError, TypeError, ValueError) as error:
        cure = f"use the kit at revision {opened.revision[:12]}"
        raise ArchiveError(f"{opened.directory}: summary and report cannot be rebuilt: {error!r}: {cure}") from error
    made = {"summary.json": summary} | {name: page.encode() for name, page in pages.items()}
    place = opened.directory / "rebuilt"
    place.mkdir(exist_ok=True)
    for name, data in made.items():
        (place / name).write_bytes(data)
    stored = {name: opened.archive.files.get(f"{handoff.RUN}/{name}") for name in made}
    return Rebuilt(
        directory=place,
        difference=first_difference(stored["summary.json"] or b"", summary),
        same={name: stored[name] == data for name, data in made.items()},
    )
