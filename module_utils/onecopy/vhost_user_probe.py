"""Find out by behaviour whether QEMU lets a vhost-user daemon map its files into the guest (protocol feature SHMEM).

QEMU is started, paused, with the device that hostfsd uses; this end answers its opening questions, offers every protocol feature, and
watches whether QEMU takes SHMEM and asks for the windows' sizes.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from .kvm_probe import as_user

(
    GET_FEATURES,
    GET_PROTOCOL_FEATURES,
    SET_PROTOCOL_FEATURES,
    GET_QUEUE_NUM,
    GET_CONFIG,
    GET_MAX_MEM_SLOTS,
    GET_SHMEM_CONFIG,
) = 1, 15, 16, 17, 24, 36, 44
SHMEM_BIT = 22
_PROTOCOL_FEATURE_BIT = 30
_VERSION_1_BIT = 32
# MQ, REPLY_ACK, BACKEND_REQ, CONFIG, BACKEND_SEND_FD, CONFIGURE_MEM_SLOTS, SHMEM
_OFFERED = sum(1 << bit for bit in (0, 3, 5, 9, 10, 15, SHMEM_BIT))
_HEADER = struct.Struct("<III")
_REPLY = 0x5
_NEED_REPLY = 0x8
_ANSWERS = {
    GET_FEATURES: 1 << _PROTOCOL_FEATURE_BIT | 1 << _VERSION_1_BIT,
    GET_PROTOCOL_FEATURES: _OFFERED,
    GET_QUEUE_NUM: 2,
    GET_MAX_MEM_SLOTS: 8,
}


@dataclass(frozen=True, slots=True)
class Finding:
    """Whether the feature is there; ``reason`` is one line."""

    supported: bool
    reason: str


def qemu_argv(qemu: str, socket_path: Path) -> list[str]:
    """Return the argv of a paused guest with the device, and nothing to run."""
    argv = [
        qemu,
        "-accel",
        "tcg",
        "-M",
        "q35,memory-backend=m0",
        "-m",
        "32",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
        "-S",
    ]
    argv += [
        "-monitor",
        "none",
        "-object",
        "memory-backend-memfd,id=m0,size=32M,share=on",
        "-chardev",
        f"socket,id=c0,path={socket_path}",
    ]
    return [*argv, "-device", "vhost-user-test-device-pci,virtio-id=26,num_vqs=2,vq_size=128,config_size=40,chardev=c0"]


def answer(request: int, flags: int, payload: bytes) -> bytes | None:
    """Return the reply to one message, or None when there is none."""
    if request in _ANSWERS:
        body = struct.pack("<Q", _ANSWERS[request])
    elif request == GET_CONFIG:
        body = payload
    elif request == GET_SHMEM_CONFIG:
        body = struct.pack("<II256Q", 0, 0, *[0] * 256)
    elif flags & _NEED_REPLY:
        body = bytes(8)
    else:
        return None
    return _HEADER.pack(request, _REPLY, len(body)) + body


def converse(connection: socket.socket) -> bool:
    """Answer QEMU until it asks for the windows' sizes (True) or says no more (False)."""
    taken = False
    while True:
        header = _receive(connection, _HEADER.size)
        if header is None:
            return False
        request, flags, size = _HEADER.unpack(header)
        payload = _receive(connection, size) if size else b""
        if payload is None:
            return False
        if request == SET_PROTOCOL_FEATURES:
            taken = bool(struct.unpack_from("<Q", payload)[0] >> SHMEM_BIT & 1)
        reply = answer(request, flags, payload)
        if reply is not None:
            connection.sendall(reply)
        if request == GET_SHMEM_CONFIG:
            return taken


def _receive(connection: socket.socket, size: int) -> bytes | None:
    data = b""
    while len(data) < size:
        try:
            more = connection.recv(size - len(data))
        except OSError:
            return None
        if not more:
            return None
        data += more
    return data


def probe(qemu: str, deadline_seconds: float = 10.0) -> Finding:
    """Start QEMU with the device and see; QEMU is gone when this returns."""
    with tempfile.TemporaryDirectory(prefix="onecopy-probe-") as directory, socket.socket(socket.AF_UNIX) as listener:
        path = Path(directory) / "s"
        listener.bind(str(path))
        listener.listen(1)
        listener.settimeout(deadline_seconds)
        return _observe(as_user(qemu_argv(qemu, path), ""), listener, deadline_seconds)


def _observe(argv: Sequence[str], listener: socket.socket, deadline_seconds: float) -> Finding:
    with (
        tempfile.TemporaryFile() as errors,
        subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=errors, stderr=errors) as process,
    ):
        try:
            # A QEMU without the device ends before it connects: nobody else would tell the listener.
            listener.settimeout(0.2)
            connection = None
            for _ in range(int(deadline_seconds / 0.2)):
                try:
                    connection, _ = listener.accept()
                    break
                except TimeoutError:
                    if process.poll() is not None:
                        break
            supported = False
            if connection is not None:
                with connection:
                    connection.settimeout(deadline_seconds)
                    supported = converse(connection)
        finally:
            process.kill()
        errors.seek(0)
        said = [line for line in errors.read().decode("utf-8", "replace").splitlines() if line.strip()]
    if supported:
        return Finding(True, "QEMU takes SHMEM and asks for the windows' sizes")
    cause = f": {said[0]}" if said else ""
    return Finding(
        False,
        f"this QEMU cannot map a vhost-user daemon's files into a guest{cause}; QEMU 11.1 can (Debian: trixie-backports, Ubuntu 26.04: qemu-system-x86-hwe); "
        "where it cannot be had (Ubuntu 24.04), gfs_pmem_dax is the nearest stand-in",
    )
