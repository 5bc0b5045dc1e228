"""The accelerator probe: its payload, its argv, its verdicts, and its deadline on processes that do not end."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import kvm_probe
from ansible.module_utils.onecopy.kvm_probe import Kernel, Outcome

KERNEL = Kernel(Path("/k"), "Linux version")
RAN = kvm_probe.EXIT_CODE


def test_the_payload_is_a_firmware_image_whose_reset_vector_jumps_to_its_start() -> None:
    rom = kvm_probe.payload()
    assert len(rom) == 0x10000
    assert rom[0xFFF0] == 0xE9
    offset = int.from_bytes(rom[0xFFF1:0xFFF3], "little")
    assert (0xFFF0 + 3 + offset) & 0xFFFF == 0


def test_the_payloads_jumps_land_on_instructions() -> None:
    offsets, position = {}, 0
    for hexadecimal, text in kvm_probe._CODE:
        offsets[text.split("  ")[0]] = position
        position += len(bytes.fromhex(hexadecimal))
    assert offsets["mov eax, 0x10"] == 0x18
    assert offsets["mov eax, 7"] == 0x7E
    assert offsets["0xa8: descriptor 0"] == 0xA8
    assert offsets["0xc8: limit and address of the table"] == 0xC8


def test_the_argv() -> None:
    argv = kvm_probe.qemu_argv("qemu", Path("/r"), None)
    assert argv == [
        *["qemu", "-accel", "kvm", "-cpu", "host", "-M", "q35", "-nodefaults", "-no-user-config", "-display", "none"],
        *["-monitor", "none", "-no-reboot", "-serial", "stdio", "-m", "32", "-bios", "/r"],
        *["-device", "isa-debug-exit,iobase=0xf4,iosize=1"],
    ]
    with_kernel = kvm_probe.qemu_argv("qemu", Path("/r"), Kernel(Path("/k"), "m", Path("/i"), "quiet"))
    assert with_kernel[-6:] == ["-kernel", "/k", "-append", "console=ttyS0 panic=-1 quiet", "-initrd", "/i"]


def test_a_guest_can_run_as_another_user_and_never_outlives_the_probe() -> None:
    assert kvm_probe.as_user(["q"], "") == ["setpriv", "--pdeathsig=KILL", "q"]
    assert kvm_probe.as_user(["q"], "root") == [
        "setpriv",
        "--pdeathsig=KILL",
        "--reuid=root",
        "--regid=0",
        "--init-groups",
        "q",
    ]


@pytest.mark.parametrize(
    ("outcome", "kernel", "accelerator", "reason"),
    [
        (Outcome(RAN, "", "", 0.2), None, "kvm", "works"),
        (Outcome(None, "[0.0] Linux version 6.12", "", 0.2), KERNEL, "kvm", "works"),
        (Outcome(None, "", "qemu: warning: x\nKVM internal error. Suberror: 1\n", 0.3), None, "tcg", "internal_error"),
        (Outcome(None, "Linux version 6.12", "KVM internal error. Suberror: 1", 0.3), KERNEL, "tcg", "internal_error"),
        (Outcome(None, "", "", 20.0), None, "tcg", "timed_out"),
        (Outcome(None, "SeaBIOS", "", 20.0), KERNEL, "tcg", "timed_out"),
        (
            Outcome(1, "", "qemu: Could not access KVM kernel module: Permission denied\n", 0.1),
            None,
            "tcg",
            "no_permission",
        ),
        (
            Outcome(1, "", "qemu: warning: y\nqemu: failed to initialize kvm: Device or resource busy\n", 0.1),
            None,
            "tcg",
            "exited",
        ),
        (Outcome(0, "", "", 0.1), None, "tcg", "exited"),
        (Outcome(0, "no such text", "", 0.1), KERNEL, "tcg", "exited"),
    ],
)
def test_verdicts(outcome: Outcome, kernel: Kernel | None, accelerator: str, reason: str) -> None:
    verdict = kvm_probe.judge(outcome, kernel)
    assert (verdict.accelerator, verdict.reason) == (accelerator, reason)
    assert verdict.detail
    assert "\n" not in verdict.detail
    assert "warning" not in verdict.detail


def fake_qemu(tmp_path: Path, script: str) -> str:
    """A program that does what a QEMU was seen to do."""
    path = tmp_path / "qemu"
    path.write_text(f"#!/bin/sh\necho $$ >{tmp_path}/pid\n{script}\n")
    path.chmod(0o755)
    return str(path)


@pytest.mark.parametrize(
    ("script", "reason", "at_most"),
    [
        ("exec sleep 60", "timed_out", 3.0),
        ("trap '' TERM; while :; do :; done", "timed_out", 3.0),
        ("exec >&- 2>&-; exec sleep 60", "timed_out", 8.0),
        ("echo 'KVM internal error. Suberror: 1' >&2; exec sleep 60", "internal_error", 0.9),
        (f"exit {RAN}", "works", 0.9),
        ("echo 'failed to initialize kvm: Permission denied' >&2; exit 1", "no_permission", 0.9),
        ("yes x | head -c 3000000; exit 3", "exited", 3.0),
    ],
)
def test_whatever_qemu_does_the_probe_ends_in_time_and_leaves_nothing(
    tmp_path: Path, script: str, reason: str, at_most: float
) -> None:
    begin = time.monotonic()
    verdict = kvm_probe.probe(qemu=fake_qemu(tmp_path, script), deadline_seconds=1.0, device=Path("/dev/null"))
    assert verdict.reason == reason
    assert time.monotonic() - begin < at_most
    assert not Path(f"/proc/{(tmp_path / 'pid').read_text().strip()}").exists()


def test_no_device_and_no_qemu(tmp_path: Path) -> None:
    assert kvm_probe.probe(qemu="qemu", deadline_seconds=1, device=tmp_path / "none").reason == "no_device"
    assert kvm_probe.probe(qemu="no-such-qemu", deadline_seconds=1, device=Path("/dev/null")).reason == "no_qemu"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"deadline_seconds": "soon"}, "we were unable to convert to float"),
        ({"initrd": "/i"}, "missing parameter(s) required by 'initrd': kernel"),
        ({"accelerator": "kvm"}, "Unsupported parameters"),
    ],
)
def test_the_module_refuses(run_module: Any, arguments: dict[str, Any], message: str) -> None:
    result = run_module("kvm_probe_info", **arguments)
    assert result["failed"]
    assert message in result["msg"]


def test_the_module_reports_and_never_changes(run_module: Any, tmp_path: Path) -> None:
    result = run_module("kvm_probe_info", check_mode=True, qemu="no-such-qemu")
    assert not result["changed"]
    assert result["accelerator"] == "tcg"
    assert result["reason"] in {"no_qemu", "no_device"}
