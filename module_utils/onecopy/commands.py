"""Run a command and fail with all that a person needs to see."""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Mapping, Sequence


class CommandError(Exception):
    """A command that ended with a non-zero code, was not found, or took too long."""


def run(
    argv: Sequence[str], *, timeout_seconds: float | None = None, env: Mapping[str, str] | None = None, stdin: str = ""
) -> str:
    """Return the standard output of ``argv``; raise CommandError with argv, rc and the end of stderr."""
    shown = shlex.join(argv)
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, check=False, timeout=timeout_seconds, env=env
        )
    except FileNotFoundError as error:
        raise CommandError(f"{argv[0]} is not installed ({shown})") from error
    except subprocess.TimeoutExpired as error:
        raise CommandError(f"{shown}: no end after {timeout_seconds} s") from error
    if done.returncode != 0:
        raise CommandError(f"{shown}: rc {done.returncode}: {done.stderr.strip()[-800:]}")
    return done.stdout
