"""One memory limit over a guest, its daemon and the page cache that they cause on the host, while they run: by cgroups' memory controller.

With cgroup v2 it is the limit of the slice in which guests and daemons were started, to which all of their memory is charged. Elsewhere (a box on a
machine with the older controllers) it is a group of its own, to which only what comes after joining is charged: what was held before is subtracted.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from . import knobs
from .commands import run
from .paths import MACHINE, RUNTIME

ROOT: Final = Path("/sys/fs/cgroup")
_MOUNT_POINT: Final = RUNTIME / "memory-controller"
_GROUP: Final = "onecopy-budget"
_PAGE: Final = 4096


class BudgetError(Exception):
    """No limit can be set here; one line."""


@dataclass(frozen=True, slots=True)
class Budget:
    """A group under a limit; ``before_bytes`` are held outside of it."""

    group: Path
    usage: str
    before_bytes: int = 0

    def used_bytes(self) -> int:
        """What the processes and their page cache hold now."""
        return self.before_bytes + int((self.group / self.usage).read_text("ascii"))

    def refaults(self) -> int:
        """Pages of files that came back soon after they were reclaimed here, so far."""
        counters = dict(line.split() for line in (self.group / "memory.stat").read_text("ascii").splitlines())
        return int(counters["workingset_refault_file"])


@contextmanager
def limited(pids: Sequence[int], total_bytes: int, held: Callable[[], int], root: Path = ROOT) -> Iterator[Budget]:
    """Hold processes, and the page cache that they cause, below ``total_bytes``; ``held`` tells what they hold already.

    Who needs more, and has nothing that can be reclaimed, is ended by the kernel. Raises BudgetError, KnobError, CommandError.
    """
    controllers = root / "cgroup.controllers"
    with ExitStack() as stack:
        if controllers.exists() and "memory" in controllers.read_text("ascii").split():
            group = common_group([Path(f"/proc/{pid}/cgroup").read_text("ascii") for pid in pids], root)
            yield stack.enter_context(slice_limited(group, total_bytes))
        else:
            hierarchy = stack.enter_context(_older_hierarchy(root))
            before = held()
            group = stack.enter_context(joined(hierarchy / _GROUP, pids, total_bytes - before))
            yield Budget(group, "memory.usage_in_bytes", before)


def common_group(memberships: Sequence[str], root: Path = ROOT) -> Path:
    """The innermost group that holds all processes, by their /proc/PID/cgroup. Raises BudgetError where that is the root, which has no limit."""
    names = [line.removeprefix("0::") for text in memberships for line in text.splitlines() if line.startswith("0::")]
    common = os.path.commonpath(names) if names else "/"
    # One process alone stands in its service, and the limit belongs to the slice.
    while common != "/" and not common.endswith(".slice"):
        common = os.path.dirname(common)
    group = root / common.lstrip("/")
    if not (group / "memory.max").exists():
        raise BudgetError(f"{group}: has no memory limit: do guest and daemon run in a slice of their own?")
    return group


@contextmanager
def slice_limited(group: Path, total_bytes: int, memory: Path = MACHINE / "knobs") -> Iterator[Budget]:
    """Limit a group of cgroup v2 for a while; what it was is remembered in ``memory``, and comes back after a kill too."""
    limit = group / "memory.max"
    before = knobs.read(limit)
    knobs.set_knob(memory, limit, str(total_bytes // _PAGE * _PAGE))
    try:
        yield Budget(group, "memory.current")
    finally:
        knobs.set_knob(memory, limit, before)


@contextmanager
def joined(group: Path, pids: Sequence[int], limit_bytes: int) -> Iterator[Path]:
    """Keep processes in a new group of the older controller, then put them back into its parent. Raises BudgetError."""
    try:
        if group.is_dir():
            # Of a run that was killed: its processes ended with their guest.
            group.rmdir()
        group.mkdir()
        (group / "memory.limit_in_bytes").write_text(str(limit_bytes // _PAGE * _PAGE))
        for pid in pids:
            (group / "cgroup.procs").write_text(str(pid))
    except OSError as error:
        raise BudgetError(f"{error.filename or group}: {error.strerror}") from error
    try:
        yield group
    finally:
        for member in (group / "cgroup.procs").read_text("ascii").split():
            (group.parent / "cgroup.procs").write_text(member)
        group.rmdir()


@contextmanager
def _older_hierarchy(root: Path) -> Iterator[Path]:
    """Where the older memory controller is mounted; in a box, which does not show it, mounted for a while."""
    if (root / "memory" / "cgroup.procs").exists():
        yield root / "memory"
        return
    _MOUNT_POINT.mkdir(parents=True, exist_ok=True)
    if not os.path.ismount(_MOUNT_POINT):
        run(["mount", "-t", "cgroup", "-o", "memory", "none", str(_MOUNT_POINT)])
    try:
        yield _MOUNT_POINT
    finally:
        run(["umount", str(_MOUNT_POINT)])
