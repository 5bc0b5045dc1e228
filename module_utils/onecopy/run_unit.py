"""The systemd unit of a run on a KVM host: it holds the machine-wide lock; at its end, however it comes about, host settings are brought
back and a limit of the store's device is lifted."""

from __future__ import annotations

import importlib.util
import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from . import commands, device_limit, knobs, lock, paths
from .paths import MACHINE, RUNTIME

PACKAGE: Final = "onecopy"
_COPIED: Final = (lock, knobs, device_limit, commands, paths)


class RunUnitError(Exception):
    """The unit could not be started; one line."""


def unit_name(run_id: str) -> str:
    """The run's unit."""
    return f"onecopy-run@{run_id}.service"


def start(run_id: str, holder: Mapping[str, Any], machine: Path = MACHINE, runtime: Path = RUNTIME) -> bool:
    """Make this run the machine's one; False when it was already (a resumed run adopts its own lock).

    Raises LockHeldError when another run, or the same run on another host of this machine, has it, and RunUnitError.
    """
    lock_path = machine / "lock"
    held = lock.holder_of(lock_path)
    if held is not None:
        if held.get("run_id") == run_id and held.get("host") == holder.get("host"):
            return False
        raise lock.LockHeldError(held)
    machine.mkdir(parents=True, exist_ok=True)
    try:
        # What a unit left that was killed together with its ExecStopPost.
        knobs.restore(machine / "knobs")
    except knobs.KnobError as error:
        raise RunUnitError(f"host settings of an earlier run are not back: {error}") from error
    library = _copy_sources(runtime / "lib")
    command = start_command(run_id, {**holder, "run_id": run_id}, lock_path, machine / "knobs", library)
    answer = subprocess.run(command, capture_output=True, text=True, check=False)
    if answer.returncode:
        held = lock.holder_of(lock_path)
        if held:
            raise lock.LockHeldError(held)
        raise RunUnitError(
            f"{unit_name(run_id)} did not start: {' '.join(answer.stderr.split())}: see journalctl -u {unit_name(run_id)}"
        )
    return True


def stop(run_id: str) -> None:
    """End the run on this machine: the lock is free and the settings are back when this returns. Raises RunUnitError."""
    answer = subprocess.run(["systemctl", "stop", unit_name(run_id)], capture_output=True, text=True, check=False)
    if answer.returncode and "not loaded" not in answer.stderr:
        raise RunUnitError(f"{unit_name(run_id)} did not stop: {' '.join(answer.stderr.split())}")


def start_command(
    run_id: str, holder: Mapping[str, Any], lock_path: Path, knobs_path: Path, library: Path
) -> list[str]:
    """The argv that starts the unit and returns when it holds the lock."""
    python = "/usr/bin/python3"
    return [
        "systemd-run",
        "--quiet",
        "--collect",
        f"--unit={unit_name(run_id)}",
        f"--description=onecopy run {run_id}: holds the machine-wide lock",
        "--service-type=notify",
        f"--working-directory={library}",
        f"--property=ExecStopPost={python} -m {PACKAGE}.knobs {knobs_path}",
        f"--property=ExecStopPost={python} -m {PACKAGE}.device_limit",
        python,
        "-m",
        f"{PACKAGE}.lock",
        str(lock_path),
        json.dumps(holder),
    ]


def _copy_sources(directory: Path) -> Path:
    """Lay the sources that the unit runs where it finds them: the module that starts it is gone by then."""
    package = directory / PACKAGE
    package.mkdir(parents=True, exist_ok=True)
    (package / "__init__.py").touch()
    for module in _COPIED:
        spec = importlib.util.find_spec(module.__name__)
        loader: Any = spec.loader if spec else None
        (package / f"{module.__name__.rpartition('.')[2]}.py").write_text(
            loader.get_source(module.__name__), encoding="utf-8"
        )
    return directory
