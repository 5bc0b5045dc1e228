"""One limit over several processes: on cgroup v2 with files that are played, on the older controller with the real one."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import memory_budget as subject

OLDER = Path("/sys/fs/cgroup/memory")
MIB = 1 << 20
READER = """
import sys
input()
with open(sys.argv[1], "rb", 0) as file:
    while file.read(1 << 20):
        pass
print("read", flush=True)
input()
"""


@pytest.fixture
def slice_group(tmp_path: Path) -> Path:
    """A played hierarchy of cgroup v2 with the kit's slice."""
    (tmp_path / "cgroup.controllers").write_text("cpu io memory pids\n")
    group = tmp_path / "onecopy.slice"
    group.mkdir()
    (group / "memory.max").write_text("max\n")
    (group / "memory.current").write_text("1000\n")
    (group / "memory.stat").write_text("file 5\nworkingset_refault_anon 0\nworkingset_refault_file 7\n")
    return group


def test_the_slice_of_guest_and_daemon_is_found(slice_group: Path) -> None:
    services = ["0::/onecopy.slice/onecopy-guest@t.service\n", "0::/onecopy.slice/onecopy-hostfsd@t.service\n"]
    assert subject.common_group(services, slice_group.parent) == slice_group
    assert subject.common_group(services[:1], slice_group.parent) == slice_group


@pytest.mark.parametrize("memberships", [["0::/\n"], ["0::/a.slice/x\n", "0::/b.slice/y\n"], []])
def test_processes_without_a_slice_of_their_own_cannot_be_limited(slice_group: Path, memberships: list[str]) -> None:
    with pytest.raises(subject.BudgetError, match="do guest and daemon run in a slice"):
        subject.common_group(memberships, slice_group.parent)


def test_a_slices_limit_comes_back_and_is_known_to_who_restores_after_a_kill(slice_group: Path, tmp_path: Path) -> None:
    memory = tmp_path / "knobs"
    with subject.slice_limited(slice_group, 10 * MIB + 5, memory) as budget:
        assert (slice_group / "memory.max").read_text() == str(10 * MIB)
        assert '"value": "max"' in next(memory.glob("*.json")).read_text()
        assert (budget.used_bytes(), budget.refaults()) == (1000, 7)
    assert (slice_group / "memory.max").read_text() == "max"


@pytest.mark.skipif(
    os.geteuid() != 0 or not (OLDER / "cgroup.procs").exists(), reason="needs root and the older memory controller"
)
def test_the_older_controller_keeps_a_process_and_its_page_cache_below_the_limit(disk_path: Path) -> None:
    path = disk_path / "file"
    path.write_bytes(bytes(32 * MIB))
    fd = os.open(path, os.O_RDWR)
    os.fsync(fd)
    os.posix_fadvise(fd, 0, 0, os.POSIX_FADV_DONTNEED)
    os.close(fd)
    argv = [sys.executable, "-c", READER, str(path)]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdin
        assert process.stdout
        with subject.limited([process.pid], 24 * MIB, lambda: 8 * MIB) as budget:
            process.stdin.write(b"\n")
            process.stdin.flush()
            assert process.stdout.readline() == b"read\n"
            # It read twice as much as may stay, and what was held before counts.
            assert 8 * MIB + 8 * MIB < budget.used_bytes() <= 24 * MIB
            assert budget.refaults() >= 0
            group = budget.group
            assert (group / "cgroup.procs").read_text().split() == [str(process.pid)]
        assert not group.exists()
        process.stdin.write(b"\n")


def test_a_process_that_is_gone_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(subject.BudgetError), subject.joined(tmp_path / "none" / "group", [1], MIB):
        pass
