"""Read files in a guest with a program that counts from within, and count on the host what crossed to it meanwhile.

The program marks the moment before and after it reads, so that neither its start nor its own counting is part of what is counted.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from .. import io_path, perf, runner_kernel
from ..testbed import Boot
from .scene import ProbeError, Scene

PATTERNS: Final = ("sequential", "mmap", "random")
RANGE_BYTES: Final = 2 << 20
_CALL_SECONDS: Final = 60.0
_NANOSECONDS: Final = 1e9
_FUSE: Final = ("requests", "read_requests", "read_bytes", "map_requests", "unmap_requests")
_PROGRAM: Final = """
import json, mmap, os, random, resource, sys, time
pattern, start, end, *paths = sys.argv[1:]
page, mib = bytearray(4096), bytearray(1 << 20)
sizes = [os.stat(path).st_size for path in paths]
orders = [list(range(0, size - 4095, 4096)) for size in sizes] if pattern == "random" else [None] * len(paths)
for order in filter(None, orders):
    random.Random(2011).shuffle(order)
marks, wanted = [], ("now at", "cpu:", "  .idle_sleeptime", "  .iowait_sleeptime")

def mark():
    try:
        with open("/proc/timer_list") as file:
            timers = [line for line in file if line.startswith(wanted)]
    except OSError:
        timers = []
    used = resource.getrusage(resource.RUSAGE_SELF)
    marks.append(["".join(timers), time.monotonic(), used.ru_minflt + used.ru_majflt])

def read(fd, size, order):
    if pattern == "sequential":
        return sum(iter(lambda: os.readv(fd, [mib]), 0))
    if pattern == "random":
        return sum(os.preadv(fd, [page], offset) for offset in order)
    if pattern == "touch":
        return sum(len(os.pread(fd, 1, offset)) for offset in range(int(start), int(end), 2 << 20))
    with mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ) as area, memoryview(area) as all_bytes:
        bytes(all_bytes[::4096])
    return size

mark()
mark()
total = 0
for path, size, order in zip(paths, sizes, orders):
    fd = os.open(path, os.O_RDONLY)
    total += read(fd, size, order)
    os.close(fd)
mark()
sys.stderr.write(json.dumps([total, marks]))
"""


@dataclass(frozen=True, slots=True)
class Reading:
    """One program's reading, opening and closing the files included. ``instructions`` of the guest: None where nobody can count them."""

    read_bytes: int
    seconds: float
    faults: int
    instructions: float | None


def read(scene: Scene, boot: Boot, pattern: str, paths: Sequence[str], span: tuple[int, int] = (0, 0)) -> Reading:
    """Read files (paths in the guest) once: ``sequential`` by 1 MiB, ``random`` by 4 KiB, a byte of every page by ``mmap``.

    ``touch`` reads one byte of every 2 MiB of ``span`` (byte offsets, start and end). Raises ProbeError.
    """
    argv = ["python3", "-SEsc", _PROGRAM, pattern, *map(str, span), *paths]
    count = _counter(scene, boot)
    result, counted = count(lambda: scene.run(boot, argv))
    try:
        total, marks = json.loads(result["stderr"])
        (before, _, _), (start, clock, faults), (end, later, more) = marks
    except ValueError as error:
        raise ProbeError(f"the reading program said {str(result['stderr'])[-80:]!r}") from error
    if counted is None and scene.options.get("icount"):
        counted = _by_clock(before, start, end)
    return Reading(total, later - clock, more - faults, counted)


def snapshot(boot: Boot) -> dict[str, float]:
    """What has crossed so far, by counter; those that this boot has.

    Of hostfsd ``requests``, ``read_requests``, ``read_bytes``, ``map_requests``, ``unmap_requests``; of any daemon ``daemon_read_bytes``
    (by its system calls); ``qemu_faults`` (page faults of QEMU); of a guest with a block device ``block_bytes``.
    """
    assert boot.qemu_pid is not None
    guest = io_path.Guest(boot.qemu_pid, counters=boot.runner.call("counters", _CALL_SECONDS))
    daemons = [io_path.Daemon(boot.daemon_pid, boot.stats)] if boot.daemon_pid is not None else []
    layers = io_path.snapshot([guest], daemons)
    found = {name: value for name, value in layers.get("fuse", {}).items() if name in _FUSE}
    found["qemu_faults"] = layers["qemu"]["minor_faults"] + layers["qemu"]["major_faults"]
    if "daemon" in layers:
        found["daemon_read_bytes"] = layers["daemon"]["read_call_bytes"]
        threads = (value for name, value in layers["daemon"].items() if name.startswith("cpu_seconds_"))
        found["service_seconds"] = sum(threads) + window(boot).get("map_seconds", 0.0)
    return found | {"block_bytes": layers["guest"].get("read_bytes", 0.0)}


def crossed(before: Mapping[str, float], boot: Boot) -> dict[str, float]:
    """What has crossed since a ``snapshot``."""
    return {name: value - before[name] for name, value in snapshot(boot).items()}


def window(boot: Boot) -> Mapping[str, Any]:
    """hostfsd's counters of its window, see its README; empty where there is none."""
    return io_path.ask(boot.stats)["window"] if boot.stats else {}


def guest_used_bytes(boot: Boot) -> int:
    """Memory that the guest has in use when it caches nothing that it can drop: what its kernel set aside for a window too."""
    boot.runner.call("drop", _CALL_SECONDS, what=3)
    memory = boot.runner.call("memory", _CALL_SECONDS)
    return int(memory["MemTotal"] - memory["MemFree"] - memory["Buffers"] - memory["Cached"] - memory["SReclaimable"])


def _counter(scene: Scene, boot: Boot) -> Callable[[Callable[[], dict[str, Any]]], tuple[dict[str, Any], float | None]]:
    """A function that runs something in the guest: its answer, and what the hardware counted beyond the program's start."""
    if scene.context.plan["accelerator"] != "kvm":
        return lambda run: (run(), None)

    def count(run: Callable[[], dict[str, Any]]) -> tuple[dict[str, Any], float | None]:
        assert boot.qemu_pid is not None
        try:
            with perf.guest_instructions(boot.qemu_pid) as idle:
                scene.run(boot, ["python3", "-SEsc", _PROGRAM, "sequential", "0", "0"])
            with perf.guest_instructions(boot.qemu_pid) as counted:
                result = run()
        except perf.PerfError:
            return run(), None
        return result, max(0.0, counted[0] - idle[0])

    return count


def _by_clock(before: str, start: str, end: str) -> float | None:
    """Instructions between the marks ``start`` and ``end``; making a mark takes as many as between ``before`` and ``start``."""
    first, second, third = (runner_kernel.busy_seconds(text) for text in (before, start, end))
    if first is None or second is None or third is None:
        return None
    return max(0.0, (third - second) - (second - first)) * _NANOSECONDS
