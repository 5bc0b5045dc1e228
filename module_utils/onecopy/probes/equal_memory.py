"""Equal memory: guest, daemon and the host's page cache share one budget; the guest reads the same data again and again.

What has to be fetched again from the store tells how well a system uses its memory when there is too little of it for everything. A budget can be
split: ``guest_mib`` go to the guest (by its balloon), the host's page cache has what is left.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from .. import io_path, ledger, memory_budget, qemu
from ..host_data import READ_PARTS
from ..knobs import KnobError
from ..systems import System
from ..testbed import Boot
from .scene import Probe, Probed, ProbeError, Scene

_MIB: Final = 1 << 20
_CALL_SECONDS: Final = 60.0
_BALLOON_SECONDS: Final = 30.0
_PARTS: Final = ("all", "large", "small")
# Less than this for the host's page cache, and nothing could be read at all.
_LEAST_CACHE: Final = 8 * _MIB


def run(scene: Scene) -> Probed:
    """Metrics of the last pass, when the caches have settled; the series have every pass.

    ``fetched_ratio``: bytes read from the store per byte that the guest wanted. ``copies_ratio``: pages that host and guest cache, per page of the data.
    QEMU's own memory is no part of the budget: under TCG it is translated code for the greater part.
    """
    boot, parameters = scene.boot, scene.parameters
    budget_bytes = int(parameters["budget_mib"]) * _MIB
    guest_bytes = int(parameters["guest_mib"] or scene.context.plan["guest"]["memory_mib"]) * _MIB
    if budget_bytes < guest_bytes + _LEAST_CACHE:
        least = (guest_bytes + _LEAST_CACHE) // _MIB
        raise ProbeError(
            f"budget_mib {parameters['budget_mib']}: {guest_bytes // _MIB} are the guest's: give at least {least}"
        )
    assert boot.qemu_pid is not None
    pids = [pid for pid in (boot.qemu_pid, boot.daemon_pid) if pid is not None]
    scene.reach("cold", "cold")
    try:
        with (
            _ballooned(boot, guest_bytes),
            memory_budget.limited(pids, budget_bytes + _qemu(boot), lambda: _qemu(boot) + _held(boot)) as budget,
        ):
            passes = [_pass(scene, budget) for _ in range(int(parameters["passes"]))]
            used = budget.used_bytes() - _qemu(boot)
    except (memory_budget.BudgetError, KnobError) as error:
        raise ProbeError(str(error)) from error
    series = {
        name: [[float(number), one[name]] for number, one in enumerate(passes, 1)]
        for name in ("fetched_ratio", "copies_ratio", "read_seconds")
    }
    return Probed(passes[-1] | {"budget_bytes": budget_bytes, "guest_bytes": guest_bytes, "used_bytes": used}, series)


def _pass(scene: Scene, budget: memory_budget.Budget) -> dict[str, float]:
    """Read the data once, and say what it took and what is cached then."""
    boot, part = scene.boot, scene.parameters["part"]
    parts = READ_PARTS[part]
    pages = scene.context.dataset.pages(parts)
    before = _counters(boot, budget)
    result = scene.read(boot, "" if part == "all" else part)
    after = _counters(boot, budget)
    # Asked by the names under which reach() holds the files: opening them again could drop pages.
    guest = boot.runner.call("residency", _CALL_SECONDS, parts=dict.fromkeys(parts, ""))
    guest_pages = sum(found["resident_pages"] for found in guest.values())
    host_pages = scene.data.resident_pages(parts)
    return {
        "fetched_ratio": (after["fetched_bytes"] - before["fetched_bytes"]) / (pages * ledger.PAGE_SIZE),
        "copies_ratio": (host_pages + guest_pages) / pages,
        "host_cached_ratio": host_pages / pages,
        "guest_cached_ratio": guest_pages / pages,
        "host_refault_pages": after["host_refaults"] - before["host_refaults"],
        "guest_refault_pages": after["guest_refaults"] - before["guest_refaults"],
        "read_seconds": result["wall_seconds"],
    }


@contextmanager
def _ballooned(boot: Boot, guest_bytes: int) -> Iterator[None]:
    """Leave the guest as much memory as it may have; it has the rest back afterwards. Raises ProbeError where it does not give it."""
    assert boot.qmp is not None
    try:
        before = actual = int(qemu.qmp(boot.qmp, "query-balloon")["actual"])
    except ValueError as error:
        raise ProbeError(f"no balloon: give the system the option reclaim: balloon ({error})") from error
    try:
        qemu.qmp(boot.qmp, "balloon", value=guest_bytes)
        deadline = time.monotonic() + _BALLOON_SECONDS
        while actual != guest_bytes and time.monotonic() < deadline:
            time.sleep(0.1)
            actual = int(qemu.qmp(boot.qmp, "query-balloon")["actual"])
        if actual != guest_bytes:
            raise ProbeError(f"guest_mib {guest_bytes // _MIB}: the guest keeps {actual // _MIB} MiB: give it more")
        yield
    finally:
        qemu.qmp(boot.qmp, "balloon", value=before)


def _counters(boot: Boot, budget: memory_budget.Budget) -> dict[str, float]:
    guest = boot.runner.call("counters", _CALL_SECONDS)["vmstat"]
    return {
        "fetched_bytes": io_path.device_counters(boot.plan.share)["read_bytes"],
        "host_refaults": budget.refaults(),
        "guest_refaults": guest["workingset_refault_file"],
    }


def _qemu(boot: Boot) -> int:
    assert boot.qemu_pid is not None
    return ledger.guest_parts(ledger.Guest(boot.qemu_pid))["qemu_bytes"]


def _held(boot: Boot) -> int:
    """Bytes that guest and daemon hold, QEMU's own apart."""
    assert boot.qemu_pid is not None
    held = ledger.guest_parts(ledger.Guest(boot.qemu_pid))["backed_bytes"]
    if boot.daemon_pid is not None:
        held += ledger.resident(Path(f"/proc/{boot.daemon_pid}"))["RssAnon"]
    return held


def _unsuitable(system: System, parameters: Mapping[str, Any]) -> str | None:
    del system
    if parameters["part"] not in _PARTS:
        return f"part {parameters['part']!r} is not known: {', '.join(_PARTS)}"
    return None


PROBE: Final = Probe(
    "equal_memory",
    run,
    parameters={"budget_mib": 320, "guest_mib": 0, "passes": 3, "part": "large"},
    unsuitable=_unsuitable,
    seconds=20.0,
)
