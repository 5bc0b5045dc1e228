"""Decide whether guests can run under KVM here, by running one.

A ``/dev/kvm`` that opens proves nothing: there are hosts where VMs and vCPUs are made and a guest then hangs or dies with "KVM internal
error". So a payload runs under KVM with a deadline. The built-in payload is a 64 KiB firmware image (no BIOS runs) that goes from real
mode to long mode with paging, executes a BMI2 instruction when the CPU has it, as the decompressor of every stock kernel does, counts
fifty million rounds (a tenth of a second or less on hardware, minutes where each instruction is emulated), and then writes to QEMU's debug-exit port.
A real guest kernel that prints a marker on its serial console can be given instead.
"""

from __future__ import annotations

import os
import pwd
import selectors
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Reason = Literal["works", "no_device", "no_permission", "timed_out", "internal_error", "exited", "no_qemu"]

_DONE = 0x2A
EXIT_CODE = _DONE << 1 | 1
_KILL_SECONDS = 5.0
_OUTPUT_BYTES = 64 * 1024

# Linear address 0xFFFF0000 + offset. Descriptors have their accessed bit set: the CPU would have to write it, and this is ROM.
_CODE: Sequence[tuple[str, str]] = (
    ("fa", "cli                              16 bit, real mode"),
    ("2e 66 0f 01 16 c8 00", "lgdtl cs:[0xc8]"),
    ("0f 20 c0", "mov eax, cr0"),
    ("0c 01", "or al, 1                         PE"),
    ("0f 22 c0", "mov cr0, eax"),
    ("66 ea 18 00 ff ff 08 00", "jmp far 0x08:0xffff0018"),
    ("b8 10 00 00 00", "mov eax, 0x10                    32 bit, protected mode"),
    ("8e d8", "mov ds, eax"),
    ("8e c0", "mov es, eax"),
    ("31 c0", "xor eax, eax"),
    ("bf 00 10 00 00", "mov edi, 0x1000                  three page tables, emptied"),
    ("b9 00 0c 00 00", "mov ecx, 0xc00"),
    ("fc", "cld"),
    ("f3 ab", "rep stosd"),
    ("c7 05 00 10 00 00 03 20 00 00", "mov dword [0x1000], 0x2003       PML4[0]"),
    ("c7 05 18 20 00 00 03 30 00 00", "mov dword [0x2018], 0x3003       PDPT[3]: 3 to 4 GiB"),
    ("c7 05 f8 3f 00 00 83 00 e0 ff", "mov dword [0x3ff8], 0xffe00083   PD[511]: the 2 MiB page of this ROM"),
    ("b8 20 00 00 00", "mov eax, 0x20                    PAE"),
    ("0f 22 e0", "mov cr4, eax"),
    ("b8 00 10 00 00", "mov eax, 0x1000"),
    ("0f 22 d8", "mov cr3, eax"),
    ("b9 80 00 00 c0", "mov ecx, 0xc0000080              EFER"),
    ("0f 32", "rdmsr"),
    ("0d 00 01 00 00", "or eax, 0x100                    LME"),
    ("0f 30", "wrmsr"),
    ("0f 20 c0", "mov eax, cr0"),
    ("0d 00 00 00 80", "or eax, 0x80000000               PG"),
    ("0f 22 c0", "mov cr0, eax"),
    ("ea 7e 00 ff ff 18 00", "jmp far 0x18:0xffff007e"),
    ("b8 07 00 00 00", "mov eax, 7                       64 bit, long mode"),
    ("31 c9", "xor ecx, ecx"),
    ("0f a2", "cpuid"),
    ("0f ba e3 08", "bt ebx, 8                        BMI2?"),
    ("73 05", "jnc +5"),
    ("c4 e2 79 f7 d3", "shlx edx, ebx, eax"),
    ("b9 80 f0 fa 02", "mov ecx, 50000000"),
    ("ff c9", "dec ecx"),
    ("75 fc", "jnz -4"),
    (f"b0 {_DONE:02x}", "mov al, DONE"),
    ("e6 f4", "out 0xf4, al                     QEMU exits with (DONE << 1) | 1"),
    ("f4", "hlt"),
    ("eb fd", "jmp -3"),
    ("00 00 00 00 00 00", "alignment"),
    ("00 00 00 00 00 00 00 00", "0xa8: descriptor 0"),
    ("ff ff 00 00 00 9b cf 00", "0x08: code, 32 bit, flat"),
    ("ff ff 00 00 00 93 cf 00", "0x10: data, flat"),
    ("ff ff 00 00 00 9b af 00", "0x18: code, 64 bit"),
    ("1f 00 a8 00 ff ff", "0xc8: limit and address of the table"),
)
_ROM_BYTES = 0x10000
_RESET = 0xFFF0


def payload() -> bytes:
    """Return the firmware image: code at offset 0, and at the reset vector a jump to it."""
    code = b"".join(bytes.fromhex(hexadecimal) for hexadecimal, _ in _CODE)
    jump = b"\xe9" + (_ROM_BYTES - _RESET - 3).to_bytes(2, "little")
    return (code.ljust(_RESET, b"\xf4") + jump).ljust(_ROM_BYTES, b"\xf4")


@dataclass(frozen=True, slots=True)
class Kernel:
    """A real guest kernel: proved when ``marker`` appears on its serial console."""

    kernel: Path
    marker: str
    initrd: Path | None = None
    append: str = ""


