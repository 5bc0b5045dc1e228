"""What a host can run, asked of its programs' own words."""

from __future__ import annotations

import json
import socket
import struct
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import capabilities, vhost_user_probe
from ansible.module_utils.onecopy.systems import SYSTEMS

DATA = Path(__file__).resolve().parents[2] / "data/environment"


def test_virtiofsd_is_judged_by_its_help() -> None:
    found = capabilities.virtiofsd("/v", (DATA / "virtiofsd-help-1.13.2.txt").read_text(), "virtiofsd 1.13.2")
    assert found["supported"]
    assert set(capabilities.VIRTIOFSD_OPTIONS) <= set(found["options"])
    assert "--allow-mmap" in found["options"]


def test_virtiofsd_without_an_option_is_not_supported() -> None:
    text = (DATA / "virtiofsd-help-1.13.2.txt").read_text().replace("--cache", "--hoard")
    assert capabilities.virtiofsd("/v", text) == {"supported": False, "reason": "/v has no --cache"}
    assert capabilities.virtiofsd("/v", None) == {"supported": False, "reason": "/v is not installed"}


def test_qemu_is_judged_by_its_devices() -> None:
    devices = (DATA / "qemu-device-help-11.1.3.txt").read_text()
    found = capabilities.qemu("q", (DATA / "qemu-version-11.1.3.txt").read_text(), devices)
    assert found["qemu"]["version"].startswith("11.1.3")
    assert found["virtio_pmem"]["supported"]
    assert not capabilities.qemu("q", "QEMU emulator version 1", devices.replace("virtio-pmem-pci", "x"))[
        "virtio_pmem"
    ]["supported"]
    assert capabilities.qemu("q", None, None)["qemu"] == {"supported": False, "reason": "q is not installed"}


def test_every_need_of_every_system_is_answered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    document = capabilities.discover(
        qemu_binary="no-such-qemu", virtiofsd_paths=["/none/v"], accelerator="tcg", accelerator_reason="r"
    )
    for system in SYSTEMS.values():
        # Its guests' kernel is asked when there is one.
        for need in (need for need in system.needs if not need.startswith("guest_")):
            assert document[need]["supported"] is False
            assert document[need]["reason"]


def test_the_document_is_written_once(tmp_path: Path) -> None:
    path = tmp_path / "capabilities.json"
    assert capabilities.write(path, {"a": 1}, check_mode=True)
    assert not path.exists()
    assert capabilities.write(path, {"a": 1})
    assert not capabilities.write(path, {"a": 1})
    assert capabilities.write(path, {"a": 2})
    assert json.loads(path.read_text()) == {"a": 2}


def test_the_module_names_a_directory_that_is_not_there(run_module: Any, tmp_path: Path) -> None:
    arguments = {
        "accelerator": "tcg",
        "accelerator_reason": "r",
        "qemu": "no-such-qemu",
        "virtiofsd_paths": ["/none/v"],
    }
    result = run_module("host_capabilities", path=str(tmp_path / "none/c.json"), **arguments)
    assert result["failed"]
    assert "No such file or directory" in result["msg"]
    assert run_module("host_capabilities", path=str(tmp_path / "c.json"), **arguments)["changed"]
    assert not run_module("host_capabilities", path=str(tmp_path / "c.json"), **arguments)["changed"]
    assert run_module("host_capabilities", path="/x", **{**arguments, "accelerator": "xen"})["failed"]


# What a try of the host makes, and what runs it.
MAKING = ("losetup", "mount", "umount", "systemctl", "systemd-run", "mkfs.erofs", "dd")


def test_check_mode_makes_nothing(run_module: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    tools, called = tmp_path / "tools", tmp_path / "called"
    tools.mkdir()
    for name in MAKING:
        (tools / name).write_text(f"#!/bin/sh\necho {name} >>{called}\nexit 1\n")
        (tools / name).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:/usr/bin:/bin")
    path = tmp_path / "capabilities.json"
    arguments = {
        "path": str(path),
        "accelerator": "tcg",
        "accelerator_reason": "r",
        "qemu": "no-such-qemu",
        "virtiofsd_paths": ["/none/v"],
    }
    document = run_module("host_capabilities", check_mode=True, **arguments)["capabilities"]
    assert not called.exists()
    assert not path.exists()
    for need in capabilities.TRIED:
        assert document[need] == {"supported": False, "tried": False, "reason": capabilities.NOT_TRIED}

    # On a prepared host the answer of the role's own try is repeated.
    path.write_text(json.dumps({"device_limit": {"supported": True, "reason": ""}}))
    document = run_module("host_capabilities", check_mode=True, **arguments)["capabilities"]
    assert document["device_limit"] == {"supported": True, "reason": ""}
    assert not called.exists()

    # Outside of check mode the same tools are called: they would have been seen.
    assert run_module("host_capabilities", **arguments)["changed"]
    assert {"losetup", "mkfs.erofs"} <= set(called.read_text().split())


HEADER = struct.Struct("<III")


def front_end(connection: socket.socket, features: int, *, asks_for_windows: bool) -> None:
    """Ask what QEMU asks when the device is made."""
    for request, payload in (
        (1, b""),
        (15, b""),
        (16, struct.pack("<Q", features)),
        (17, b""),
        *([(44, b"")] if asks_for_windows else []),
    ):
        connection.sendall(HEADER.pack(request, 1, len(payload)) + payload)
        if request != 16:
            size = HEADER.unpack(connection.recv(HEADER.size))[2]
            while size:
                size -= len(connection.recv(size))
    connection.close()


@pytest.mark.parametrize(
    ("features", "asks_for_windows", "supported"),
    [(1 << 22 | 1, True, True), (1, True, False), (1 << 22 | 1, False, False)],
)
def test_shmem_counts_when_it_is_taken_and_used(features: int, asks_for_windows: bool, supported: bool) -> None:
    ours, theirs = socket.socketpair()
    thread = threading.Thread(target=front_end, args=(theirs, features), kwargs={"asks_for_windows": asks_for_windows})
    thread.start()
    with ours:
        assert vhost_user_probe.converse(ours) is supported
    thread.join()


def test_a_qemu_without_the_device_is_not_waited_for(tmp_path: Path) -> None:
    qemu = tmp_path / "qemu"
    qemu.write_text(
        f"#!{sys.executable}\nimport sys; sys.exit(\"qemu: 'vhost-user-test-device-pci' is not a valid device model name\")\n"
    )
    qemu.chmod(0o755)
    finding = vhost_user_probe.probe(str(qemu))
    assert not finding.supported
    assert "is not a valid device model name; QEMU 11.1 can" in finding.reason
