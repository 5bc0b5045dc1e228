"""The statistics socket: every connection gets one line of JSON and is closed."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable


def serve(listener: socket.socket, snapshot: Callable[[], dict[str, object]]) -> None:
    """Answer connections in a thread of its own, until the process ends."""
    threading.Thread(target=_run, args=(listener, snapshot), name="stats", daemon=True).start()


def _run(listener: socket.socket, snapshot: Callable[[], dict[str, object]]) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            time.sleep(0.1)  # no descriptor left: the guest holds them all
            continue
        with connection:
            try:
                connection.settimeout(1)
                connection.sendall(json.dumps(snapshot(), sort_keys=True).encode() + b"\n")
            except OSError:
                continue


def open_descriptors() -> int:
    """Count the open files of this process; the working directory is /proc/self/fd."""
    with os.scandir(".") as entries:
        return sum(1 for _ in entries) - 1
