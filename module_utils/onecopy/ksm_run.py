"""Switch KSM on for a while, with given settings, and see it merge. Whatever happens, nothing stays merged, and the run's settings come back."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from . import host_settings, knobs, ksm

_PREFIX: Final = "ksm_"
_STEP_SECONDS: Final = 0.25


class Scanner:
    """KSM while it is switched on; ``remembered`` is where the host's own settings are kept until they are back."""

    def __init__(self, remembered: Path, root: Path = Path("/")) -> None:
        self._remembered = remembered
        self._root = root
        self._ksmd = ksm.find_ksmd(root / "proc", root / ksm.BOXED_KSMD.relative_to("/"))

    def set(self, **settings: Any) -> None:
        """Go on with these settings (KSM's own names). Raises knobs.KnobError."""
        wanted = {_PREFIX + name: value for name, value in settings.items()}
        host_settings.apply(wanted, self._remembered, root=self._root)

    def unmerge(self) -> None:
        """Break every merged page up and forget what was scanned; KSM runs afresh then."""
        self.set(run=2)
        self.set(run=1)

    def sample(self) -> ksm.Sample:
        """The counters now."""
        return ksm.sample(time.monotonic(), self._root / ksm.DIRECTORY.relative_to("/"), self._ksmd)

    def watch(self, limit_seconds: float) -> tuple[list[ksm.Sample], int | None]:
        """Samples until merging is done or the time is over, and the index of the first one at the plateau (None: not reached)."""
        samples = [self.sample()]
        is_smart = self.settings().get(f"{_PREFIX}smart_scan") == "1"  # absent before Linux 6.7
        reached = None
        while reached is None and samples[-1].seconds - samples[0].seconds < limit_seconds:
            time.sleep(_STEP_SECONDS)
            samples.append(self.sample())
            reached = ksm.plateau(samples, is_smart)
        return samples, reached

    def settings(self) -> dict[str, str]:
        """The settings that decide what is merged, as they are: KSM's, and the host's for huge pages, which KSM breaks up."""
        found = host_settings.current(root=self._root)
        return {name: value for name, value in found.items() if name.startswith((_PREFIX, "thp_"))}


@contextmanager
def scanning(
    settings: Mapping[str, Any], remembered: Path, of_run: Mapping[str, Any], root: Path = Path("/")
) -> Iterator[Scanner]:
    """KSM runs with ``settings`` from nothing merged; afterwards all is unmerged, and set as the host had it but for what the run sets.

    ``of_run``: the run's settings (``host_settings.of_run()``), which hold until it ends; those that are not KSM's are let be.

    Raises ksm.KsmAbsentError, knobs.KnobError.
    """
    ksm.sample(0, root / ksm.DIRECTORY.relative_to("/"))
    scanner = Scanner(remembered, root)
    try:
        scanner.set(run=2)
        scanner.set(**settings)
        scanner.set(run=1)
        yield scanner
    finally:
        scanner.set(run=2)
        # The host's own, not those of before this call: a killed one left its own there.
        names = [name for name in host_settings.SETTINGS if name.startswith(_PREFIX) and name not in of_run]
        files = {path for name in names for path, _ in host_settings.files(name, root=root)}
        knobs.restore(remembered, only=files)
        # A host that had KSM on gets that back when the run ends: the rest of the run would be merged.
        ours = {name: value for name, value in of_run.items() if name.startswith(_PREFIX)}
        host_settings.apply(ours, remembered, root=root)
