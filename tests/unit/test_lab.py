"""Provenance: on this machine, and on a tree with what other machines have."""

from __future__ import annotations

import gzip
import hashlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import lab

Run = Callable[..., dict[str, Any]]


def _make(root: Path, files: dict[str, str | bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content if isinstance(content, bytes) else content.encode())
    return root


def test_this_machine_is_described(run_module: Run, disk_path: Path) -> None:
    facts = run_module("lab_info", store=str(disk_path))["lab"]
    assert facts["kernel"]["release"] == os.uname().release
    assert facts["cpu"]["model"]
    assert facts["memory"]["total_bytes"] > 1 << 28
    assert isinstance(facts["memory"]["swaps"], list)
    assert facts["store"]["file_system"] not in ("", "tmpfs")
    assert facts["store"]["mount_point"] == _mount_point(disk_path)
    assert facts["load"]["uptime_seconds"] > 0
    assert facts["settings"]["swappiness"].isdigit()


def _mount_point(path: Path) -> str:
    while not path.is_mount():
        path = path.parent
    return str(path)


def test_what_is_unknown_is_absent_and_nothing_fails(tmp_path: Path) -> None:
    facts = lab.collect(root=tmp_path, run=lambda argv: None)
    assert facts == {
        "cpu": {"flags": []},
        "kernel": {"boot_options": []},
        "memory": {"swaps": []},
        "cgroups": {"controllers": [], "legacy_controllers": []},
        "load": {"averages": []},
    }


def test_the_kernels_configuration_is_found_in_both_places(tmp_path: Path) -> None:
    config = b"CONFIG_FUSE_DAX=y\n"
    root = _make(tmp_path, {"proc/sys/kernel/osrelease": "6.8.0-1\n", "proc/config.gz": gzip.compress(config)})
    assert lab.kernel(root)["config_sha256"] == hashlib.sha256(config).hexdigest()
    _make(root, {"boot/config-6.8.0-1": b"CONFIG_FUSE_DAX=m\n"})
    assert lab.kernel(root)["config_sha256"] == hashlib.sha256(b"CONFIG_FUSE_DAX=m\n").hexdigest()


def test_of_the_command_line_only_what_matters_is_kept(tmp_path: Path) -> None:
    root = _make(
        tmp_path,
        {"proc/cmdline": "root=/dev/vda key=secret mitigations=off nokaslr ip=192.0.2.1 transparent_hugepage=never\n"},
    )
    assert lab.kernel(root)["boot_options"] == ["mitigations=off", "nokaslr", "transparent_hugepage=never"]


def test_swap_areas_are_listed(tmp_path: Path) -> None:
    text = "Filename\t\t\t\tType\t\tSize\t\tUsed\t\tPriority\n/swap.img                               file\t\t4194300\t\t512\t\t-2\n"
    root = _make(tmp_path, {"proc/swaps": text, "proc/meminfo": "MemTotal:       16000 kB\n"})
    assert lab.memory(root)["swaps"] == [
        {"path": "/swap.img", "kind": "file", "size_bytes": 4194300 * 1024, "used_bytes": 512 * 1024}
    ]
    assert lab.memory(root)["total_bytes"] == 16000 * 1024


def test_a_damon_that_runs_is_seen(tmp_path: Path) -> None:
    top = "sys/kernel/mm/damon/admin/kdamonds"
    root = _make(
        tmp_path,
        {f"{top}/nr_kdamonds": "1", f"{top}/0/state": "on\n", "sys/module/damon_reclaim/parameters/enabled": "Y\n"},
    )
    assert lab.damon(root) == {"kdamonds": ["on"], "damon_reclaim": "Y", "damon_lru_sort": "", "damon_stat": ""}


@pytest.mark.parametrize(
    ("directories", "mounts", "layout", "controllers", "legacy"),
    [
        (["cgroup.controllers"], "cgroup2 /sys/fs/cgroup cgroup2 rw 0 0\n", "unified", ["cpu", "memory"], []),
        (
            ["unified/cgroup.controllers", "memory/x"],
            "cgroup /sys/fs/cgroup/memory cgroup rw,relatime,memory 0 0\n",
            "hybrid",
            ["cpu", "memory"],
            ["memory"],
        ),
        (["memory/x"], "cgroup /sys/fs/cgroup/memory cgroup rw,memory 0 0\n", "legacy", [], ["memory"]),
    ],
)
def test_the_cgroup_layout_is_told(
    tmp_path: Path, directories: list[str], mounts: str, layout: str, controllers: list[str], legacy: list[str]
) -> None:
    root = _make(
        tmp_path, {f"sys/fs/cgroup/{name}": "cpu memory\n" for name in directories} | {"proc/self/mounts": mounts}
    )
    assert lab.cgroups(root) == {"layout": layout, "controllers": controllers, "legacy_controllers": legacy}


def test_a_loop_device_tells_what_backs_it(tmp_path: Path) -> None:
    number = os.stat(tmp_path).st_dev
    device = f"sys/dev/block/{os.major(number)}:{os.minor(number)}"
    files: dict[str, str | bytes] = {
        f"{device}/queue/read_ahead_kb": "128\n",
        f"{device}/queue/scheduler": "[none] mq-deadline\n",
        f"{device}/loop/backing_file": "/var/lib/onecopy/store.ext4\n",
        f"{device}/loop/dio": "1\n",
        "proc/self/mounts": f"/dev/vda / ext4 rw 0 0\n/dev/loop0 {tmp_path} ext4 rw,noatime 0 0\n",
    }
    facts = lab.store_facts(tmp_path, _make(tmp_path / "root", files))
    assert facts == {
        "device": {"read_ahead_kb": "128", "scheduler": "[none] mq-deadline"},
        "source": "/dev/loop0",
        "mount_point": str(tmp_path),
        "file_system": "ext4",
        "options": "rw,noatime",
        "loop": {"backing_file": "/var/lib/onecopy/store.ext4", "dio": "1"},
    }


def test_only_installed_packages_have_a_version() -> None:
    text = (
        "qemu-system-x86 1:11.1.3+ds-1~bpo13+1 installed\nvirtiofsd  not-installed\ne2fsprogs 1.47.2-3 config-files\n"
    )
    assert lab.packages(text) == {"qemu-system-x86": "1:11.1.3+ds-1~bpo13+1"}


def test_a_store_that_is_not_there_is_refused(run_module: Run) -> None:
    assert run_module("lab_info", store="/none")["msg"] == "/none: No such file or directory"
