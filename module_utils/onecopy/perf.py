"""Instructions that a guest executes, by the host's hardware counters (KVM)."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

EVENT: Final = "instructions:G"
# perf opens its counters after it has started; before that it counts nothing, and says nothing about it.
_START_SECONDS: Final = 0.2
_END_SECONDS: Final = 10.0


class PerfError(Exception):
    """This host cannot count; one line with the reason."""


@contextmanager
def guest_instructions(pid: int) -> Iterator[list[float]]:
    """Count what the vCPUs of the QEMU process ``pid`` execute meanwhile: the list holds the number at the end. Raises PerfError."""
    environment = {**os.environ, "LC_ALL": "C"}
    argv = ["perf", "stat", "-x", ",", "-e", EVENT, "-p", str(pid)]
    try:
        process = subprocess.Popen(argv, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, env=environment)
    except OSError as error:
        raise PerfError(f"perf cannot be started ({error.strerror}): install it to count instructions") from error
    found: list[float] = []
    try:
        time.sleep(_START_SECONDS)
        yield found
        process.send_signal(signal.SIGINT)
        _, text = process.communicate(timeout=_END_SECONDS)
        found.append(parse(text))
    finally:
        process.kill()
        process.wait()


def parse(text: str) -> float:
    """The number in the output of ``perf stat -x ,``. Raises PerfError where the hardware does not count."""
    for line in text.splitlines():
        value, *fields = line.split(",")
        if EVENT in fields:
            try:
                return float(value)
            except ValueError:
                raise PerfError(f"no hardware counter for {EVENT} on this host: perf says {value}") from None
    last = text.strip().splitlines()[-1:] or ["nothing"]
    raise PerfError(f"perf counted nothing: it says {last[0]}")
