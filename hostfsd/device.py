"""The vhost-user device: answers QEMU on the control socket, starts and stops the queues.

The control thread must never wait for a thread that waits for QEMU: QEMU answers the backend channel from the very loop
that waits for this thread.
"""

import contextlib
import os
import socket
import struct
import sys
from collections.abc import Callable

from hostfsd import vhost_user as vu
from hostfsd.backend import Backend
from hostfsd.counters import Counters
from hostfsd.memory import GuestMemory
from hostfsd.session import Session
from hostfsd.virtqueue import Virtqueue
from hostfsd.worker import Worker

_TAG_SIZE = 36
_CONFIG_MAX = 256
_NO_DESCRIPTOR = 1 << 8


class NoWindow(Exception):
    """This QEMU cannot map files into a guest."""


class Queue:
    """What QEMU has told about one queue so far."""

    def __init__(self) -> None:
        self.size = 0
        self.base = 0
        self.addresses: tuple[int, int, int] | None = None
        self.enabled = False
        self.kick = -1
        self.call = -1
        self.worker: Worker | None = None
        self.counters = Counters()


class Device:
    """One virtio-fs device of one QEMU, for the lifetime of its connection."""

    def __init__(self, sock: socket.socket, session: Session, backend: Backend, tag: str, queues: int) -> None:
        self._socket = sock
        self._session = session
        self._backend = backend
        self.queues = [Queue() for _ in range(1 + queues)]
        self._config = tag.encode().ljust(_TAG_SIZE, b"\0") + struct.pack("<I", queues)
        self._config = self._config.ljust(_CONFIG_MAX, b"\0")
        self._memory = GuestMemory([])
        self._features = 0
        self._protocol_features = 0
        self._window_asked = False
        self._window = session.export.window

    @property
    def dax(self) -> bool:
        """Say whether this QEMU has taken the window."""
        return self._window_asked

    def run(self) -> None:
        """Serve until QEMU closes the connection. Raises ProtocolError, NoWindow."""
        while message := vu.receive(self._socket):
            try:
                answer = self._handle(message)
            except struct.error:
                raise vu.ProtocolError(f"message {message.request} of {len(message.payload)} bytes") from None
            finally:
                message.close()
            if answer is not None:
                vu.send(self._socket, message.request, vu.FLAG_REPLY, answer)
            elif message.flags & vu.FLAG_NEED_REPLY:
                vu.send(self._socket, message.request, vu.FLAG_REPLY, vu.U64.pack(0))

    def stop(self) -> None:
        """Stop all queues and store what the guest wrote; afterwards nothing touches the guest's memory."""
        self._backend.abort()
        for queue in self.queues:
            self._stop(queue)
        self._store()
        self._backend.resume()

    # -- messages; None means that there is nothing to answer but an acknowledgement

    def _handle(self, message: vu.Message) -> bytes | None:
        handler = _MESSAGES.get(message.request)
        # Others (SET_OWNER, SET_CONFIG, SET_VRING_ERR, …) change nothing here.
        return handler(self, message) if handler else None

    def _get_features(self, _message: vu.Message) -> bytes:
        return vu.U64.pack(vu.FEATURE_VERSION_1 | vu.FEATURE_PROTOCOL | vu.FEATURE_INDIRECT_DESC | vu.FEATURE_EVENT_IDX)

    def _set_features(self, message: vu.Message) -> None:
        self._features = vu.U64.unpack(message.payload)[0]

    def _get_protocol_features(self, _message: vu.Message) -> bytes:
        offered = vu.PROTOCOL_MQ | vu.PROTOCOL_REPLY_ACK | vu.PROTOCOL_CONFIG
        if self._window.size:
            offered |= vu.PROTOCOL_BACKEND_REQ | vu.PROTOCOL_BACKEND_SEND_FD | vu.PROTOCOL_SHMEM
        return vu.U64.pack(offered)

    def _set_protocol_features(self, message: vu.Message) -> None:
        self._protocol_features = vu.U64.unpack(message.payload)[0]

    def _get_queue_count(self, _message: vu.Message) -> bytes:
        return vu.U64.pack(len(self.queues))

    def _get_window(self, _message: vu.Message) -> bytes:
        self._window_asked = True
        return vu.SHMEM_CONFIG.pack(1 if self._window.size else 0, 0, self._window.size, *[0] * 255)

    def _set_backend(self, message: vu.Message) -> None:
        self._backend.connect(socket.socket(fileno=self._take(message)))

    def _set_memory(self, message: vu.Message) -> None:
        # Comes while queues run, too: QEMU counts every mapping in the window as memory.
        self._memory = GuestMemory.from_message(message.payload, message.fds, self._memory, self._window.shows)
        for queue in self.queues:
            if queue.worker:
                queue.worker.queue.memory = self._memory

    def _reset(self, _message: vu.Message) -> None:
        self.stop()

    def _get_config(self, message: vu.Message) -> bytes:
        offset, size, flags = vu.CONFIG_HEADER.unpack_from(message.payload)
        if offset + size > _CONFIG_MAX:
            raise vu.ProtocolError(f"configuration bytes {offset}+{size} asked for")
        return vu.CONFIG_HEADER.pack(offset, size, flags) + self._config[offset : offset + size]

    def _set_size(self, message: vu.Message) -> None:
        index, size = vu.U32_PAIR.unpack(message.payload)
        self._queue(index).size = size

    def _set_base(self, message: vu.Message) -> None:
        index, base = vu.U32_PAIR.unpack(message.payload)
        self._queue(index).base = base

    def _set_addresses(self, message: vu.Message) -> None:
        index, _flags, descriptors, used, available, _log = vu.VRING_ADDR.unpack(message.payload)
        self._queue(index).addresses = (descriptors, used, available)

    def _get_base(self, message: vu.Message) -> bytes:
        index = vu.U32_PAIR.unpack(message.payload)[0]
        queue = self._queue(index)
        self._backend.abort()
        self._stop(queue)
        if not any(other.worker for other in self.queues):
            self._store()
        self._backend.resume()
        return vu.U32_PAIR.pack(index, queue.base)

    def _set_kick(self, message: vu.Message) -> None:
        queue = self._queue_of(message)
        self._stop(queue)
        queue.kick = self._take(message)
        self._start(queue)

    def _set_call(self, message: vu.Message) -> None:
        queue = self._queue_of(message)
        old, queue.call = queue.call, self._take(message) if message.fds else -1
        if queue.worker:
            queue.worker.call = queue.call
        if old >= 0:
            os.close(old)

    def _enable(self, message: vu.Message) -> None:
        index, enabled = vu.U32_PAIR.unpack(message.payload)
        queue = self._queue(index)
        queue.enabled = bool(enabled)
        if enabled:
            self._start(queue)

    # -- queues

    def _queue(self, index: int) -> Queue:
        if index >= len(self.queues):
            raise vu.ProtocolError(f"queue {index} of {len(self.queues)}")
        return self.queues[index]

    def _queue_of(self, message: vu.Message) -> Queue:
        value = vu.U64.unpack(message.payload)[0]
        if value & _NO_DESCRIPTOR and message.request == vu.SET_VRING_KICK:
            raise vu.ProtocolError("a queue without a kick descriptor is not supported")
        return self._queue(value & 0xFF)

    def _take(self, message: vu.Message) -> int:
        if len(message.fds) != 1:
            raise vu.ProtocolError(f"message {message.request} with {len(message.fds)} descriptors")
        return message.fds.pop()

    def _start(self, queue: Queue) -> None:
        ready = queue.enabled or not self._features & vu.FEATURE_PROTOCOL
        if queue.worker or queue.kick < 0 or queue.addresses is None or not ready:
            return
        if self._window.size and not (self._protocol_features & vu.PROTOCOL_SHMEM and self._window_asked):
            raise NoWindow
        ring = Virtqueue(
            self._memory, queue.size, queue.addresses, queue.base, bool(self._features & vu.FEATURE_EVENT_IDX)
        )
        index = self.queues.index(queue)
        serve = self._session.serve
        queue.worker = Worker(f"queue {index}", ring, queue.kick, queue.call, serve, queue.counters, index > 0)

    def _stop(self, queue: Queue) -> None:
        if queue.worker:
            queue.base = queue.worker.stop()
            queue.worker = None
        if queue.kick >= 0:
            os.close(queue.kick)
            queue.kick = -1

    def _store(self) -> None:
        try:
            self._session.finish()
        except OSError as error:
            print(f"hostfsd: the end of a file could not be stored: {error.strerror}", file=sys.stderr, flush=True)

    def close(self) -> None:
        """Stop, and close the connection."""
        self.stop()
        for queue in self.queues:
            if queue.call >= 0:
                os.close(queue.call)
                queue.call = -1
        with contextlib.suppress(OSError):
            self._socket.close()


_MESSAGES: dict[int, Callable[[Device, vu.Message], bytes | None]] = {
    vu.GET_FEATURES: Device._get_features,
    vu.SET_FEATURES: Device._set_features,
    vu.GET_PROTOCOL_FEATURES: Device._get_protocol_features,
    vu.SET_PROTOCOL_FEATURES: Device._set_protocol_features,
    vu.GET_QUEUE_NUM: Device._get_queue_count,
    vu.GET_CONFIG: Device._get_config,
    vu.GET_SHMEM_CONFIG: Device._get_window,
    vu.SET_BACKEND_REQ_FD: Device._set_backend,
    vu.SET_MEM_TABLE: Device._set_memory,
    vu.RESET_OWNER: Device._reset,
    vu.RESET_DEVICE: Device._reset,
    vu.SET_VRING_NUM: Device._set_size,
    vu.SET_VRING_ADDR: Device._set_addresses,
    vu.SET_VRING_BASE: Device._set_base,
    vu.GET_VRING_BASE: Device._get_base,
    vu.SET_VRING_KICK: Device._set_kick,
    vu.SET_VRING_CALL: Device._set_call,
    vu.SET_VRING_ENABLE: Device._enable,
}
