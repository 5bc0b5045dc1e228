"""Balloon statistics and who may be asked for them, against a fake machine-protocol server."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import audit_guest
from ansible.module_utils.onecopy.audit_cmdline import Balloon, Guest, Monitor
from ansible.module_utils.onecopy.audit_processes import UnixSocket

NOW = time.time()
UNKNOWN = (1 << 64) - 1


def statistics(updated: float, caches: int) -> dict[str, Any]:
    return {"last-update": int(updated), "stats": {"stat-disk-caches": caches, "stat-free-memory": 1}}


def guest(path: str | None, waits: bool = False) -> Guest:
    return Guest(balloon=Balloon("virtio-balloon-pci", False, "bal"), monitors=[Monitor(path, waits)])


@pytest.fixture
def server(tmp_path: Path) -> Any:
    """A machine-protocol server that answers one client; keeps what it was asked."""
    asked: list[str] = []
    path = tmp_path / "qmp"
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rw") as stream:
            stream.write('{"QMP": {"version": {}}}\n')
            stream.flush()
            for line in stream:
                asked.append(json.loads(line)["execute"])
                answer = {} if asked[-1] == "qmp_capabilities" else statistics(time.time(), 7 << 20)
                stream.write('{"event": "NOISE"}\n' + json.dumps({"return": answer}) + "\n")
                stream.flush()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    yield str(path), asked
    listener.close()


def test_free_monitor_is_asked_for_statistics_alone(server: Any) -> None:
    path, asked = server
    found = audit_guest.guest_cache(os.getpid(), guest(path), [UnixSocket(1, path, True, False)], True)
    assert (found.bytes, found.source) == (7 << 20, "balloon statistics (QMP)")
    assert asked == ["qmp_capabilities", "qom-get"]


@pytest.mark.parametrize(
    ("found", "sockets", "enabled", "reason"),
    [
        (guest("/q"), [UnixSocket(1, "/q", False, True)], True, "/q is in use"),
        (guest("/q", waits=True), [], True, "wait=on"),
        (guest(None), [], True, "its manager uses it"),
        (guest("/q"), [], False, "switched off"),
        (Guest(), [], True, "no balloon device"),
        (Guest(guest_agent=True), [], True, "guest agent"),
        (Guest(balloon=Balloon("b", False)), [], True, "no machine-protocol socket"),
        (guest("/nowhere/q"), [], True, "No such file"),
    ],
)
def test_nobody_is_disturbed_and_the_reason_is_told(
    found: Guest, sockets: list[UnixSocket], enabled: bool, reason: str
) -> None:
    answer = audit_guest.guest_cache(os.getpid(), found, sockets, enabled)
    assert answer.bytes is None
    assert reason in str(answer.why_not)


@pytest.mark.parametrize(
    ("answer", "reason"),
    [(statistics(0, UNKNOWN), "off"), (statistics(NOW - 100, 5), "old"), (statistics(NOW, UNKNOWN), "not tell")],
)
def test_statistics_that_say_nothing(answer: dict[str, Any], reason: str) -> None:
    found = audit_guest.statistics_bytes(answer, NOW)
    assert found.bytes is None
    assert reason in str(found.why_not)


def test_libvirt_figures_are_in_kib() -> None:
    text = f"actual 131072\nlast_update {int(NOW)}\ndisk_caches 2048\nrss 47292\n\n"
    assert audit_guest.parse_dommemstat(text, NOW).bytes == 2 << 20


def test_libvirt_without_statistics() -> None:
    # virsh 11.3.0 on a paused guest with <stats period='5'/>
    assert audit_guest.parse_dommemstat("actual 131072\nlast_update 0\nrss 47292\n\n", NOW).bytes is None
