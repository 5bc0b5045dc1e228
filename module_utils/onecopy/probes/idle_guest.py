"""What a guest costs before it has read anything: its start, its backed memory, QEMU's and the daemon's own, and what its kernel sets aside."""

from __future__ import annotations

from typing import Final

from .. import measure
from .scene import Probe, Probed, Scene

_CALL_SECONDS: Final = 60.0


def run(scene: Scene) -> Probed:
    """Metrics of the first guest.

    ``guest_reserved_bytes``: configured memory that the guest cannot use (its kernel, page structures, those of a DAX window too).
    """
    boot = scene.boot
    assert boot.qemu_pid is not None
    memory = boot.runner.call("memory", _CALL_SECONDS)
    qemu = measure.process_memory(boot.qemu_pid)
    configured_bytes = int(scene.context.plan["guest"]["memory_mib"]) << 20
    metrics: dict[str, float] = {
        "guest_total_bytes": memory["MemTotal"],
        "guest_reserved_bytes": configured_bytes - memory["MemTotal"],
        "guest_free_bytes": memory["MemFree"],
        "qemu_anonymous_bytes": qemu["RssAnon"],
    }
    if "guest_memory_backed" in qemu:
        metrics["guest_backed_bytes"] = qemu["guest_memory_backed"]
    if boot.daemon_pid is not None:
        metrics["daemon_anonymous_bytes"] = measure.process_memory(boot.daemon_pid)["RssAnon"]
    if boot.hello_seconds is not None:
        metrics["hello_seconds"] = boot.hello_seconds
    return Probed(metrics)


PROBE: Final = Probe("idle_guest", run, seconds=3.0)
