"""What the host gets back of the memory that a guest filled with cached data and then freed: how many bytes, and when."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final

from .. import ledger, qemu
from ..testbed import Boot
from .scene import Probe, Probed, Scene

_MIB: Final = 1 << 20
_CALL_SECONDS: Final = 60.0
_STEP_SECONDS: Final = 0.25
# Free page reporting waits two seconds before it tells, so quiet is what stays so for longer.
_QUIET_SECONDS: Final = 3.0
_QUIET_BYTES: Final = 1 * _MIB
_SETTLE_SECONDS: Final = 20.0
_VIRTIO_MEM_BLOCK: Final = 2 * _MIB
# Below this share of what was read the guest held the data in no memory of its own.
_LEAST_GROWTH: Final = 0.1
_ALMOST_ALL: Final = 0.95


def run(scene: Scene) -> Probed:
    """Read tree a, drop it in the guest, let the mechanism of the boot's option ``reclaim`` work, and watch the guest's backed memory.

    ``returned_ratio`` = returned ÷ grown; absent where the guest's memory did not grow by what it read (DAX). Raises OSError, ValueError.
    """
    boot = scene.boot
    scene.reach("cold", "cold", is_residency=False)
    settle(lambda: backed(boot))
    before = backed(boot)
    read_bytes = scene.read(boot)["read_bytes"]
    filled, free = backed(boot), _free(boot)
    boot.runner.call("drop", _CALL_SECONDS, what=3)
    freed_at = time.monotonic()
    freed = _free(boot) - free
    with _asked(scene, _free(boot) - int(scene.parameters["leave_mib"]) * _MIB) as asked:
        points = _watch(lambda: filled - backed(boot), freed_at, float(scene.parameters["watch_seconds"]))
    grown, returned = filled - before, points[-1][1]
    metrics: dict[str, float] = {
        "grown_bytes": grown,
        "freed_bytes": freed,
        "returned_bytes": returned,
        "host_cached_bytes": scene.data.residency().resident_pages * ledger.PAGE_SIZE,
    }
    notes = ""
    if asked:
        metrics["asked_bytes"] = asked
    if grown < _LEAST_GROWTH * read_bytes:
        notes = "the guest kept the data in no memory of its own: there is nothing to give back"
    else:
        metrics["returned_ratio"] = returned / grown
    if returned > _QUIET_BYTES:
        metrics["returned_seconds"] = next(when for when, value in points if value >= _ALMOST_ALL * returned)
    return Probed(metrics, {"returned_bytes": points}, notes)


def settle(value: Callable[[], int]) -> None:
    """Wait until ``value`` (bytes) stood still for a while, or for as long as makes sense."""
    end = time.monotonic() + _SETTLE_SECONDS
    last, since = value(), time.monotonic()
    while time.monotonic() - since < _QUIET_SECONDS and time.monotonic() < end:
        time.sleep(_STEP_SECONDS)
        now = value()
        if abs(now - last) > _QUIET_BYTES:
            last, since = now, time.monotonic()


def backed(boot: Boot) -> int:
    """Bytes of guest memory that the host really holds."""
    assert boot.qemu_pid is not None
    return ledger.guest_parts(ledger.Guest(boot.qemu_pid))["backed_bytes"]


def _free(boot: Boot) -> int:
    return int(boot.runner.call("memory", _CALL_SECONDS)["MemFree"])


def _watch(returned: Callable[[], int], since: float, seconds: float) -> list[list[float]]:
    """Points (seconds since the guest freed, bytes returned)."""
    points: list[list[float]] = []
    while not points or points[-1][0] < seconds:
        points.append([time.monotonic() - since, returned()])
        time.sleep(_STEP_SECONDS)
    return points


@contextmanager
def _asked(scene: Scene, spare_bytes: int) -> Iterator[int]:
    """Ask the guest for ``spare_bytes`` where it has to be asked; it has them back afterwards. Yields the bytes asked for."""
    boot, mechanism = scene.boot, scene.options.get("reclaim")
    spare_bytes = max(0, spare_bytes)
    assert boot.qmp is not None

    def monitor(command: str, **arguments: object) -> Any:
        return qemu.qmp(boot.qmp, command, _CALL_SECONDS, **arguments)  # type: ignore[arg-type]

    if mechanism == "balloon":
        actual = int(monitor("query-balloon")["actual"])
        monitor("balloon", value=actual - spare_bytes)
        try:
            yield spare_bytes
        finally:
            monitor("balloon", value=actual)
    elif mechanism == "virtio_mem":
        where = {"path": f"/machine/peripheral/{qemu.PLUGGED}", "property": "requested-size"}
        plugged = int(monitor("qom-get", **where))
        wanted = min(plugged, spare_bytes // _VIRTIO_MEM_BLOCK * _VIRTIO_MEM_BLOCK)
        monitor("qom-set", **where, value=plugged - wanted)
        try:
            yield wanted
        finally:
            monitor("qom-set", **where, value=plugged)
    else:
        yield 0


PROBE: Final = Probe("reclaim", run, {"watch_seconds": 15.0, "leave_mib": 32}, seconds=30.0)
