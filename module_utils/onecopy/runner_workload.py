"""Run one pipeline of utilities, timed and accounted for, on the machine that does the work.

Imports little: it is shipped into guests, where start-up time counts.
"""

from __future__ import annotations

import os
import select
import signal
import time
from typing import Any, Protocol

_STDERR_BYTES = 2048
_ENVIRONMENT = {"PATH": "/usr/local/bin:/usr/bin:/bin:/usr/sbin:/sbin", "LC_ALL": "C", "HOME": "/tmp", "TMPDIR": "/tmp"}


class WorkloadError(Exception):
    """The pipeline could not be started."""


class Caller(Protocol):
    """Who asked: the workload is ended when he goes away."""

    def fileno(self) -> int:
        """The descriptor to watch."""

    def is_gone(self) -> bool:
        """Whether the other end hung up."""


def run(pipeline: list[list[str]], timeout_seconds: float, cwd: str, caller: Caller | None = None) -> dict[str, Any]:
    """Run ``pipeline`` (argv piped into argv; the last one's output goes to /dev/null) and return what it cost.

    ``read_bytes`` and ``written_bytes`` are what its processes and their children read and wrote by system calls.
    ``max_rss_bytes`` is the largest process; never below the runner's own, from which the processes are started.
    Raises WorkloadError when a program cannot be started, BrokenPipeError when ``caller`` is gone: nothing runs any more then.
    """
    if not pipeline or not all(pipeline):
        raise WorkloadError("an empty pipeline")
    os.chdir(cwd)
    errors = os.memfd_create("stderr")
    pids: list[int] = []
    started = time.monotonic()
    try:
        _start(pipeline, errors, pids)
        timed_out = not _wait(pids, started + timeout_seconds, caller)
        wall = time.monotonic() - started
        result = _account(pids, wall, timed_out)
        size = os.fstat(errors).st_size
        result["stderr"] = os.pread(errors, _STDERR_BYTES, max(0, size - _STDERR_BYTES)).decode(errors="replace")
        return result
    finally:
        _end(pids)
        os.close(errors)
        os.chdir("/")


def _start(pipeline: list[list[str]], errors: int, pids: list[int]) -> None:
    """Start every program in one process group, and add their pids to ``pids``."""
    source = os.open("/dev/null", os.O_RDONLY)
    for position, argv in enumerate(pipeline):
        if position + 1 < len(pipeline):
            following, sink = os.pipe()
        else:
            following, sink = -1, os.open("/dev/null", os.O_WRONLY)
        actions = [(os.POSIX_SPAWN_DUP2, source, 0), (os.POSIX_SPAWN_DUP2, sink, 1), (os.POSIX_SPAWN_DUP2, errors, 2)]
        try:
            pids.append(
                os.posix_spawnp(argv[0], argv, _ENVIRONMENT, file_actions=actions, setpgroup=pids[0] if pids else 0)
            )
        except OSError as error:
            if following >= 0:
                os.close(following)
            raise WorkloadError(f"{argv[0]}: {error.strerror}") from error
        finally:
            os.close(source)
            os.close(sink)
        source = following


def _wait(pids: list[int], deadline: float, caller: Caller | None) -> bool:
    """Wait until every process has ended, without reaping any; False when the deadline passed first (all are killed then)."""
    poll = select.poll()
    waiting = {os.pidfd_open(pid): pid for pid in pids}
    try:
        for pidfd in waiting:
            poll.register(pidfd, select.POLLIN)
        if caller is not None:
            poll.register(caller.fileno(), 0)  # hang-up alone: requests wait
        in_time = True
        while waiting:
            left = deadline - time.monotonic()
            if left <= 0 and in_time:
                in_time = False
                os.killpg(pids[0], signal.SIGKILL)
            for fd, _ in poll.poll(max(0.0, left) * 1000 if in_time else 1000):
                if fd in waiting:
                    poll.unregister(fd)
                    os.close(fd)
                    del waiting[fd]
                elif caller is not None and caller.is_gone():
                    raise BrokenPipeError("the host hung up")
        return in_time
    finally:
        for pidfd in waiting:
            os.close(pidfd)


def _account(pids: list[int], wall_seconds: float, timed_out: bool) -> dict[str, Any]:
    """Reap ``pids`` (all zombies by now) and add up what they used."""
    read_bytes = written_bytes = 0
    user = system = 0.0
    max_rss = 0
    codes = []
    while pids:
        pid = pids[0]
        # A zombie still tells what it and its reaped children read; once reaped, nobody does.
        counters = _io(pid)
        read_bytes += counters.get("rchar", 0)
        written_bytes += counters.get("wchar", 0)
        _, status, usage = os.wait4(pid, 0)
        pids.pop(0)
        codes.append(os.waitstatus_to_exitcode(status))
        user += usage.ru_utime
        system += usage.ru_stime
        max_rss = max(max_rss, usage.ru_maxrss * 1024)
    return {
        "wall_seconds": wall_seconds,
        "user_seconds": user,
        "system_seconds": system,
        "max_rss_bytes": max_rss,
        "exit_codes": codes,
        "read_bytes": read_bytes,
        "written_bytes": written_bytes,
        "timed_out": timed_out,
    }


def _io(pid: int) -> dict[str, int]:
    with open(f"/proc/{pid}/io", encoding="ascii") as file:
        return {key: int(value) for key, value in (line.split(":") for line in file)}


def _end(pids: list[int]) -> None:
    """Kill and reap what an error left."""
    if not pids:
        return
    os.killpg(pids[0], signal.SIGKILL)
    for pid in pids:
        os.waitpid(pid, 0)
    pids.clear()
