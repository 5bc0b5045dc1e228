"""Processes that are no party, and what all of them hold together: on this kernel, and on files made by hand."""

from __future__ import annotations

import json
import mmap
import os
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import bystanders, cgroups, ledger

MIB = 1 << 20
SIZE = 32 * MIB
V1 = "cache 9\nrss 1\nshmem 2\ntotal_cache 70\ntotal_rss 10\ntotal_shmem 20\n"
V2 = "anon 5\nfile 7\nshmem 6\npgfault 9\n"


# In a PID namespace and a cgroup of its own: a process holds guest memory in a memfd, another one anonymous memory; grown by what the arguments say.
CONTAINED = """
import json, mmap, os, subprocess, sys
sys.path.insert(0, sys.argv[1])
from pathlib import Path
from onecopy import bystanders, ledger
bystanders.visible_total.__defaults__ = (Path("/proc"), bystanders.ROOT, Path(sys.argv[2]))
size = int(sys.argv[3])
fd = os.memfd_create("memory-backend-memfd"); os.ftruncate(fd, size); ram = mmap.mmap(fd, size)
guest = [ledger.Guest(os.getpid())]
found = []
for _ in range(5):
    before = ledger.snapshot(guest)
    ram[:] = b"x" * size
    argv = [sys.executable, "-c", f"held = b'x' * {size}; print('held', flush=True); input()"]
    with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        other.stdout.readline()
        found.append((before, ledger.snapshot(guest)))
        other.communicate(b"\\n")
    ram.madvise(mmap.MADV_REMOVE)
print(json.dumps(found))
"""


def _process(proc: Path, pid: int, anonymous_kib: int, shared_kib: int) -> None:
    (proc / str(pid)).mkdir(parents=True)
    text = f"1000-2000 ---p 00000000 00:00 0 [rollup]\nPss: 9 kB\nPss_Anon: {anonymous_kib} kB\nPss_File: 9 kB\nPss_Shmem: {shared_kib} kB\n"
    (proc / str(pid) / "smaps_rollup").write_text(text)


def test_parties_are_left_out_and_ended_processes_are_no_error(tmp_path: Path) -> None:
    _process(tmp_path, 7, 100, 20)
    _process(tmp_path, 8, 3, 0)
    _process(tmp_path, 9, 1000, 1000)
    (tmp_path / "10").mkdir()
    (tmp_path / "meminfo").write_text("")
    found = bystanders.bystanders([9], tmp_path)
    assert found == {"processes": 2, "anonymous_bytes": 103 * 1024, "shared_bytes": 20 * 1024}


def test_what_a_process_shares_with_its_fork_is_counted_once() -> None:
    """This process holds SIZE, forks, and both are looked at: the pages are the same ones."""
    held = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    held.write(b"x" * SIZE)
    parties = {int(name) for name in os.listdir("/proc") if name.isdigit()} - {os.getpid()}
    alone = bystanders.bystanders(parties)
    read_end, write_end = os.pipe()
    child = os.fork()
    if not child:
        os.close(write_end)
        os.read(read_end, 1)
        os._exit(0)
    os.close(read_end)
    parties = {int(name) for name in os.listdir("/proc") if name.isdigit()} - {os.getpid(), child}
    both = bystanders.bystanders(parties)
    os.close(write_end)
    os.waitpid(child, 0)
    held.close()
    assert both["processes"] >= alone["processes"] + 1
    assert alone["anonymous_bytes"] >= SIZE
    assert abs(both["anonymous_bytes"] - alone["anonymous_bytes"]) < SIZE / 2


def test_without_the_right_to_see_shares_whole_pages_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _process(tmp_path, 7, 100, 20)
    (tmp_path / "7/status").write_text("Name: x\nRssAnon:\t 150 kB\nRssFile:\t 9 kB\nRssShmem:\t 30 kB\n")
    read = Path.read_text

    def refused(path: Path, *args: str) -> str:
        if path.name == "smaps_rollup":
            raise PermissionError(13, "Permission denied", str(path))
        return read(path, *args)

    monkeypatch.setattr(Path, "read_text", refused)
    found = bystanders.bystanders([], tmp_path)
    assert (found["anonymous_bytes"], found["shared_bytes"]) == (150 * 1024, 30 * 1024)


