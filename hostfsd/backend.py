"""The backend channel: asks QEMU to map a file into the guest's DAX window, or to take a mapping away."""

import contextlib
import os
import select
import socket
import time

from hostfsd.vhost_user import (
    BACKEND_SHMEM_MAP,
    BACKEND_SHMEM_UNMAP,
    FLAG_NEED_REPLY,
    SHMEM_REQUEST,
    U64,
    ProtocolError,
    receive,
    send,
)

_WRITABLE = 1


class Aborted(Exception):
    """The device is being stopped while a request waits for QEMU: it is left unfinished, and done again later."""


class Backend:
    """One conversation at a time; the caller serialises. QEMU answers from its main loop, which also stops the device:
    so a wait can be aborted, and an answer that nobody waited for is skipped later."""

    def __init__(self) -> None:
        self._socket: socket.socket | None = None
        self._abort = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self._unread = 0
        self.maps = 0
        self.unmaps = 0
        self.failed = 0
        self.refused_unmaps = 0
        self.map_seconds = 0.0

    def connect(self, sock: socket.socket) -> None:
        if self._socket:
            self._socket.close()
        self._socket = sock
        self._unread = 0

    def abort(self) -> None:
        """Make everybody who waits, now or until `resume`, raise Aborted."""
        os.eventfd_write(self._abort, 1)

    def resume(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._abort)

    def map(self, fd: int, file_offset: int, window_offset: int, length: int) -> None:
        """Map file bytes into the window (all in bytes, multiples of 4096). Raises OSError when QEMU refuses.

        Always writable: QEMU maps read-write whatever is asked, and so a mapping never needs replacing when the guest
        first writes.
        """
        before = time.monotonic()
        answer = self._ask(BACKEND_SHMEM_MAP, file_offset, window_offset, length, _WRITABLE, fd)
        self.map_seconds += time.monotonic() - before
        self.maps += 1
        if answer:
            self.failed += 1
            raise OSError(5, f"QEMU refused to map {length} bytes at {window_offset:#x} of the window")

    def unmap(self, window_offset: int, length: int) -> None:
        """Take away exactly one mapping. A refusal is only counted: QEMU has dropped it already, at a reset."""
        answer = self._ask(BACKEND_SHMEM_UNMAP, 0, window_offset, length, 0, None)
        self.unmaps += 1
        if answer:
            self.refused_unmaps += 1

    def _ask(self, request: int, file_offset: int, window_offset: int, length: int, flags: int, fd: int | None) -> int:
        if self._socket is None:
            raise OSError(5, "QEMU has opened no backend channel")
        payload = SHMEM_REQUEST.pack(0, file_offset, window_offset, length, flags)
        try:
            while self._unread:
                self._answer(self._socket)
            send(self._socket, request, FLAG_NEED_REPLY, payload, fd)
            self._unread += 1
            return self._answer(self._socket)
        except ProtocolError as error:
            raise OSError(5, str(error)) from None

    def _answer(self, sock: socket.socket) -> int:
        waiter = select.poll()
        waiter.register(self._abort, select.POLLIN)
        waiter.register(sock, select.POLLIN)
        ready = {fd for fd, _ in waiter.poll()}
        if sock.fileno() not in ready:
            raise Aborted
        message = receive(sock)
        if message is None:
            raise OSError(5, "QEMU has closed the backend channel")
        message.close()
        self._unread -= 1
        if len(message.payload) != U64.size:
            raise OSError(5, "QEMU answered with no result")
        return int(U64.unpack(message.payload)[0])
