"""A guest on hostfsd, with a real kernel: a full share, files that shrink, grow and are replaced while they are mapped, a reset."""

from __future__ import annotations

import dataclasses
import json
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import machine
import pytest
from ansible.module_utils.onecopy import arrangement, io_path, qemu
from ansible.module_utils.onecopy.arrangement import BootSpec
from ansible.module_utils.onecopy.paths import HostPaths
from ansible.module_utils.onecopy.runner_client import RunnerClient
from lab import EXPERIMENT, Lab, wait_until
from points import Told

MIB = 1 << 20
SIGBUS = -7
SECONDS = 60.0
# What every program in the guest begins with; `said` is what it found, by name.
COMMON = """
import errno, json, mmap, os, sys, time
MIB = 1 << 20
said = {}

def error(action):
    "The error of a system call by its name, None where it has none."
    try:
        action()
    except OSError as problem:
        return errno.errorcode[problem.errno]

def outcome(action):
    "What becomes of a process that touches memory: the byte it read, 0 after a store, or minus the signal that ended it."
    pid = os.fork()
    if not pid:
        os._exit(action() or 0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

def mapped(name, size, access=mmap.ACCESS_WRITE):
    fd = os.open(name, os.O_RDWR)
    return fd, mmap.mmap(fd, size, access=access)

def until(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)
"""
END = "\nprint(json.dumps(said), file=sys.stderr)\n"
FULL = """
fd, area = mapped("holes", 4 * MIB)
said["read"] = outcome(lambda: area[0])
said["store"] = outcome(lambda: area.__setitem__(MIB, 7))
said["store elsewhere"] = outcome(lambda: area.__setitem__(3 * MIB, 7))
said["write into the hole"] = error(lambda: os.pwrite(fd, b"x", 2 * MIB))
said["write"] = error(lambda: [os.pwrite(fd, bytes(MIB), at * MIB) for at in range(4, 8)])
"""
ROOM = """
fd, area = mapped("holes", 4 * MIB)
said["store"] = outcome(lambda: area.__setitem__(MIB, 7))
said["write"] = error(lambda: os.pwrite(fd, b"x", 2 * MIB))
os.fsync(fd)
"""
SHRINK = """
fd, area = mapped("shrinks", 3 * MIB)
said["before"] = [outcome(lambda: area[at]) for at in (0, 2 * MIB, 3 * MIB - 1)]
os.ftruncate(fd, MIB + 100)
said["below"] = [outcome(lambda: area[at]) for at in (0, MIB + 99, MIB + 100)]
said["beyond"] = [outcome(lambda: area[2 * MIB]), outcome(lambda: area.__setitem__(3 * MIB - 1, 1))]
os.ftruncate(fd, 3 * MIB)
said["longer again"] = [outcome(lambda: area[at]) for at in (MIB + 99, MIB + 100, 2 * MIB, 3 * MIB - 1)]
area[2 * MIB] = 7
os.fsync(fd)
"""
CHANGED = """
fd, area = mapped("grows", 2 * MIB)
old, kept = mapped("replaced", 2 * MIB)
said["before"] = [area[0], kept[0]]
open("ready", "w").close()
until(lambda: os.stat("grows").st_size == 3 * MIB + 5 and os.stat("replaced").st_ino != os.fstat(old).st_ino)
longer = mmap.mmap(fd, 3 * MIB + 5)
said["grown"] = [longer[0], longer[3 * MIB - 1], longer[3 * MIB :].decode(), os.pread(fd, 9, 3 * MIB).decode()]
new, there = mapped("replaced", 2 * MIB)
said["replaced"] = [kept[0], kept[2 * MIB - 1], there[0], there[2 * MIB - 1]]
area[MIB] = 7
os.fsync(fd)
"""
CUT = """
fd, area = mapped("cut", 3 * MIB)
said["before"] = [outcome(lambda: area[at]) for at in (0, 2 * MIB, 3 * MIB - 1)]
open("looked", "w").close()
until(lambda: os.path.exists("over"))
said["before it asks"] = [outcome(lambda: area[at]) for at in (0, MIB + 99, MIB + 100, 2 * MIB)]
until(lambda: os.fstat(fd).st_size == MIB + 100)
said["below"] = [outcome(lambda: area[at]) for at in (0, MIB + 99, MIB + 100)]
said["beyond"] = [outcome(lambda: area[2 * MIB]), outcome(lambda: area.__setitem__(3 * MIB - 1, 1))]
"""


