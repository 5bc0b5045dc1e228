"""The memory ledger: on this kernel, on processes made for it, and on figures made by hand."""

from __future__ import annotations

import copy
import json
import mmap
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import cachestat, ledger

MIB = 1 << 20
SIZE = 48 * MIB
Run = Callable[..., dict[str, Any]]
MEMINFO = """\
MemTotal:        1000 kB
MemFree:          300 kB
MemAvailable:     500 kB
Buffers:           10 kB
Cached:           250 kB
Dirty:              4 kB
Writeback:          1 kB
SwapTotal:          0 kB
SwapFree:           0 kB
AnonPages:        200 kB
Shmem:             50 kB
KReclaimable:      30 kB
SReclaimable:      20 kB
SUnreclaim:        40 kB
KernelStack:        5 kB
PageTables:         6 kB
Percpu:             7 kB
VmallocUsed:        8 kB
HugePages_Total:    3
"""
# A QEMU in what matters here: guest memory in a memfd of QEMU's name, or in a private mapping, and memory of its own.
QEMU = """
import mmap, os, sys
kind, size = sys.argv[1], int(sys.argv[2])
if kind == "memfd":
    fd = os.memfd_create("memory-backend-memfd"); os.ftruncate(fd, 4 * size); ram = mmap.mmap(fd, 4 * size)
else:
    ram = mmap.mmap(-1, 4 * size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
print("ready", flush=True)
for line in sys.stdin:
    if line == "touch\\n":
        for offset in range(0, size, 4096): ram[offset] = 1
    else: ram.madvise(mmap.MADV_REMOVE if kind == "memfd" else mmap.MADV_DONTNEED)
    print("done", flush=True)
"""


