"""What a guest costs before it has read anything: its start, its backed memory, QEMU's and the daemon's own, and what its kernel sets aside."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .. import ledger
from .scene import Probe, Probed, Scene

_CALL_SECONDS: Final = 60.0


def run(scene: Scene) -> Probed:
    """Metrics of the first guest.

    ``guest_reserved_bytes``: configured memory that the guest cannot use (its kernel, page structures, those of a DAX window too).
    """
    boot = scene.boot
    assert boot.qemu_pid is not None
    memory = boot.runner.call("memory", _CALL_SECONDS)
    qemu = ledger.guest_parts(ledger.Guest(boot.qemu_pid))
    configured_bytes = int(scene.context.plan["guest"]["memory_mib"]) << 20
    metrics: dict[str, float] = {
        "guest_total_bytes": memory["MemTotal"],
        "guest_reserved_bytes": configured_bytes - memory["MemTotal"],
        "guest_free_bytes": memory["MemFree"],
        "qemu_anonymous_bytes": qemu["qemu_bytes"],
        "guest_backed_bytes": qemu["backed_bytes"],
    }
    if boot.daemon_pid is not None:
        metrics["daemon_anonymous_bytes"] = ledger.resident(Path(f"/proc/{boot.daemon_pid}"))["RssAnon"]
    if boot.hello_seconds is not None:
        metrics["hello_seconds"] = boot.hello_seconds
    return Probed(metrics)


PROBE: Final = Probe("idle_guest", run, seconds=3.0)