class Share:
    """A guest on hostfsd, and its share as the host sees it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        name, dataset = "share", str(EXPERIMENT["dataset"]["name"])
        self.plan = arrangement.arrange(BootSpec("myfs", "myfs", dataset, "tcg", 384, 1, name=name), HostPaths())
        self._arguments = {"name": name, "system": "myfs", "dataset": dataset}
        assert self.plan.guest
        self.qmp = self._path(self.plan.guest.qmp)
        self.runner = RunnerClient(self._path(self.plan.runner))
        self.scratch = self._path(self.plan.share_scratch)
        self.store = self._path(HostPaths().store)

    def _path(self, path: Path) -> Path:
        return Path(f"/proc/{self.lab.init()}/root{path}")

    def boot(self) -> None:
        self.lab.module("guest", **self._arguments)
        self.runner.connect(SECONDS)

    def stop(self) -> None:
        self.runner.close()
        self.lab.module("guest", name=self._arguments["name"], state="stopped")

    def make(self, name: str, byte: bytes, size: int) -> Path:
        """A file of the scratch, made on the host: large enough to be mapped."""
        path = self.scratch / name
        path.write_bytes(byte * size)
        return path

    def run(self, program: str) -> dict[str, Any]:
        """Run a program in the guest's scratch; what it found."""
        pipeline = [["python3", "-c", COMMON + program + END]]
        result = self.runner.call(
            "run", SECONDS + 5, pipeline=pipeline, timeout_seconds=SECONDS, cwd=arrangement.SCRATCH
        )
        assert result["exit_codes"] == [0], result["stderr"]
        found: dict[str, Any] = json.loads(result["stderr"])
        return found

    def mount(self) -> None:
        """What a boot of the kit mounts."""
        for mount in self.plan.data_mounts + self.plan.scratch_mounts:
            self.runner.call("mount", SECONDS, **dataclasses.asdict(mount))

    def counters(self) -> dict[str, Any]:
        found: dict[str, Any] = io_path.ask(self._path(self.plan.stats))
        return found

    def is_shown(self, path: Path) -> bool:
        """Whether the window shows something of a file: whether the guest has mapped it."""
        status = path.stat()
        return f"{status.st_dev}:{status.st_ino}" in self.counters()["window"]["shown"]

    def programs(self) -> list[int]:
        return machine.victims("QEMU", self.lab.pid) + machine.victims("hostfsd", self.lab.pid)


@pytest.fixture(scope="module")
def share(lab: Lab) -> Iterator[Share]:
    before = lab.snapshot()
    made = Share(lab)
    try:
        made.boot()
        yield made
    finally:
        made.stop()
    lab.expect_quiet(before)


def fill(directory: Path) -> Path:
    """Take every block of a file system, also those that are root's; the file that has them."""
    filler = directory / "filler"
    status = os.statvfs(directory)
    size, end = status.f_bfree * status.f_frsize, 0
    with open(filler, "wb") as file:
        while size >= status.f_frsize:
            try:
                os.posix_fallocate(file.fileno(), end, size)
                end += size
            except OSError:
                size //= 2
    return filler


@pytest.mark.fault("full share under a guest on hostfsd")
def test_full(share: Share, told: Told) -> None:
    holes = share.scratch / "holes"
    with open(holes, "wb") as file:
        file.truncate(4 * MIB)
    # Not in the share: a file that the guest knows keeps its blocks when the host removes it.
    filler = fill(share.store)
    try:
        found = share.run(FULL)
        assert share.counters()["window"]["ranges_live"] > 0
    finally:
        filler.unlink()
    assert found == {
        "read": 0,
        "store": SIGBUS,
        "store elsewhere": SIGBUS,
        "write into the hole": "ENOSPC",
        "write": "ENOSPC",
    }
    assert share.run(ROOM) == {"store": 0, "write": None}
    with open(holes, "rb") as file:
        assert [os.pread(file.fileno(), 1, at * MIB) for at in (0, 1, 2, 3)] == [b"\0", b"\7", b"x", b"\0"]
    told(
        "ENOSPC for a write, SIGBUS for a program that stores into a mapped hole; the guest went on, and all works when there is room"
    )


