"""What a guest's own page cache holds, where somebody outside the guest already knows it: balloon statistics.

Nothing here asks the guest. Statistics that are switched off stay off; a machine-protocol socket that somebody uses is
left alone.
"""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

from .audit_cmdline import Guest
from .audit_processes import PROC, UnixSocket

STALE_SECONDS: Final = 60
_TIMEOUT_SECONDS: Final = 2.0
_UNKNOWN: Final = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class GuestCache:
    """Bytes of the guest's page cache and who told it; or None and why it cannot be had."""

    bytes: int | None
    source: str | None = None
    why_not: str | None = None


class MonitorError(Exception):
    """The machine protocol did not answer as it should."""


def guest_cache(pid: int, guest: Guest, sockets: Sequence[UnixSocket], monitors_enabled: bool) -> GuestCache:
    """Ask who knows: libvirt (read-only connection), else a machine-protocol socket that nobody uses."""
    if guest.balloon is None:
        return GuestCache(None, why_not="no balloon device: only the guest itself knows" + _agent(guest))
    if guest.manager == "libvirt":
        return _by_libvirt(guest)
    usable, why_not = free_monitor(guest, sockets)
    if usable is None or not monitors_enabled:
        return GuestCache(
            None,
            why_not=(why_not if usable is None else "asking machine-protocol sockets is switched off") + _agent(guest),
        )
    try:
        return _by_monitor(f"{PROC}/{pid}/root{usable}", guest.balloon.id)
    except (OSError, MonitorError, ValueError, KeyError) as error:
        return GuestCache(None, why_not=f"machine-protocol socket {usable}: {error}")


def free_monitor(guest: Guest, sockets: Sequence[UnixSocket]) -> tuple[str | None, str]:
    """The path of a machine-protocol socket that can be asked without disturbing anybody; else None and the reason."""
    if not guest.monitors:
        return None, "no machine-protocol socket (QMP)"
    reasons = []
    for monitor in guest.monitors:
        if monitor.socket is None:
            reasons.append("the machine-protocol socket was passed as a descriptor: its manager uses it")
        elif monitor.waits:
            # Connecting could be what a QEMU that has not started its guest waits for.
            reasons.append(f"{monitor.socket} was opened with wait=on: left alone")
        elif any(one.path == monitor.socket and not one.listening for one in sockets):
            reasons.append(f"{monitor.socket} is in use")
        else:
            return monitor.socket, ""
    return None, "; ".join(reasons)


def statistics_bytes(answer: Any, now: float) -> GuestCache:
    """Judge QEMU's ``guest-stats`` property: ``{"last-update": seconds, "stats": {"stat-disk-caches": bytes, …}}``."""
    updated = int(answer["last-update"])
    if not updated:
        return GuestCache(
            None,
            why_not="balloon statistics are switched off (guest-stats-polling-interval 0); switching them on would ask the guest",
        )
    age = now - updated
    if age > STALE_SECONDS:
        return GuestCache(None, why_not=f"balloon statistics are {age:.0f} s old")
    cached = int(answer["stats"].get("stat-disk-caches", _UNKNOWN))
    if cached in (_UNKNOWN, -1):
        return GuestCache(None, why_not="the guest's balloon driver does not tell its page cache")
    return GuestCache(cached, source="balloon statistics (QMP)")


def parse_dommemstat(text: str, now: float) -> GuestCache:
    """Judge the output of ``virsh dommemstat``: ``name KiB`` a line, ``last_update`` in seconds."""
    values = {name: int(value) for name, value in (line.split() for line in text.splitlines() if line.strip())}
    if "disk_caches" not in values:
        return GuestCache(
            None, why_not="libvirt has no page-cache figure: balloon statistics are off, or the guest has not sent any"
        )
    age = now - values.get("last_update", 0)
    if age > STALE_SECONDS:
        return GuestCache(None, why_not=f"libvirt's balloon statistics are {age:.0f} s old")
    return GuestCache(values["disk_caches"] * 1024, source="balloon statistics (libvirt)")


def _agent(guest: Guest) -> str:
    return "; there is a guest agent, but it would have to run a program in the guest" if guest.guest_agent else ""


def _by_libvirt(guest: Guest) -> GuestCache:
    virsh = shutil.which("virsh")
    if virsh is None or not guest.name:
        return GuestCache(
            None, why_not="libvirt uses the machine-protocol socket, and there is no virsh to ask it" + _agent(guest)
        )
    argv = [virsh, "--readonly", "--connect", "qemu:///system", "dommemstat", guest.uuid or guest.name]
    try:
        # Through libvirt, since it holds the only connection to QEMU; a read-only connection changes nothing.
        done = subprocess.run(
            argv, capture_output=True, text=True, check=False, timeout=5, env={**os.environ, "LC_ALL": "C"}
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        return GuestCache(None, why_not=f"{' '.join(argv)}: {error}")
    if done.returncode:
        return GuestCache(None, why_not=f"{' '.join(argv)}: rc {done.returncode}: {done.stderr.strip()[-200:]}")
    return parse_dommemstat(done.stdout, time.time())


def _by_monitor(path: str, balloon_id: str | None) -> GuestCache:
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(_TIMEOUT_SECONDS)
        _connect(connection, path)
        with connection.makefile("rwb", buffering=0) as stream:
            if "QMP" not in json.loads(stream.readline() or b"{}"):
                raise MonitorError("no greeting")
            _ask(stream, "qmp_capabilities")
            place = f"/machine/peripheral/{balloon_id}" if balloon_id else _anonymous_balloon(stream)
            return statistics_bytes(_ask(stream, "qom-get", path=place, property="guest-stats"), time.time())


def _connect(connection: socket.socket, path: str) -> None:
    # A path of a unix socket holds 107 bytes: reach longer ones through a descriptor of their directory.
    directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        connection.connect(f"/proc/self/fd/{directory}/{os.path.basename(path)}")
    finally:
        os.close(directory)


def _anonymous_balloon(stream: Any) -> str:
    place = "/machine/peripheral-anon"
    for item in _ask(stream, "qom-list", path=place):
        if item["type"].startswith("child<virtio-balloon"):
            return f"{place}/{item['name']}"
    raise MonitorError("no balloon device found")


def _ask(stream: Any, command: str, **arguments: str) -> Any:
    stream.write(json.dumps({"execute": command, **({"arguments": arguments} if arguments else {})}).encode() + b"\n")
    while True:
        line = stream.readline()
        if not line:
            raise MonitorError("closed the connection")
        answer = json.loads(line)
        if "error" in answer:
            raise MonitorError(answer["error"].get("desc", "error"))
        if "return" in answer:
            return answer["return"]