@dataclass(frozen=True, slots=True)
class Outcome:
    """How QEMU ended: ``exit_code`` is None when it was ended from outside."""

    exit_code: int | None
    console: str
    stderr: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Verdict:
    """``kvm`` or ``tcg`` and why; ``detail`` is one line for a person."""

    accelerator: Literal["kvm", "tcg"]
    reason: Reason
    detail: str
    seconds: float


def qemu_argv(qemu: str, rom: Path, kernel: Kernel | None, accelerator: str = "kvm") -> list[str]:
    """Return the argv of the probe's guest."""
    argv = [
        qemu,
        "-accel",
        accelerator,
        "-cpu",
        "host" if accelerator == "kvm" else "max",
        "-M",
        "q35",
        "-nodefaults",
        "-no-user-config",
    ]
    argv += ["-display", "none", "-monitor", "none", "-no-reboot", "-serial", "stdio"]
    if kernel is None:
        return [*argv, "-m", "32", "-bios", str(rom), "-device", "isa-debug-exit,iobase=0xf4,iosize=1"]
    argv += ["-m", "256", "-kernel", str(kernel.kernel), "-append", f"console=ttyS0 panic=-1 {kernel.append}".strip()]
    return argv if kernel.initrd is None else [*argv, "-initrd", str(kernel.initrd)]


def as_user(argv: Sequence[str], user: str) -> list[str]:
    """Return ``argv`` run as ``user``, and ended by the kernel when the process that started it ends."""
    change = [f"--reuid={user}", f"--regid={pwd.getpwnam(user).pw_gid}", "--init-groups"] if user else []
    return ["setpriv", "--pdeathsig=KILL", *change, *argv]


def _finished(console: str, stderr: str, kernel: Kernel | None) -> bool:
    return "KVM internal error" in stderr or (kernel is not None and kernel.marker in console)


def observe(argv: Sequence[str], kernel: Kernel | None, deadline_seconds: float) -> Outcome:
    """Run ``argv`` until it ends, has said enough, or the deadline is over; it is gone when this returns."""
    begin = time.monotonic()
    output = {"stdout": b"", "stderr": b""}
    with subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ, "stdout")
            selector.register(process.stderr, selectors.EVENT_READ, "stderr")
            try:
                while selector.get_map() and not _finished(_text(output["stdout"]), _text(output["stderr"]), kernel):
                    left = begin + deadline_seconds - time.monotonic()
                    if left <= 0:
                        break
                    for key, _ in selector.select(left):
                        data = os.read(key.fd, 4096)
                        output[key.data] = (output[key.data] + data)[-_OUTPUT_BYTES:]
                        if not data:
                            selector.unregister(key.fileobj)
                exit_code = process.wait(_KILL_SECONDS) if not selector.get_map() else None
            except subprocess.TimeoutExpired:
                exit_code = None
            finally:
                process.kill()
    return Outcome(exit_code, _text(output["stdout"]), _text(output["stderr"]), time.monotonic() - begin)


def _text(data: bytes) -> str:
    return data.decode("utf-8", "replace")


def _error_line(stderr: str) -> str:
    lines = [line.strip() for line in stderr.splitlines() if line.strip() and "warning:" not in line]
    return lines[0] if lines else "nothing on stderr"


def judge(outcome: Outcome, kernel: Kernel | None) -> Verdict:
    """Turn what was seen into a verdict."""
    if "KVM internal error" in outcome.stderr:
        return Verdict(
            "tcg",
            "internal_error",
            f"/dev/kvm opens, but a guest stops with: {_error_line(outcome.stderr)}",
            outcome.seconds,
        )
    proved = outcome.exit_code == EXIT_CODE if kernel is None else kernel.marker in outcome.console
    if proved:
        return Verdict("kvm", "works", f"a guest ran under KVM in {outcome.seconds:.1f} s", outcome.seconds)
    if "ermission denied" in outcome.stderr:
        return Verdict("tcg", "no_permission", _error_line(outcome.stderr), outcome.seconds)
    if outcome.exit_code is None:
        return Verdict(
            "tcg",
            "timed_out",
            f"/dev/kvm opens, but a guest had not run after {outcome.seconds:.0f} s",
            outcome.seconds,
        )
    return Verdict(
        "tcg", "exited", f"QEMU ended with rc {outcome.exit_code}: {_error_line(outcome.stderr)}", outcome.seconds
    )


def probe(
    *, qemu: str, deadline_seconds: float, user: str = "", kernel: Kernel | None = None, device: Path = Path("/dev/kvm")
) -> Verdict:
    """Run a guest under KVM and decide; never longer than the deadline and a few seconds, never leaving a process."""
    if not device.exists():
        return Verdict(
            "tcg",
            "no_device",
            f"{device} does not exist: no hardware virtualisation here, or its module is not loaded",
            0.0,
        )
    if shutil.which(qemu) is None:
        return Verdict("tcg", "no_qemu", f"{qemu} is not installed", 0.0)
    with tempfile.NamedTemporaryFile(prefix="onecopy-probe-", suffix=".rom") as rom:
        rom.write(payload())
        rom.flush()
        os.chmod(rom.name, 0o644)
        outcome = observe(as_user(qemu_argv(qemu, Path(rom.name), kernel), user), kernel, deadline_seconds)
    return judge(outcome, kernel)