@pytest.fixture(params=["memfd", "private"])
def qemu(request: pytest.FixtureRequest) -> Iterator[subprocess.Popen[str]]:
    with subprocess.Popen(
        [sys.executable, "-c", QEMU, request.param, str(SIZE)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        yield process
        process.kill()


def _touch(process: subprocess.Popen[str]) -> None:
    _tell(process, "touch")


def _give_back(process: subprocess.Popen[str]) -> None:
    _tell(process, "give back")


def _tell(process: subprocess.Popen[str], what: str) -> None:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{what}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "done\n"


def test_meminfo_is_split_into_parts_that_do_not_overlap() -> None:
    parts = ledger.host_parts(ledger.read_meminfo(MEMINFO), 2048)
    assert parts == {
        "total_bytes": 1000 * 1024,
        "free_bytes": 302 * 1024,
        "cache_bytes": (250 - 50 + 10 + 30) * 1024,
        "page_cache_bytes": (250 - 50 + 10) * 1024,
        "process_bytes": 250 * 1024,
        "kernel_bytes": (40 + 6 + 7 + 8) * 1024,
        "available_bytes": 500 * 1024,
        "dirty_bytes": 5 * 1024,
        "swap_used_bytes": 0,
    }


def test_free_pages_in_the_cpus_lists_are_found() -> None:
    text = "Node 0, zone Normal\n  pages free 77\n  pagesets\n    cpu: 0\n              count:    4356\n              high:     26619\n"
    text += "    cpu: 1\n              count:    8796\n  vm stats threshold: 36\n"
    assert ledger.free_in_cpu_lists(text) == (4356 + 8796) * 4096


def test_what_is_backed_of_a_guest_is_told_from_qemus_own(qemu: subprocess.Popen[str]) -> None:
    before = ledger.guest_parts(ledger.Guest(qemu.pid))
    _touch(qemu)
    after = ledger.guest_parts(ledger.Guest(qemu.pid))
    assert before["backed_bytes"] < MIB
    assert SIZE <= after["backed_bytes"] < SIZE + 4 * MIB  # huge pages may round up
    assert abs(after["qemu_bytes"] - before["qemu_bytes"]) < MIB


def _explained(qemu: subprocess.Popen[str], file: Path) -> tuple[ledger.Snapshot, ledger.Snapshot]:
    """Snapshots around a guest, a daemon (this process), a bystander and the page cache that grow by SIZE each.

    Other programs of this machine grow and shrink while they are counted one after the other: tried until they hold still.
    """
    guest = ledger.Guest(qemu.pid)
    descriptor = os.open(file, os.O_RDWR)
    for _ in range(10):
        cachestat.evict(descriptor)
        before = ledger.snapshot([guest], [os.getpid()])
        _touch(qemu)
        cachestat.prefetch(descriptor)
        own = mmap.mmap(-1, SIZE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        own.write(b"x" * SIZE)
        argv = [sys.executable, "-c", f"held = b'x' * {SIZE}; print('held', flush=True); input()"]
        with subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as bystander:
            assert bystander.stdout is not None
            bystander.stdout.readline()
            after = ledger.snapshot([guest], [os.getpid()])
            bystander.communicate(b"\n")
        own.close()
        if ledger.is_closed(ledger.difference(before, after), SIZE):
            break
        _give_back(qemu)
    os.close(descriptor)
    return before, after


def test_a_change_is_explained_but_for_a_small_remainder(qemu: subprocess.Popen[str], disk_path: Path) -> None:
    (disk_path / "file").write_bytes(os.urandom(SIZE))
    change = ledger.difference(*_explained(qemu, disk_path / "file"))
    assert ledger.is_closed(change, SIZE), change
    assert change["guest_memory_bytes"] >= SIZE
    assert abs(change["daemon_bytes"] - SIZE) < 4 * MIB
    parts = sum(value for name, value in change.items() if name not in ("used_and_cache_bytes", "remainder_bytes"))
    assert parts + change["remainder_bytes"] == change["used_and_cache_bytes"]


@pytest.mark.parametrize("kind", ["guests", "daemons", "others", "visible_bytes"])
def test_a_party_that_is_counted_wrong_opens_the_ledger(
    qemu: subprocess.Popen[str], disk_path: Path, kind: str
) -> None:
    (disk_path / "file").write_bytes(os.urandom(SIZE))
    before, after = json.loads(json.dumps(_explained(qemu, disk_path / "file")))
    assert ledger.is_closed(ledger.difference(before, after), SIZE)
    for name in {
        "guests": ("backed_bytes", "qemu_bytes"),
        "daemons": ("used_bytes",),
        "others": ("anonymous_bytes", "shared_bytes"),
    }.get(kind, ("",)):
        wrong = copy.deepcopy(after)
        if name:
            party = wrong[kind] if kind == "others" else wrong[kind][0]
            party[name] += SIZE
        else:
            wrong[kind] += SIZE
        change = ledger.difference(before, wrong)
        assert not ledger.is_closed(change, SIZE), (name, change)
        assert abs(abs(change["remainder_bytes"]) - SIZE) < 8 * MIB, (name, change)


def test_the_parties_of_one_snapshot_add_up_to_the_machine(qemu: subprocess.Popen[str]) -> None:
    _touch(qemu)
    # Of 192 MiB the guest holds 160 free; of the 48 backed 32 are used or cache, so 16 were freed and never given back.
    # The guest holds all but 32 MiB free; 48 MiB are backed: 16 were freed and not given back.
    meminfo = {
        "MemTotal": 4 * SIZE,
        "MemFree": 4 * SIZE - 32 * MIB,
        "Cached": 20 * MIB,
        "Shmem": MIB,
        "Buffers": MIB,
        "SReclaimable": 0,
    }
    table = ledger.ledger(ledger.snapshot([ledger.Guest(qemu.pid, meminfo)], [os.getpid()]))
    guest = table["guests"][0]
    assert guest["cache_bytes"] == 20 * MIB
    assert 16 * MIB <= guest["free_bytes"] < 20 * MIB
    assert guest["used_bytes"] == 12 * MIB
    parties = [table["host"], *table["guests"], *table["qemu"], *table["daemons"]]
    assert sum(sum(party.values()) for party in parties) - table["merged_bytes"] == table["total_bytes"]
    assert min(value for party in parties for value in party.values()) >= 0


def _taken(free: int, process: int, backed: int, merged_pages: int = 0, visible: int | None = None) -> ledger.Snapshot:
    host = {"total_bytes": 10**9, "free_bytes": free, "cache_bytes": 0, "process_bytes": process, "kernel_bytes": 0}
    return {
        "host": host,
        "visible_bytes": process if visible is None else visible,
        "ksm": {"pages_sharing": merged_pages},
        "guests": [{"backed_bytes": backed, "qemu_bytes": 0}],
        "daemons": [],
        "others": {"processes": 0, "anonymous_bytes": 0, "shared_bytes": 0},
    }


def test_merged_pages_are_taken_off_once() -> None:
    before = _taken(free=500 * MIB, process=200 * MIB, backed=200 * MIB)
    after = _taken(free=600 * MIB, process=100 * MIB, backed=200 * MIB, merged_pages=100 * 256)
    change = ledger.difference(before, after)
    assert (change["merged_bytes"], change["others_bytes"], change["remainder_bytes"]) == (-100 * MIB, 0, 0)


def test_memory_stat_of_a_partys_unit_is_shown(qemu: subprocess.Popen[str], monkeypatch: pytest.MonkeyPatch) -> None:
    stat = {"path": "/sys/fs/cgroup/a", "anon_bytes": 5}
    monkeypatch.setattr(ledger, "cgroup_memory", lambda pid, _: stat if pid == qemu.pid else None)
    taken = ledger.snapshot([ledger.Guest(qemu.pid)], [os.getpid()])
    assert taken["cgroups"] == {str(qemu.pid): stat}
    monkeypatch.setattr(ledger, "cgroup_memory", lambda *_: None)
    assert "cgroups" not in ledger.snapshot([ledger.Guest(qemu.pid)])


def test_what_is_outside_of_a_container_hides_no_party() -> None:
    """The machine's processes gave 90 MiB back, the container's took 10: a guest that grew by 10 explains them, one by 30 does not."""
    before = _taken(free=500 * MIB, process=400 * MIB, backed=200 * MIB, visible=200 * MIB)
    after = _taken(free=580 * MIB, process=320 * MIB, backed=210 * MIB, visible=210 * MIB)
    change = ledger.difference(before, after)
    assert (change["outside_bytes"], change["remainder_bytes"]) == (-90 * MIB, 0)
    after["guests"][0]["backed_bytes"] += 20 * MIB
    change = ledger.difference(before, after)
    assert (change["outside_bytes"], change["remainder_bytes"]) == (-90 * MIB, -20 * MIB)


def test_pages_on_their_way_to_the_hypervisor_are_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, (device, features) in enumerate([("0x0002", "111111"), ("0x0005", "011001")]):
        (tmp_path / str(number)).mkdir()
        (tmp_path / str(number) / "device").write_text(f"{device}\n")
        (tmp_path / str(number) / "features").write_text(f"{features}00\n")
    assert ledger.reports_free_pages(tmp_path)
    (tmp_path / "1/features").write_text("01100000\n")
    assert not ledger.reports_free_pages(tmp_path)
    # Five of eight readings miss 64 MiB of the free memory, as a report does that is under way.
    missing = iter([64, 64, 64, 64, 64, 0, 0, 0])
    parts = ledger.host_parts

    def played(meminfo: dict[str, int], cpu_lists_bytes: int) -> dict[str, int]:
        return parts(ledger.read_meminfo(MEMINFO), 0) | {"free_bytes": 100 * MIB - next(missing) * MIB}

    monkeypatch.setattr(ledger, "reports_free_pages", lambda: True)
    monkeypatch.setattr(ledger, "host_parts", played)
    assert ledger.snapshot()["host"]["free_bytes"] == 100 * MIB


@pytest.mark.parametrize(
    ("remainder", "dataset", "closed"), [(8, 0, True), (-9, 0, False), (10, 200, True), (-11, 200, False)]
)
def test_the_remainder_has_a_limit(remainder: int, dataset: int, closed: bool) -> None:
    assert ledger.is_closed({"remainder_bytes": remainder * MIB}, dataset * MIB) is closed


def test_private_guest_memory_is_the_largest_mapping_without_a_file() -> None:
    text = (
        "7f00-7fff rw-p 00000000 00:00 0 \nSize:  1000 kB\nRss:  300 kB\nVmFlags: rd wr mg \n"
        "8f00-8fff r--s 00000000 fe:00 12   /image with spaces\nSize:  9000 kB\nRss:  9000 kB\n"
        "9f00-9fff rw-p 00000000 00:00 0   [heap]\nSize:  2000 kB\nRss:  2000 kB\n"
        "af00-afff rw-p 00000000 00:00 0   [anon: guest]\nSize:  1500 kB\nRss:  400 kB\n"
    )
    assert ledger.largest_anonymous(text) == (1500 * 1024, 400 * 1024)


def test_the_module_tells_the_change_since_an_earlier_call(run_module: Run, qemu: subprocess.Popen[str]) -> None:
    parties = {"guests": [{"qemu_pid": qemu.pid}], "daemons": [os.getpid()]}
    for _ in range(10):  # until this machine's other programs hold still
        before = run_module("memory_ledger_info", **parties)
        assert "change" not in before
        _touch(qemu)
        after = run_module("memory_ledger_info", before=before["snapshot"], dataset_bytes=SIZE, **parties)
        if after["is_closed"]:
            break
        _give_back(qemu)
    assert after["changed"] is False
    assert after["change"]["guest_memory_bytes"] >= SIZE
    assert after["is_closed"] is True


def test_a_process_that_is_gone_and_a_foreign_snapshot_are_refused(run_module: Run) -> None:
    result = run_module("memory_ledger_info", daemons=[2**22 - 1])
    assert "no such process" in result["msg"]
    result = run_module("memory_ledger_info", before={"host": {}})
    assert "before is not the snapshot of an earlier call" in result["msg"]
