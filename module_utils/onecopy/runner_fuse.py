"""FUSE requests that the guest's kernel sends, by opcode: the same meter for every daemon, also for one that tells no counters.

The kernel counts in a histogram of its tracepoint ``fuse_request_send`` (Linux 6.11 and later); nothing is written to a trace buffer. It costs
a little at every request, so it is on only while somebody wants it.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import re

_TRACING = "/sys/kernel/tracing"
# Opcodes are below 64; the CUSE one is the kernel's business. 128 is the least that the kernel takes.
_HISTOGRAM = "hist:keys=opcode:size=128"
_ENTRY = re.compile(r"^\{ opcode: +(\d+) \} hitcount: +(\d+)", re.MULTILINE)


class RequestCounter:
    """Counts between ``start`` and ``stop``; both may be called at any time."""

    def __init__(self, tracing: str = _TRACING) -> None:
        self._tracing = tracing
        self._event = f"{tracing}/events/fuse/fuse_request_send"
        self._is_on = False

    def start(self) -> None:
        """Count from now on, where this kernel can."""
        if self._is_on:
            return
        if not os.path.exists(f"{self._tracing}/events"):
            _mount_tracefs(self._tracing)
        with contextlib.suppress(FileNotFoundError):
            _write(f"{self._event}/trigger", _HISTOGRAM)
            self._is_on = True

    def stop(self) -> None:
        """Count no more, and forget what was counted."""
        if self._is_on:
            _write(f"{self._event}/trigger", f"!{_HISTOGRAM}")
            self._is_on = False

    def counts(self) -> dict[str, int] | None:
        """Requests since ``start`` by opcode (a decimal number); None where nothing is counted."""
        if not self._is_on:
            return None
        with open(f"{self._event}/hist", encoding="ascii") as file:
            return {opcode: int(hits) for opcode, hits in _ENTRY.findall(file.read())}


def _write(path: str, text: str) -> None:
    # No O_CREAT: tracefs makes no files, and a missing event must say so.
    fd = os.open(path, os.O_WRONLY)
    try:
        os.write(fd, text.encode())
    finally:
        os.close(fd)


def _mount_tracefs(target: str) -> None:
    """Mount tracefs; a kernel without it has no such directory. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"tracefs", target.encode(), b"tracefs", ctypes.c_ulong(0), b""):
        code = ctypes.get_errno()
        if code not in (errno.ENOENT, errno.ENODEV):
            raise OSError(code, f"tracefs on {target}: {os.strerror(code)}")
