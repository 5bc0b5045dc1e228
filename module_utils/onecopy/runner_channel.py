"""Where the runner listens: a virtio-serial port in a guest, a unix socket in the ``hfs`` chroot. One host at a time."""

from __future__ import annotations

import fcntl
import os
import select
import signal
import socket


class PortChannel:
    """A virtio-serial port. With no host connected it reads as end of file at once, so waiting is for the kernel's SIGIO."""

    def __init__(self, path: str) -> None:
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGIO})
        self._fd = os.open(path, os.O_RDWR | os.O_NONBLOCK)
        fcntl.fcntl(self._fd, fcntl.F_SETOWN, os.getpid())
        fcntl.fcntl(self._fd, fcntl.F_SETFL, fcntl.fcntl(self._fd, fcntl.F_GETFL) | os.O_ASYNC)

    def fileno(self) -> int:
        """The descriptor to watch for hang-up."""
        return self._fd

    def is_gone(self) -> bool:
        """Whether no host is connected."""
        poll = select.poll()
        poll.register(self._fd, 0)
        return any(event & select.POLLHUP for _, event in poll.poll(0))

    def wait_for_host(self) -> None:
        """Sleep until a host is connected."""
        while self.is_gone():
            signal.sigtimedwait({signal.SIGIO}, 60)

    def read(self) -> bytes:
        """What came, waiting for it; empty when the host hung up."""
        while True:
            _wait(self._fd, select.POLLIN)
            try:
                return os.read(self._fd, 65536)
            except BlockingIOError:
                continue

    def write(self, data: bytes) -> None:
        """Write all of ``data``; raises BrokenPipeError when the host hung up."""
        while data:
            if _wait(self._fd, select.POLLOUT) & select.POLLHUP:
                raise BrokenPipeError("the host hung up")
            try:
                data = data[os.write(self._fd, data) :]
            except BlockingIOError:
                continue


class SocketChannel:
    """A listening unix socket; the same interface."""

    def __init__(self, path: str) -> None:
        self._listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._listener.bind(path)
        self._listener.listen(1)
        self._connection: socket.socket | None = None

    def fileno(self) -> int:
        """The descriptor to watch for hang-up."""
        return -1 if self._connection is None else self._connection.fileno()

    def is_gone(self) -> bool:
        """Whether no host is connected."""
        if self._connection is None:
            return True
        poll = select.poll()
        poll.register(self._connection.fileno(), 0)
        return bool(poll.poll(0))

    def wait_for_host(self) -> None:
        """Sleep until a host is connected."""
        if self._connection is not None:
            self._connection.close()
        self._connection, _ = self._listener.accept()

    def read(self) -> bytes:
        """What came, waiting for it; empty when the host hung up."""
        assert self._connection is not None
        try:
            return self._connection.recv(65536)
        except ConnectionResetError:
            return b""

    def write(self, data: bytes) -> None:
        """Write all of ``data``; raises BrokenPipeError when the host hung up."""
        assert self._connection is not None
        self._connection.sendall(data)


def find_port(name: str) -> str:
    """The device of the virtio-serial port ``name``; there is no udev in the guest that would link it. Raises FileNotFoundError."""
    top = "/sys/class/virtio-ports"
    for entry in os.listdir(top):
        with open(f"{top}/{entry}/name", encoding="ascii") as file:
            if file.read().strip() == name:
                return f"/dev/{entry}"
    raise FileNotFoundError(f"no virtio-serial port is called {name}")


def _wait(fd: int, events: int) -> int:
    poll = select.poll()
    poll.register(fd, events)
    return poll.poll()[0][1]