@pytest.mark.fault("a file that is mapped is made shorter and longer by its guest")
def test_shrink(share: Share, told: Told) -> None:
    path = share.make("shrinks", b"s", 3 * MIB)
    letter = ord("s")
    assert share.run(SHRINK) == {
        "before": [letter, letter, letter],
        "below": [letter, letter, 0],
        "beyond": [SIGBUS, SIGBUS],
        "longer again": [letter, 0, 0, 0],
    }
    expected = bytearray(b"s" * (MIB + 100)).ljust(3 * MIB, b"\0")
    expected[2 * MIB] = 7
    assert path.read_bytes() == expected
    told("SIGBUS beyond the end, zeros when it is longer again; the host has what the guest stored")


@pytest.mark.fault("a file that a guest maps is made longer, or replaced, by the host")
def test_changed_by_the_host(share: Share, told: Told) -> None:
    grows, replaced = share.make("grows", b"g", 2 * MIB), share.make("replaced", b"o", 2 * MIB)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(share.run, CHANGED)
        wait_until(lambda: (share.scratch / "ready").exists() or running.done(), SECONDS, "the guest has mapped both")
        assert share.is_shown(grows) or running.done()
        assert share.is_shown(replaced) or running.done()
        with open(grows, "ab") as file:
            file.write(b"G" * MIB + b"added")
        share.make("new", b"n", 2 * MIB).rename(replaced)
        found = running.result()
    assert found == {
        "before": [ord("g"), ord("o")],
        "grown": [ord("g"), ord("G"), "added", "added"],
        "replaced": [ord("o"), ord("o"), ord("n"), ord("n")],
    }
    assert grows.read_bytes()[MIB] == 7
    told("the guest saw the longer file and the new one; what it had mapped stayed what it was")


@pytest.mark.fault("a file that a guest maps is made shorter by the host")
def test_cut_by_the_host(share: Share, told: Told) -> None:
    path = share.make("cut", b"c", 3 * MIB)
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(share.run, CUT)
        wait_until(lambda: (share.scratch / "looked").exists() or running.done(), SECONDS, "the guest has mapped it")
        whole = share.counters()["window"]["mapped_bytes"]
        # Between this and the new mapping nobody touches what is gone: that would be the end of QEMU (hostfsd's README, limit 1).
        os.truncate(path, MIB + 100)
        wait_until(
            lambda: share.counters()["window"]["mapped_bytes"] == whole - 2 * MIB or running.done(),
            SECONDS,
            "the daemon has mapped what is left",
        )
        (share.scratch / "over").touch()
        found = running.result()
    letter = ord("c")
    assert found == {
        "before": [letter, letter, letter],
        "before it asks": [letter, letter, 0, 0],
        "below": [letter, letter, 0],
        "beyond": [SIGBUS, SIGBUS],
    }
    assert path.read_bytes() == b"c" * (MIB + 100)
    told("the guest went on: zeros beyond the end, SIGBUS once it had asked for the size")


def _read(share: Share, path: Path) -> None:
    """Read a file in the guest by its window."""
    program = f'fd, area = mapped("{path.name}", {path.stat().st_size})\nsaid["same"] = bytes(area) == bytes(area)[:1] * len(area)\n'
    assert share.run(program) == {"same": True}


@pytest.mark.fault("reset of a guest on hostfsd")
@pytest.mark.parametrize("allowed", [True, False], ids=["it boots again", "the kit's -no-reboot"])
def test_reset(share: Share, told: Told, allowed: bool) -> None:
    path = share.make(f"before{allowed}", b"b", 2 * MIB + 5)
    _read(share, path)
    assert share.is_shown(path)
    programs, sessions = share.programs(), share.counters()["requests"]["INIT"]
    assert len(programs) == 2
    qemu.qmp(share.qmp, "set-action", reboot="reset" if allowed else "shutdown")
    qemu.qmp(share.qmp, "system_reset")
    if not allowed:
        wait_until(lambda: not share.programs(), SECONDS, "QEMU and the daemon end")
        told("QEMU ended, and the daemon with it")
        return
    share.runner.connect(SECONDS)
    share.mount()
    assert not share.is_shown(path)
    path.write_bytes(b"a" * (2 * MIB + 5))
    _read(share, path)
    assert share.is_shown(path)
    assert share.programs() == programs
    assert share.counters()["requests"]["INIT"] == sessions + 1
    told("the guest booted again, with the same QEMU and daemon, and mapped the share anew")
