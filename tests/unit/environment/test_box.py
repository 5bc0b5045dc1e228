"""What a box is made from and started with; the box itself is tested in tests/roles."""

from __future__ import annotations

import json
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import box_root, cgroups, loop_devices, nspawn
from ansible.module_utils.onecopy.box_root import RootSpec
from ansible.module_utils.onecopy.nspawn import Box

SPEC = RootSpec("trixie", ("systemd", "python3"), ("deb http://m trixie main",))


def test_the_argv_of_mmdebstrap() -> None:
    expected = [
        "mmdebstrap",
        "--variant=apt",
        "--format=directory",
        "--skip=cleanup/apt/lists",
        "--include=systemd,python3",
        "trixie",
        "/t",
    ]
    assert box_root.mmdebstrap_argv(SPEC, Path("/t")) == [*expected, "-"]
    assert box_root.mmdebstrap_argv(RootSpec("trixie", SPEC.packages, ()), Path("/t")) == expected


@pytest.mark.parametrize(
    "other",
    [
        RootSpec("forky", SPEC.packages, SPEC.sources),
        RootSpec("trixie", ("systemd",), SPEC.sources),
        RootSpec("trixie", SPEC.packages, ()),
    ],
)
def test_every_input_changes_the_digest(other: RootSpec) -> None:
    assert other.digest() != SPEC.digest()
    assert RootSpec("trixie", SPEC.packages, SPEC.sources).digest() == SPEC.digest()


def test_old_and_torn_roots_are_outdated(tmp_path: Path) -> None:
    keep = box_root.base_path(tmp_path, SPEC)
    for name in (keep.name, "base-old", f"{keep.name}.partial", "onecopy-box1"):
        (tmp_path / name).mkdir()
    assert [path.name for path in box_root.outdated(tmp_path, keep)] == sorted([f"{keep.name}.partial", "base-old"])


def test_a_tree_with_a_mount_in_it_is_not_removed() -> None:
    with pytest.raises(OSError, match="mounted in it"):
        box_root.remove_trees([Path("/") / "dev"])


def test_the_argv_of_an_instance() -> None:
    box = Box("onecopy-b", Path("/s/b"), 22299, apt_cache=Path("/s/apt"))
    assert nspawn.nspawn_argv(box) == [
        "systemd-nspawn",
        "--quiet",
        "--directory=/s/b/root",
        f"--machine={box.machine}",
        "--hostname=onecopy-b",
        "--register=no",
        "--keep-unit",
        "--boot",
        "--capability=all",
        "--resolv-conf=copy-host",
        "--link-journal=no",
        "--bind=/run/onecopy-machine",
        "--bind=/s/apt:/var/cache/apt/archives",
    ]


def test_boxes_of_two_checkouts_are_two_machines() -> None:
    machines = {Box("onecopy-b", Path(checkout), 22299).machine for checkout in ("/one/b", "/two/b")}
    assert len(machines) == 2
    assert all(machine.startswith("onecopy-b-") and len(machine) <= 64 for machine in machines)


def test_devices_are_never_bound() -> None:
    box = Box("onecopy-b", Path("/s/b"), 22299, apt_cache=Path("/s/apt"))
    assert not [argument for argument in nspawn.nspawn_argv(box) if "/dev" in argument]


def test_the_machines_ksm_thread_is_shown_to_the_box() -> None:
    box = Box("onecopy-b", Path("/s/b"), 22299)
    assert nspawn.nspawn_argv(box, Path("/proc/37"))[-1] == "--bind-ro=/proc/37:/run/onecopy-ksmd"


def test_the_box_sees_what_the_kernel_counts_of_its_memory(tmp_path: Path) -> None:
    box = Box("onecopy-b", Path("/s/b"), 22299)
    groups = [tmp_path / "systemd", tmp_path / "memory"]
    assert cgroups.memory_group(groups) is None
    groups[1].mkdir()
    (groups[1] / "memory.stat").write_text("")
    argv = nspawn.nspawn_argv(box, None, cgroups.memory_group(groups))
    assert argv[-1] == f"--bind-ro={groups[1]}:/run/onecopy-memory"


def test_the_argv_under_systemd() -> None:
    box = Box("onecopy-b", Path("/s/b"), 22299, memory_mib=512)
    argv = nspawn.unit_argv(box)
    assert argv[:3] == ["systemd-run", "--quiet", f"--unit={box.machine}.service"]
    assert {"--property=Delegate=yes", "--property=MemoryMax=512M", "--setenv=SYSTEMD_SECCOMP=0"} <= set(argv)
    assert argv[argv.index("--") + 1] == "systemd-nspawn"


def test_a_process_is_known_by_pid_and_start_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nspawn, "machine_has_systemd", lambda: False)
    box = Box("onecopy-b", tmp_path, 22299)
    assert nspawn.running_pid(box) is None
    ticks = nspawn.start_ticks(Path(f"/proc/{os.getpid()}/stat").read_text())
    box.pid_file.write_text(json.dumps({"pid": os.getpid(), "start_ticks": ticks}))
    assert nspawn.running_pid(box) == os.getpid()
    box.pid_file.write_text(json.dumps({"pid": os.getpid(), "start_ticks": ticks + 1}))
    assert nspawn.running_pid(box) is None
    box.pid_file.write_text("torn")
    assert nspawn.running_pid(box) is None


def test_the_start_time_survives_a_strange_name() -> None:
    assert nspawn.start_ticks(f"1 (a) b (c) S {' '.join(str(n) for n in range(4, 53))}") == 22


def test_a_taken_port_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(
            nspawn.BoxError, match=f"something else listens on 127.0.0.1:{port}; give the box another port"
        ):
            nspawn.start(Box("onecopy-b", tmp_path, port))


