"""The machine-wide lock: one run per machine, because caches, sysctls and KSM are the machine's, in a box too.

A systemd unit holds it for the whole run (``python3 -m onecopy.lock LOCK TEXT``), so that it outlives the slices of work and a killed
controller. Only the standard library and nothing of this package is imported: this file is copied to where the unit finds it.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import json
import os
import signal
import socket
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any


class LockHeldError(Exception):
    """Somebody else holds the lock; ``holder`` is what he wrote into it."""

    def __init__(self, holder: Mapping[str, Any]) -> None:
        super().__init__("the lock is held")
        self.holder = holder


def acquire(path: Path, holder: Mapping[str, Any]) -> int:
    """Take the lock and write ``holder`` into it; the descriptor holds it until it is closed. Raises LockHeldError, OSError."""
    fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.ftruncate(fd, 0)
        os.pwrite(fd, json.dumps(holder).encode(), 0)
    except OSError as error:
        os.close(fd)
        if error.errno == errno.EWOULDBLOCK:
            raise LockHeldError(holder_of(path) or {}) from error
        raise
    return fd


def holder_of(path: Path) -> dict[str, Any] | None:
    """What the holder wrote; None when nobody holds the lock. An empty dictionary when he has not written yet."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            text = os.pread(fd, 4096, 0)
            try:
                holder = json.loads(text)
            except ValueError:
                return {}
            return holder if isinstance(holder, dict) else {}
        return None
    finally:
        os.close(fd)


def describe(holder: Mapping[str, Any]) -> str:
    """One line: who holds the machine, since when, and the cure."""
    who = (
        f"run {holder.get('run_id', '?')} of experiment {holder.get('experiment', '?')!r} on {holder.get('host', '?')}"
    )
    return (
        f"this machine already measures: {who}, since {holder.get('since', '?')} (pid {holder.get('pid', '?')}): "
        f"wait for its end, or end it on {holder.get('host', 'that host')} with "
        f"'systemctl stop onecopy-run@{holder.get('run_id', '?')}.service'"
    )


def stop_holder(path: Path, grace_seconds: float = 5.0) -> int | None:
    """End the process that holds ``path`` (a lock whose text names its ``pid``), and return that pid; None when nobody held it.

    For a slice that a killed controller left behind: only a holder can have written the text of a lock that is held.
    """
    holder = holder_of(path)
    if not holder or "pid" not in holder:
        return None
    pid = int(holder["pid"])
    for number, seconds in ((signal.SIGTERM, grace_seconds), (signal.SIGKILL, grace_seconds)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            if holder_of(path) is None:
                return pid
            time.sleep(0.02)
    raise LockHeldError(holder)


def hold(path: Path, holder: Mapping[str, Any]) -> None:
    """Take the lock, tell systemd, and sleep until told to end."""
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGINT})
    fd = acquire(path, {**holder, "pid": os.getpid()})
    _tell_systemd("READY=1")
    signal.sigwait({signal.SIGTERM, signal.SIGINT})
    os.close(fd)


def _tell_systemd(message: str) -> None:
    address = os.environ.get("NOTIFY_SOCKET")
    if address:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as connection:
            connection.connect("\0" + address[1:] if address[0] == "@" else address)
            connection.send(message.encode())


if __name__ == "__main__":
    try:
        hold(Path(sys.argv[1]), json.loads(sys.argv[2]))
    except LockHeldError as held:
        sys.exit(describe(held.holder))