@pytest.mark.parametrize(
    ("group", "stat", "expected"), [("boxed", V1, 30), ("cgroup", V2, 11), ("elsewhere", V2, None)]
)
def test_a_containers_total_is_its_cgroups(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, group: str, stat: str, expected: int | None
) -> None:
    (tmp_path / "proc/self/ns").mkdir(parents=True)
    (tmp_path / "proc/self/ns/pid").write_text("")
    (tmp_path / group).mkdir()
    (tmp_path / group / "memory.stat").write_text(stat)
    where = (tmp_path / "proc", tmp_path / "cgroup", tmp_path / "boxed")
    assert bystanders.visible_total(*where) == expected
    monkeypatch.setattr(bystanders, "_FIRST_PID_NAMESPACE", (tmp_path / "proc/self/ns/pid").stat().st_ino)
    assert bystanders.visible_total(*where) is None


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may make a PID namespace")
def test_a_pid_namespace_is_told_from_the_machine() -> None:
    """In one of its own, without a cgroup that counts, nobody knows how much is visible; the number says that it is not the first."""
    code = "import os; print(os.stat('/proc/self/ns/pid').st_ino)"
    argv = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", code]
    inside = int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    assert inside != bystanders._FIRST_PID_NAMESPACE


@pytest.mark.parametrize(
    ("membership", "stat", "expected"),
    [
        ("0::/a.slice\n", "a.slice", {"anon_bytes": 5, "file_bytes": 7}),
        ("4:cpu,memory:/a\n0::/\n", "memory/a", {"anon_bytes": 5, "file_bytes": 7}),
        ("0::/elsewhere\n", "a.slice", None),
    ],
)
def test_the_cgroup_is_found_in_both_layouts(
    tmp_path: Path, membership: str, stat: str, expected: dict[str, int] | None
) -> None:
    (tmp_path / "proc" / "7").mkdir(parents=True)
    (tmp_path / "proc" / "7" / "cgroup").write_text(membership)
    (tmp_path / "cgroup" / stat).mkdir(parents=True)
    (tmp_path / "cgroup" / stat / "memory.stat").write_text("anon 5\nfile 7\npgfault 9\n")
    found = bystanders.cgroup_memory(7, tmp_path / "proc", tmp_path / "cgroup")
    assert found == (None if expected is None else {"path": str(tmp_path / "cgroup" / stat), **expected})


@pytest.mark.skipif(
    os.geteuid() != 0 or not Path("/sys/fs/cgroup/memory/cgroup.procs").exists(),
    reason="needs root and the older memory controller",
)
def test_in_a_container_the_parties_must_add_up_to_what_its_cgroup_counts() -> None:
    """In a real one; what it does not see of this machine moves as it likes, and is neither a party's nor unexplained."""
    name = f"onecopy-test-{os.getpid()}"
    group = cgroups.memory_group(cgroups.create(name))
    assert group
    argv = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-c", CONTAINED]
    try:
        done = subprocess.run(
            [*argv, str(Path(cgroups.__file__).parents[1]), str(group), str(SIZE)],
            capture_output=True,
            text=True,
            check=True,
            preexec_fn=lambda: cgroups.join([group]),
        )
    finally:
        cgroups.remove(name)
    tries = [(ledger.difference(before, after), before, after) for before, after in json.loads(done.stdout)]
    # Pages of other programs may be on their way between two counters of the machine.
    change, before, after = min(tries, key=lambda found: abs(found[0]["remainder_bytes"]))
    assert after["visible_bytes"] < after["host"]["process_bytes"]
    assert change["guest_memory_bytes"] == SIZE
    assert SIZE <= change["others_bytes"] < SIZE + 16 * MIB
    assert ledger.is_closed(change, SIZE), change
    after["guests"][0]["backed_bytes"] += SIZE
    assert not ledger.is_closed(ledger.difference(before, after), SIZE)