def test_a_missing_base_is_refused(tmp_path: Path) -> None:
    with pytest.raises(nspawn.BoxError, match="no base root"):
        nspawn.create(Box("onecopy-b", tmp_path / "b", 22299), tmp_path / "none", "key")
    assert not (tmp_path / "b").exists()


def test_known_hosts_hold_one_key_for_each_port(tmp_path: Path) -> None:
    path = tmp_path / "known_hosts"
    for port, key in ((22221, "ssh-ed25519 A"), (2222, "ssh-ed25519 B"), (22221, "ssh-ed25519 C")):
        nspawn.update_known_hosts(path, port, key)
    assert path.read_text().splitlines() == ["[127.0.0.1]:2222 ssh-ed25519 B", "[127.0.0.1]:22221 ssh-ed25519 C"]
    nspawn.update_known_hosts(path, 22221, None)
    assert path.read_text().splitlines() == ["[127.0.0.1]:2222 ssh-ed25519 B"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"state": "running"}, "value of state must be one of"),
        ({"port": "ssh"}, "we were unable to convert to int"),
        (
            {"state": "started"},
            "state is started but all of the following are missing: base, public_key_file, known_hosts",
        ),
    ],
)
def test_the_module_refuses(run_module: Any, arguments: dict[str, Any], message: str) -> None:
    result = run_module("box_instance", **{"name": "onecopy-b", "directory": "/nowhere", "port": 1, **arguments})
    assert result["failed"]
    assert message in result["msg"]


def test_absent_is_nothing_where_nothing_is(run_module: Any, tmp_path: Path) -> None:
    result = run_module("box_instance", name="onecopy-none", directory=str(tmp_path / "none"), port=1, state="absent")
    assert not result["changed"]
    assert result["released"] == []


@pytest.fixture
def hybrid(tmp_path: Path) -> Path:
    for hierarchy in ("unified", "systemd", "memory", "cpu"):
        (tmp_path / hierarchy).mkdir()
        (tmp_path / hierarchy / "cgroup.procs").write_text("")
    return tmp_path


def test_the_hierarchies_of_each_layout(tmp_path: Path, hybrid: Path) -> None:
    assert [path.name for path in cgroups.hierarchies(hybrid)] == ["unified", "systemd", "memory"]
    (hybrid / "cgroup.controllers").write_text("")
    assert cgroups.hierarchies(hybrid) == [hybrid]
    assert cgroups.hierarchies(tmp_path / "none") == []


def test_a_memory_limit_goes_where_the_controller_is(hybrid: Path) -> None:
    (hybrid / "memory/onecopy-b").mkdir()
    limit = hybrid / "memory/onecopy-b/memory.limit_in_bytes"
    limit.write_text("")
    groups = cgroups.create("onecopy-b", 300, hybrid)
    assert [group.parent.name for group in groups] == ["unified", "systemd", "memory"]
    assert limit.read_text() == str(300 << 20)


def test_a_group_that_goes_while_its_members_are_read_has_none(hybrid: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a box's own systemd removes its groups while the box is being ended."""
    for hierarchy in ("unified", "systemd", "memory"):
        (hybrid / hierarchy / "onecopy-b/gone").mkdir(parents=True)
        (hybrid / hierarchy / "onecopy-b/cgroup.procs").write_text("12\n7\n")
    assert cgroups.members("onecopy-b", hybrid) == [7, 12]
    groups = [hybrid / "unified/onecopy-b/gone", hybrid / "unified/onecopy-b/never"]
    monkeypatch.setattr(cgroups, "_tree", lambda group: groups if group.parent.name == "unified" else [])
    (hybrid / "unified/onecopy-b/cgroup.procs").write_text("")
    assert str(hybrid / "unified/onecopy-b") in cgroups.remove("onecopy-b", hybrid, wait_seconds=0)
    assert not groups[0].exists()


@pytest.fixture
def loop_device(disk_path: Path) -> Iterator[tuple[Path, str]]:
    """A file in a directory of its own, on a loop device."""
    if os.geteuid() != 0:
        pytest.skip("loop devices need root; ./onecopy test runs as root")
    image = disk_path / "root/var/image"
    image.parent.mkdir(parents=True)
    image.write_bytes(bytes(1 << 20))
    node = subprocess.run(
        ["losetup", "--find", "--show", str(image)], capture_output=True, text=True, check=True
    ).stdout.strip()
    yield disk_path, node
    if Path(f"/sys/block/{Path(node).name}/loop").exists():
        subprocess.run(["losetup", "--detach", node], check=True)


def test_a_loop_device_is_known_by_its_file_not_by_its_path(loop_device: tuple[Path, str]) -> None:
    directory, node = loop_device
    image = directory / "root/var/image"
    status = image.stat()
    device = loop_devices._kernel_device(status.st_dev)
    assert loop_devices.is_backed_below(directory / "root", "/var/image", device, status.st_ino)
    assert not loop_devices.is_backed_below(directory / "root", "/var/image", device, status.st_ino + 1)
    assert not loop_devices.is_backed_below(directory / "root", "/var/other", device, status.st_ino)
    assert node not in [str(path) for path in loop_devices.backed_below(directory / "elsewhere")]


def test_a_loop_device_is_detached_by_the_root_it_lies_in(loop_device: tuple[Path, str]) -> None:
    directory, node = loop_device
    # Seen from the machine itself the kernel shows the whole path, as if the file lay in a root at /.
    assert node in [str(path) for path in loop_devices.backed_below(Path("/"))]
    assert loop_devices.backed_below(directory / "root") == []
    subprocess.run(["losetup", "--detach", node], check=True)
    assert loop_devices.detach_below(directory) == []
