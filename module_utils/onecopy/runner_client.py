"""The host's end of the runner protocol: JSON lines over a unix socket, one question at a time."""

from __future__ import annotations

import itertools
import json
import os
import socket
import time
from pathlib import Path
from typing import Any

PROTOCOL_VERSION = 1
_AGAIN_SECONDS = 0.02
_LISTEN_SECONDS = 2.0  # a server that refuses for longer is dead


class RunnerLost(Exception):
    """The connection broke, or no answer came in time: the runner's state is unknown, boot again."""


class RunnerError(Exception):
    """The runner answered that the operation failed.

    ``reason`` is from the record schema's closed list.
    """

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason = reason
        self.message = message


class RunnerClient:
    """A connection to one runner, after its ``hello``."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.hello: dict[str, Any] = {}
        self._socket: socket.socket | None = None
        self._buffer = b""
        # Ids of an earlier connection must not be mistaken for ours: its answers may still be on the way.
        self._ids = itertools.count(int.from_bytes(os.urandom(4), "big") << 16)

    def connect(self, timeout_seconds: float) -> None:
        """Connect and resynchronise: send ``hello`` and throw away every line until its id is echoed.

        Raises RunnerLost when there was no answer in time, RunnerError when the runner speaks another version.
        """
        deadline = time.monotonic() + timeout_seconds
        self.close()
        self._socket = _connected(self.path, timeout_seconds)
        self.hello = self.call("hello", deadline - time.monotonic())
        if self.hello.get("version") != PROTOCOL_VERSION:
            raise RunnerError(
                "internal", f"the runner speaks version {self.hello.get('version')}, this side {PROTOCOL_VERSION}"
            )

    def call(self, op: str, timeout_seconds: float, /, **arguments: Any) -> dict[str, Any]:
        """Ask ``op`` and return its result.

        Raises RunnerLost (connection gone, or silent for ``timeout_seconds``) and RunnerError (the runner says why).
        """
        if self._socket is None:
            raise RunnerLost(f"{self.path}: not connected")
        deadline = time.monotonic() + timeout_seconds
        request_id = next(self._ids)
        line = json.dumps({"id": request_id, "op": op, **arguments}, separators=(",", ":")) + "\n"
        try:
            self._socket.settimeout(max(0.001, timeout_seconds))
            self._socket.sendall(line.encode())
            while True:
                answer = _parse(self._read_line(deadline))
                if answer is not None and answer.get("id") == request_id:
                    break
        except OSError as error:
            self.close()
            raise RunnerLost(f"{op}: {error or type(error).__name__}") from error
        if answer.get("ok"):
            result = answer.get("result") or {}
            assert isinstance(result, dict)
            return result
        failure = answer.get("error") or {}
        raise RunnerError(str(failure.get("reason", "internal")), str(failure.get("message", "no message")))

    def close(self) -> None:
        """Hang up: the runner ends a workload that still runs."""
        if self._socket is not None:
            self._socket.close()
        self._socket = None
        self._buffer = b""

    def _read_line(self, deadline: float) -> bytes:
        assert self._socket is not None
        while b"\n" not in self._buffer:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError("no answer in time")
            self._socket.settimeout(left)
            data = self._socket.recv(65536)
            if not data:
                raise ConnectionResetError("the other end hung up")
            self._buffer += data
        line, _, self._buffer = self._buffer.partition(b"\n")
        return line


def _connected(path: Path, timeout_seconds: float) -> socket.socket:
    refused_until = time.monotonic() + min(timeout_seconds, _LISTEN_SECONDS)
    while True:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            connection.settimeout(timeout_seconds)
            connection.connect(str(path))
        except OSError as error:
            connection.close()
            # QEMU's socket can be seen a moment before QEMU listens on it.
            if isinstance(error, ConnectionRefusedError) and time.monotonic() < refused_until:
                time.sleep(_AGAIN_SECONDS)
                continue
            raise RunnerLost(f"{path}: {error}") from error
        return connection


def _parse(line: bytes) -> dict[str, Any] | None:
    """One line as an object; None for the torn or foreign lines that a resync throws away."""
    try:
        answer = json.loads(line)
    except ValueError:
        return None
    return answer if isinstance(answer, dict) else None
