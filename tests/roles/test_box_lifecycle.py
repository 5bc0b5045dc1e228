"""A real box through its life: what it holds is released when it stops, also when it was killed, and starting again is quick."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import cgroups, loop_devices, nspawn
from ansible.module_utils.onecopy.nspawn import Box

PROJECT = Path(__file__).resolve().parents[2]
STATE = PROJECT / ".onecopy"
PORT = 22215
RESTART_SECONDS = 15.0


@pytest.fixture(scope="module")
def base() -> Path:
    """The base root and the SSH key that every box of this checkout uses."""
    argv = ["ansible-playbook", "playbooks/box.yml", "-e", '{"box_instances": []}']
    subprocess.run(argv, cwd=PROJECT, check=True, capture_output=True)
    return next((STATE / "box").glob("base-*[0-9a-f]"))


def bring(box: Box, state: str, base: Path) -> tuple[bool, list[str]]:
    key, known = STATE / "ssh/id_ed25519.pub", box.directory.parent / "known_hosts"
    return nspawn.ensure(box, state, base=base, public_key_file=key, known_hosts=known, check_mode=False)


@pytest.fixture
def box(disk_path: Path, base: Path) -> Iterator[Box]:
    box = Box("onecopy-life", disk_path / "onecopy-life", PORT, memory_mib=1024)
    assert bring(box, "started", base)[0]
    yield box
    bring(box, "absent", base)


def in_box(box: Box, command: str) -> str:
    options = ["-i", str(STATE / "ssh/id_ed25519"), "-o", f"UserKnownHostsFile={box.directory.parent}/known_hosts"]
    argv = ["ssh", *options, "-o", "BatchMode=yes", "-p", str(PORT), "root@127.0.0.1", command]
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()


def attach(box: Box) -> str:
    return in_box(box, "fallocate -l 8M /var/image && losetup --find --show /var/image")


def test_stopping_releases_and_starting_again_is_quick(box: Box, base: Path) -> None:
    node = attach(box)
    assert [str(found) for found in loop_devices.backed_below(box.root)] == [node]
    assert bring(box, "started", base) == (False, [])
    changed, released = bring(box, "stopped", base)
    assert changed
    assert node in released
    assert loop_devices.backed_below(box.root) == []
    assert nspawn.running_pid(box) is None
    assert cgroups.members(box.machine) == []
    assert bring(box, "stopped", base) == (False, [])
    begin = time.monotonic()
    assert bring(box, "started", base)[0]
    assert time.monotonic() - begin < RESTART_SECONDS
    assert in_box(box, "stat -c %s /var/image") == str(8 << 20)


def test_a_killed_box_leaves_nothing_behind_once_it_is_stopped(box: Box, base: Path) -> None:
    node = attach(box)
    # Something that outlives its box: the record of the pid is all that is left to go by.
    pid = nspawn.running_pid(box)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    deadline = time.monotonic() + 10
    while nspawn.running_pid(box) is not None and time.monotonic() < deadline:
        time.sleep(0.05)
    changed, released = bring(box, "stopped", base)
    assert changed
    assert node in released
    assert cgroups.members(box.machine) == []
    assert loop_devices.backed_below(box.root) == []


def test_another_boxs_loop_devices_are_not_touched(
    box: Box, base: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    image = box.directory.parent / "elsewhere"
    image.write_bytes(bytes(1 << 20))
    argv = ["losetup", "--find", "--show", str(image)]
    node = subprocess.run(argv, capture_output=True, text=True, check=True).stdout.strip()
    try:
        bring(box, "stopped", base)
        assert Path(f"/sys/block/{Path(node).name}/loop/backing_file").exists()
    finally:
        subprocess.run(["losetup", "--detach", node], check=True)


def test_absent_leaves_no_trace(box: Box, base: Path) -> None:
    known = box.directory.parent / "known_hosts"
    assert f":{PORT} " in known.read_text()
    assert bring(box, "absent", base)[0]
    assert not box.directory.exists()
    assert known.read_text() == ""
    assert not any((hierarchy / box.machine).exists() for hierarchy in cgroups.hierarchies())
    assert not Path("/run/systemd/nspawn/propagate", box.machine).exists()
    assert bring(box, "absent", base) == (False, [])


def test_a_box_that_cannot_boot_is_told_with_its_last_words_and_cleaned_up(disk_path: Path, base: Path) -> None:
    broken = Box("onecopy-broken", disk_path / "onecopy-broken", PORT)
    nspawn.create(broken, base, "ssh-ed25519 none")
    (broken.root / "sbin").unlink()
    (broken.root / "usr/sbin/init").unlink(missing_ok=True)
    (broken.root / "usr/lib/systemd/systemd").unlink()
    with pytest.raises(nspawn.BoxError, match=r"ended while starting; its console's last lines: .+"):
        nspawn.start(broken)
    assert cgroups.members(broken.machine) == []
    assert not broken.pid_file.exists() or json.loads(broken.pid_file.read_text())["pid"] > 0
    assert bring(broken, "absent", base)[0]
