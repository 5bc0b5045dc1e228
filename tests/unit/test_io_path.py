"""Counters of the I/O path: on processes and sockets made for it, and on captured answers of real tools."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import cachestat, io_path

DATA = Path(__file__).resolve().parents[1] / "data"
MIB = 1 << 20
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def serve(tmp_path: Path) -> Iterator[Callable[[str, list[bytes]], Path]]:
    """A unix socket that greets every caller with the first line and answers each line it hears with the next."""
    listeners: list[socket.socket] = []

    def start(name: str, lines: list[bytes]) -> Path:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(tmp_path / name))
        listener.listen()
        listeners.append(listener)

        def work() -> None:
            while True:
                try:
                    connection, _ = listener.accept()
                except OSError:
                    return
                with connection, connection.makefile("rwb") as stream:
                    stream.write(lines[0] + b"\n")
                    stream.flush()
                    for line in lines[1:]:
                        stream.readline()
                        stream.write(line + b"\n")
                        stream.flush()

        threading.Thread(target=work, daemon=True).start()
        return tmp_path / name

    yield start
    for listener in listeners:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()


def test_a_process_that_reads_from_the_disk_is_counted(disk_path: Path) -> None:
    (disk_path / "file").write_bytes(os.urandom(4 * MIB))
    descriptor = os.open(disk_path / "file", os.O_RDONLY)
    cachestat.evict(descriptor)
    before = {"daemon": io_path.process_counters(os.getpid()), "store": io_path.device_counters(disk_path)}
    cachestat.prefetch(descriptor)
    sum(range(3_000_000))
    after = {"daemon": io_path.process_counters(os.getpid()), "store": io_path.device_counters(disk_path)}
    os.close(descriptor)
    change = io_path.difference(before, after)
    assert 4 * MIB <= change["daemon"]["read_call_bytes"] < 5 * MIB
    assert change["daemon"]["storage_read_bytes"] >= 4 * MIB
    assert change["daemon"]["read_calls"] >= 1
    assert change["daemon"]["cpu_seconds_main"] > 0.01
    assert change["store"]["read_bytes"] >= 4 * MIB
    per_byte = io_path.amplification(change, 4 * MIB)
    assert 1 <= per_byte["daemon"]["storage_read_bytes"] < 1.2


def test_cpu_seconds_are_told_by_kind_of_thread() -> None:
    # Long enough: a thread that is gone is known by the whole process alone, which is counted in ticks of 10 ms.
    code = (
        "import ctypes, os, sys, threading\n"
        "def burn(name):\n"
        "    ctypes.CDLL(None).prctl(15, name, 0, 0, 0)\n"
        "    sum(range(20_000_000))\n"
        "    done.wait(1); os.write(1, b'done\\n'); stop.wait()\n"
        "done, stop = threading.Event(), threading.Event(); done.set()\n"
        "for name in (b'CPU 0/TCG', b'IO io-data', b'IO mon_iothread'): threading.Thread(target=burn, args=(name,), daemon=True).start()\n"
        "gone = threading.Thread(target=lambda: sum(range(20_000_000))); gone.start(); gone.join(); os.write(1, b'done\\n')\n"
        "sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        for _ in range(4):
            assert process.stdout.readline() == "done\n"
        counters = io_path.process_counters(process.pid)
        process.communicate("")
    kinds = {name.removeprefix("cpu_seconds_") for name in counters if name.startswith("cpu_seconds_")}
    assert kinds == {"vcpu", "io", "monitor", "main", "worker"}
    assert min(counters[f"cpu_seconds_{kind}"] for kind in ("vcpu", "io", "monitor", "worker")) > 0.01
    assert counters["minor_faults"] > 0


@pytest.mark.parametrize(
    ("name", "is_main", "kind"),
    [
        ("CPU 0/KVM", False, "vcpu"),
        ("CPU 3/TCG", False, "vcpu"),
        ("IO io-data", False, "io"),
        ("IO mon_iothread", False, "monitor"),
        ("qemu-system-x86", True, "main"),
        ("CPU hog", True, "vcpu"),
        ("worker", False, "worker"),
        ("call_rcu", False, "worker"),
    ],
)
def test_threads_are_known_by_their_names(name: str, is_main: bool, kind: str) -> None:
    assert io_path.thread_kind(name, is_main) == kind


def test_qemus_block_statistics_are_added_up() -> None:
    answer = json.loads((DATA / "query-blockstats-qemu-11.1.3.json").read_text("utf-8"))
    counters = io_path.block_counters(answer)
    assert set(counters) == {"read_requests", "read_bytes", "write_requests", "write_bytes", "flush_requests"}
    assert len(answer) == 2
    assert counters["read_bytes"] == sum(device["stats"]["rd_bytes"] for device in answer) > 0


def test_a_guests_counters_become_one_level() -> None:
    block = {"read_requests": 10, "read_bytes": 4096, "write_requests": 0, "write_bytes": 0}
    answer = {
        "block": {"vda": block, "vdb": block},
        "vmstat": {"pgfault": 7, "nr_free_pages": 99},
        "cpu": {"user": 1.0, "system": 2.0, "softirq": 0.5, "idle": 60.0, "iowait": 5.0, "steal": 3.0},
    }
    assert io_path.guest_counters(answer) == {
        "read_requests": 20,
        "read_bytes": 8192,
        "write_requests": 0,
        "write_bytes": 0,
        "pgfault": 7,
        "cpu_seconds": 3.5,
    }


def test_the_requests_that_a_guest_sent_count_by_kind() -> None:
    found = io_path.guest_counters(
        {"block": {}, "vmstat": {}, "cpu": {}, "fuse": {"1": 1004, "15": 12, "18": 12, "48": 1}}
    )
    assert found["fuse_requests"] == 1029
    kinds = {name: value for name, value in found.items() if name.endswith("_requests") and value}
    assert kinds == {
        "fuse_requests": 1029,
        "fuse_lookup_requests": 1004,
        "fuse_read_requests": 12,
        "fuse_map_requests": 1,
    }


def test_the_host_tells_steal_apart_from_work() -> None:
    counters = io_path.host_counters(
        "pgfault 5\nnr_free_pages 9\npswpin 2\n", "cpu  100 0 50 900 10 0 25 30 7 0\ncpu0 1 2\n"
    )
    assert counters == {"pgfault": 5, "pswpin": 2, "cpu_seconds": 1.75, "user_seconds": 1.0, "steal_seconds": 0.3}


def test_layers_that_only_one_snapshot_has_are_left_out() -> None:
    assert io_path.difference({"a": {"x": 1}}, {"a": {"x": 4, "y": 5}, "b": {"x": 6}}) == {"a": {"x": 3}}


def test_amplification_has_counts_alone_and_needs_wanted_bytes() -> None:
    change = {
        "fuse": {"requests": 10, "read_bytes": 50, "errors": 1},
        "qemu": {"cpu_seconds": 3, "minor_faults": 20},
        "host": {"pgfault": 9},
    }
    assert io_path.amplification(change, 100) == {
        "fuse": {"requests": 0.1, "read_bytes": 0.5},
        "qemu": {"minor_faults": 0.2},
    }
    with pytest.raises(ValueError, match="wants no bytes"):
        io_path.amplification(change, 0)


def test_the_module_asks_monitor_and_daemon(
    run_module: Run, serve: Callable[[str, list[bytes]], Path], disk_path: Path
) -> None:
    answer = json.loads((DATA / "query-blockstats-qemu-11.1.3.json").read_text("utf-8"))
    qmp = serve("qmp", [b'{"QMP": {}}', b'{"return": {}}', json.dumps({"return": answer}).encode()])
    stats = {
        "requests_total": 7,
        "requests": {"SETUPMAPPING": 2, "READ": 5},
        "read_bytes": 9,
        "write_bytes": 0,
        "errors": 0,
    }
    parties = {
        "guests": [{"qemu_pid": os.getpid(), "qmp": str(qmp)}],
        "daemons": [{"pid": os.getpid(), "stats": str(serve("stats", [json.dumps(stats).encode()]))}],
        "store": str(disk_path),
    }
    first = run_module("io_path_info", **parties)
    assert sorted(first["layers"]) == ["daemon", "fuse", "host", "qemu", "qemu_block", "store"]
    assert first["layers"]["fuse"]["map_requests"] == 2
    assert first["layers"]["fuse"]["unmap_requests"] == 0
    second = run_module("io_path_info", before=first["layers"], wanted_bytes=1000, **parties)
    assert second["change"]["fuse"]["requests"] == 0
    assert second["change"]["qemu"]["read_calls"] > 0
    assert second["amplification"]["qemu"]["read_calls"] == second["change"]["qemu"]["read_calls"] / 1000


def test_what_is_gone_or_missing_is_one_clear_line(run_module: Run, tmp_path: Path) -> None:
    result = run_module("io_path_info", guests=[{"qemu_pid": 2**22 - 1}])
    assert "is every guest and daemon still running" in result["msg"]
    result = run_module("io_path_info", daemons=[{"pid": os.getpid(), "stats": str(tmp_path / "none")}])
    assert "No such file or directory" in result["msg"]
    assert "missing parameter" in run_module("io_path_info", wanted_bytes=5)["msg"]
