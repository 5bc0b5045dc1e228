"""A testbed without guests: its runner runs the workloads here, on the share's own files, and plays the guest's page cache.

Boots live in a file, so that they survive the process as real guests do. Every step passes a *point*, where a test can kill.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

from ansible.module_utils.onecopy import runner_workload
from ansible.module_utils.onecopy.paths import HostPaths
from ansible.module_utils.onecopy.runner_client import RunnerLost
from ansible.module_utils.onecopy.testbed import BootError, BootSpec


@dataclass
class Points:
    """Counts steps; ``at`` maps a step's number to what happens there."""

    at: dict[int, Callable[[], None]] = field(default_factory=dict)
    passed: int = 0

    def point(self) -> None:
        """One step."""
        self.passed += 1
        if self.passed in self.at:
            self.at[self.passed]()


class FakeRunner:
    """Answers like the runner of a guest whose page cache is ``cached``."""

    hello: ClassVar = {"version": 1, "kernel": "6.12-fake"}

    def __init__(self, boot: FakeBoot) -> None:
        self.boot = boot
        self.held: dict[str, str] = {}
        self.cached: set[str] = set()
        self.calls: list[str] = []

    def call(self, op: str, timeout_seconds: float, /, **arguments: Any) -> dict[str, Any]:
        """One operation, with a point before and after it."""
        self.calls.append(op)
        self.boot.points.point()
        if self.boot.dead:
            raise RunnerLost(f"{op}: the other end hung up")
        answer: dict[str, Any] = getattr(self, f"op_{op}")(**arguments)
        self.boot.points.point()
        return answer

    def op_hold(self, parts: Mapping[str, str]) -> dict[str, Any]:
        self.held = dict(parts)
        return self.op_residency(parts)

    def op_release(self) -> dict[str, Any]:
        self.held = {}
        return {}

    def op_drop(self, what: int) -> dict[str, Any]:
        if not self.boot.sticky:
            self.cached.clear()
        return {}

    def op_prefetch(self, trees: list[str]) -> dict[str, Any]:
        self.cached |= set(trees)
        return {}

    def op_residency(self, parts: Mapping[str, str]) -> dict[str, Any]:
        answer = {}
        for part, directory in parts.items():
            sizes = [file.stat().st_size for file in Path(directory).iterdir()]
            pages = sum(-(-size // 4096) for size in sizes)
            resident = pages if directory in self.cached else 0
            answer[part] = {
                "files": len(sizes),
                "pages": pages,
                "resident_pages": resident,
                "dirty_pages": 0,
                "dax_pages": 0,
            }
        return answer

    def op_run(self, pipeline: list[list[str]], timeout_seconds: float, cwd: str) -> dict[str, Any]:
        with open(self.boot.log, "a", encoding="utf-8") as log:
            log.write(json.dumps(pipeline) + "\n")
        answer = runner_workload.run(pipeline, timeout_seconds, cwd)
        if self.boot.guest_caches:
            self.cached |= set(self.held.values())
        return answer | self.boot.answer

    def op_memory(self) -> dict[str, Any]:
        return {"MemTotal": 1 << 29, "MemFree": 1 << 28, "Cached": 4096, "Shmem": 0, "Buffers": 0, "SReclaimable": 0}

    def op_statfs(self, target: str) -> dict[str, Any]:
        status = os.statvfs(target)
        return {"free_bytes": status.f_bfree * status.f_frsize}

    def op_counters(self, fuse: bool) -> dict[str, Any]:
        return ({"fuse": {}} if fuse else {}) | {
            "block": {"vdb": {"read_requests": 1, "read_bytes": 4096}},
            "vmstat": {"pgfault": 1},
            "cpu": {"user": 1.0, "idle": 9.0},
        }


class FakeBoot:
    """What the engine sees of one boot."""

    qemu_pid = None
    daemon_pid = None
    stats = None
    qmp = None
    plan = SimpleNamespace(mounted_images={}, base_image=None)
    is_fresh = False
    hello_seconds = 7.1

    def __init__(self, bed: FakeTestbed, spec: BootSpec, paths: HostPaths, boot_id: str) -> None:
        share = paths.share(spec.dataset)
        self.bed, self.points, self.boot_id, self.name = bed, bed.points, boot_id, spec.name
        self.data_roots = {tree: str(share / "data" / tree) for tree in "ab"}
        self.scratch = str(share / "scratch")
        self.command_lines = {"qemu": ["qemu-system-x86_64", "-nodefaults"]}
        self.log = bed.state / "runs.log"
        self.guest_caches = spec.system in ("virtiofs_auto", "virtiofs_always", "gfs", "gfs_direct")
        self.sticky = bed.sticky
        self.answer = dict(bed.answer)
        self.facts = {"swaps": 0}
        self.dead: tuple[str, str] | None = None
        self.dies_slowly = False
        self.remounts = 0
        self.runner = FakeRunner(self)

    def alive(self, patience_seconds: float = 0.0) -> tuple[str, str] | None:
        return self.dead if patience_seconds or not self.dies_slowly else None

    def last_lines(self) -> list[str]:
        return ["[    1.0] invented", "[    2.0] last line of the console"]

    def remount(self) -> None:
        self.remounts += 1

    def reset_scratch(self) -> None:
        shutil.rmtree(self.scratch, ignore_errors=True)
        os.mkdir(self.scratch)

    def stop(self) -> None:
        self.points.point()
        self.bed.alive_file(self.name).unlink(missing_ok=True)


@dataclass
class FakeTestbed:
    """``fail_boots``: how many boots fail first, for ``boot_reason``; ``answer``: laid over what a run answers.

    ``sticky``: the guest's cache cannot be dropped.
    """

    state: Path
    points: Points = field(default_factory=Points)
    fail_boots: int = 0
    boot_reason: str = "guest_not_ready"
    answer: dict[str, Any] = field(default_factory=dict)
    sticky: bool = False
    booted: list[FakeBoot] = field(default_factory=list)
    swept: int = 0

    def alive_file(self, name: str) -> Path:
        return self.state / f"{name}.alive.json"

    def alive(self) -> dict[str, str]:
        """Name → block of the guests that run; guests of one fleet are called BLOCK-1, BLOCK-2…"""
        names = [path.name.removesuffix(".alive.json") for path in self.state.glob("*.alive.json")]
        return {name: name.partition("-")[0] for name in names}

    def boot(self, spec: BootSpec, paths: HostPaths, deadline_seconds: float = 60) -> FakeBoot:
        self.points.point()
        assert set(self.alive().values()) <= {spec.name.partition("-")[0]}, "a guest of another block is alive"
        if self.fail_boots:
            self.fail_boots -= 1
            error = BootError(self.boot_reason, "console: Kernel panic")
            error.console = ["[    1.0] Kernel panic"]
            raise error
        boot_id = os.urandom(4).hex()
        self.alive_file(spec.name).write_text(json.dumps({"spec": asdict(spec), "boot_id": boot_id}))
        self.points.point()
        self.booted.append(FakeBoot(self, spec, paths, boot_id))
        return self.booted[-1]

    def attach(self, spec: BootSpec, paths: HostPaths) -> FakeBoot | None:
        self.points.point()
        try:
            alive = json.loads(self.alive_file(spec.name).read_text())
        except (FileNotFoundError, ValueError):
            return None
        if alive["spec"] != asdict(spec):
            return None
        return FakeBoot(self, spec, paths, alive["boot_id"])

    def sweep(self, paths: HostPaths) -> None:
        self.points.point()
        self.swept += 1
        for name in self.alive():
            self.alive_file(name).unlink(missing_ok=True)
