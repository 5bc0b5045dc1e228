"""What a boot's options change for as long as it runs: the class of the store's device; readahead, on the host and in the guest."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final

from . import device_limit, host_settings, knobs
from .paths import MACHINE
from .runner_client import RunnerClient

_CALL_SECONDS: Final = 30.0
_READ_AHEAD: Final = "read_ahead_kb"
# That a boot has set it, and not the run, whose settings stay.
_MARK: Final = "read_ahead_of_a_boot"


def apply(options: Mapping[str, object], store: Path, remembered: Path = MACHINE / "knobs") -> None:
    """Set what ``options`` ask for; a run that is killed has its settings brought back by its unit, the limit by the next boot.

    Raises DeviceLimitError, KnobError.
    """
    if "device" in options:
        device_limit.limit(store, str(options["device"]))
    if _READ_AHEAD in options:
        remembered.mkdir(parents=True, exist_ok=True)
        (remembered / _MARK).touch()
        host_settings.apply({_READ_AHEAD: options[_READ_AHEAD]}, remembered, store)


def apply_in_guest(options: Mapping[str, object], runner: RunnerClient, targets: Iterable[str]) -> None:
    """The same in a guest that has just mounted ``targets``. Raises RunnerLost, RunnerError."""
    if _READ_AHEAD in options:
        for target in targets:
            runner.call("read_ahead", _CALL_SECONDS, target=target, kib=options[_READ_AHEAD])


def undo(store: Path, remembered: Path = MACHINE / "knobs") -> None:
    """Take it back, also of a boot that was killed; nothing to do where nothing was changed. Raises DeviceLimitError, KnobError."""
    device_limit.lift()
    if (remembered / _MARK).exists():
        knobs.restore(remembered, only={path for path, _ in host_settings.files(_READ_AHEAD, store)})
        (remembered / _MARK).unlink()
