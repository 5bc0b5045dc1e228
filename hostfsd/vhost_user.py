"""The vhost-user wire format (QEMU's docs/interop/vhost-user.rst): message numbers, feature bits, receive and send."""

import array
import contextlib
import os
import socket
import struct
from typing import NamedTuple

GET_FEATURES, SET_FEATURES, SET_OWNER, RESET_OWNER, SET_MEM_TABLE = 1, 2, 3, 4, 5
SET_VRING_NUM, SET_VRING_ADDR, SET_VRING_BASE, GET_VRING_BASE = 8, 9, 10, 11
SET_VRING_KICK, SET_VRING_CALL, SET_VRING_ERR = 12, 13, 14
GET_PROTOCOL_FEATURES, SET_PROTOCOL_FEATURES, GET_QUEUE_NUM, SET_VRING_ENABLE = 15, 16, 17, 18
SET_BACKEND_REQ_FD, GET_CONFIG, SET_CONFIG = 21, 24, 25
RESET_DEVICE, GET_SHMEM_CONFIG = 34, 44

BACKEND_SHMEM_MAP, BACKEND_SHMEM_UNMAP = 9, 10

FLAG_VERSION, FLAG_REPLY, FLAG_NEED_REPLY = 1, 4, 8

PROTOCOL_MQ, PROTOCOL_REPLY_ACK, PROTOCOL_BACKEND_REQ = 1 << 0, 1 << 3, 1 << 5
PROTOCOL_CONFIG, PROTOCOL_BACKEND_SEND_FD, PROTOCOL_SHMEM = 1 << 9, 1 << 10, 1 << 22

FEATURE_INDIRECT_DESC, FEATURE_EVENT_IDX = 1 << 28, 1 << 29
FEATURE_PROTOCOL, FEATURE_VERSION_1 = 1 << 30, 1 << 32

MAX_PAYLOAD = 4096
MAX_DESCRIPTORS = 16

HEADER = struct.Struct("<III")
U64 = struct.Struct("<Q")
U32_PAIR = struct.Struct("<II")
VRING_ADDR = struct.Struct("<IIQQQQ")
MEMORY_REGION = struct.Struct("<QQQQ")
CONFIG_HEADER = struct.Struct("<III")
SHMEM_CONFIG = struct.Struct("<II256Q")
SHMEM_REQUEST = struct.Struct("<B7xQQQQ")


class ProtocolError(Exception):
    """The peer sent something that is no valid vhost-user message, or one that does not fit the state."""


class Message(NamedTuple):
    request: int
    flags: int
    payload: bytes
    fds: list[int]

    def close(self) -> None:
        """Close the descriptors that nobody took over."""
        for fd in self.fds:
            with contextlib.suppress(OSError):
                os.close(fd)


def _fill(sock: socket.socket, size: int, fds: list[int]) -> bytes:
    data = b""
    while len(data) < size:
        part, ancillary, flags, _ = sock.recvmsg(size - len(data), socket.CMSG_SPACE(4 * MAX_DESCRIPTORS))
        for level, kind, control in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                fds += array.array("i", control[: len(control) // 4 * 4])
        if flags & socket.MSG_CTRUNC:
            raise ProtocolError(f"more than {MAX_DESCRIPTORS} descriptors in one message")
        if not part:
            return data
        data += part
    return data


def receive(sock: socket.socket) -> Message | None:
    """Return the next message, None when the peer has closed the connection between two messages."""
    fds: list[int] = []
    try:
        header = _fill(sock, HEADER.size, fds)
        if not header:
            return None
        if len(header) < HEADER.size:
            raise ProtocolError("connection closed within a header")
        request, flags, size = HEADER.unpack(header)
        if size > MAX_PAYLOAD:
            raise ProtocolError(f"message {request} claims {size} bytes, more than {MAX_PAYLOAD}")
        payload = _fill(sock, size, fds) if size else b""
        if len(payload) < size:
            raise ProtocolError(f"connection closed within message {request}")
    except BaseException:
        Message(0, 0, b"", fds).close()
        raise
    return Message(request, flags, payload, fds)


def send(sock: socket.socket, request: int, flags: int, payload: bytes, fd: int | None = None) -> None:
    """Send one message, with at most one descriptor."""
    data = HEADER.pack(request, FLAG_VERSION | flags, len(payload)) + payload
    control = [] if fd is None else [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
    sent = sock.sendmsg([data], control)
    if sent < len(data):
        sock.sendall(data[sent:])
