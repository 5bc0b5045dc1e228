"""Plays QEMU for the daemon: handshake, rings in a memory file, backend requests answered as QEMU 11.1 does, FUSE requests."""

import array
import contextlib
import json
import mmap
import os
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
RAM = 16 << 20
GUEST_BASE = 0x12_3450_0000  # no number of a message is by chance an address, so that a fuzzed guest breaks no ring
USER_BASE = 0x7F00_0000_0000
QUEUE_SIZE = 128
RING_AREA = 0x10000
HEADER = struct.Struct("<III")
PAGE = 4096


def receive(sock: socket.socket) -> tuple[int, int, bytes, list[int]] | None:
    data, fds = b"", []
    size = HEADER.size
    while len(data) < size:
        part, ancillary, _, _ = sock.recvmsg(size - len(data), socket.CMSG_SPACE(64))
        if not part:
            return None
        for _level, _kind, control in ancillary:
            fds += array.array("i", control)
        data += part
        if len(data) == HEADER.size:
            size = HEADER.size + HEADER.unpack(data)[2]
    request, flags, _ = HEADER.unpack_from(data)
    return request, flags, data[HEADER.size :], list(fds)


class Window:
    """The guest's view of the DAX window, with QEMU's rules: exact unmaps, no overlap, nothing past a file's end."""

    def __init__(self, size: int) -> None:
        self.size = size
        self.maps: dict[int, tuple[int, mmap.mmap, int]] = {}  # offset → length, mapping, descriptor
        self.log: list[tuple[str, int, int]] = []
        self.refuse = 0

    def map(self, fd: int, file_offset: int, offset: int, length: int) -> int:
        self.log.append(("map", offset, length))
        overlap = any(offset < start + entry[0] and start < offset + length for start, entry in self.maps.items())
        size = os.fstat(fd).st_size
        aligned = not (offset % PAGE or length % PAGE or file_offset % PAGE)
        if (
            self.refuse
            or overlap
            or not length
            or not aligned
            or file_offset + length > size
            or offset + length > self.size
        ):
            os.close(fd)
            return 1
        try:
            area = mmap.mmap(fd, length, mmap.MAP_SHARED, mmap.PROT_READ | mmap.PROT_WRITE, offset=file_offset)
        except OSError:
            os.close(fd)
            return 1
        self.maps[offset] = (length, area, fd)
        return 0

    def unmap(self, offset: int, length: int) -> int:
        self.log.append(("unmap", offset, length))
        if offset not in self.maps or self.maps[offset][0] != length:
            return 1
        _, area, fd = self.maps.pop(offset)
        area.close()
        os.close(fd)
        return 0

    def reset(self) -> None:
        for offset in list(self.maps):
            self.unmap(offset, self.maps[offset][0])

    def _at(self, position: int) -> tuple[mmap.mmap, int]:
        for start, (length, area, _) in self.maps.items():
            if start <= position < start + length:
                return area, position - start
        raise AssertionError(f"the guest touched {position:#x} of the window, where nothing is mapped")

    def read(self, position: int, length: int) -> bytes:
        out = b""
        while len(out) < length:
            area, start = self._at(position + len(out))
            out += area[start : start + length - len(out)]
        return out

    def write(self, position: int, data: bytes) -> None:
        done = 0
        while done < len(data):
            area, start = self._at(position + done)
            count = min(len(data) - done, len(area) - start)
            area[start : start + count] = data[done : done + count]
            done += count


class Ring:
    """One queue, driven by one thread of the guest."""

    def __init__(self, frontend: "Frontend", index: int) -> None:
        self.frontend, self.index = frontend, index
        self.base = index * RING_AREA
        self.kick = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.call = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self.next = 0
        self.used = 0
        self.resume_at = 0

    @property
    def descriptors(self) -> int:
        return self.base

    @property
    def available(self) -> int:
        return self.base + 16 * QUEUE_SIZE

    @property
    def used_ring(self) -> int:
        return self.base + 0x4000

    def put(self, chain: list[tuple[int, int, int]], first: int = 0) -> None:
        """Write a chain of (guest address, length, flags) into the table from `first` on and make it available."""
        ram = self.frontend.ram
        for offset, (address, length, flags) in enumerate(chain):
            last = offset == len(chain) - 1
            index = (first + offset) % QUEUE_SIZE
            struct.pack_into(
                "<QIHH", ram, self.descriptors + 16 * index, address, length,
                flags | (0 if last else 1), 0 if last else (index + 1) % QUEUE_SIZE,
            )  # fmt: skip
        self.offer(first)

    def offer(self, head: int) -> None:
        # One store each: struct.pack_into would show the daemon a zero in between.
        words = self.frontend.words
        words[self.available // 2 + 2 + self.next % QUEUE_SIZE] = head
        self.next = (self.next + 1) & 0xFFFF
        words[self.available // 2 + 1] = self.next
        os.eventfd_write(self.kick, 1)

    def wait(self, timeout: float = 60) -> tuple[int, int]:
        """Return (head, written) of the next used chain. Raises TimeoutError with what the daemon's threads are doing."""
        ram = self.frontend.ram
        deadline = time.monotonic() + timeout
        while struct.unpack_from("<H", ram, self.used_ring + 2)[0] == self.used:
            left = deadline - time.monotonic()
            if left <= 0:
                raise TimeoutError(f"queue {self.index} got no answer; the daemon: {self.frontend.daemon_threads()}")
            if select.select([self.call], [], [], min(left, 0.05))[0]:
                with contextlib.suppress(BlockingIOError):
                    os.eventfd_read(self.call)
        slot = self.used_ring + 4 + 8 * (self.used % QUEUE_SIZE)
        self.used = (self.used + 1) & 0xFFFF
        head, written = struct.unpack_from("<II", ram, slot)
        return head, written


class Frontend:
    """A guest of the daemon behind `path`. FUSE calls are in guest.py."""

    def __init__(self, path: str, queues: int = 2, window: bool = True, event_index: bool = False) -> None:
        self.control = socket.socket(socket.AF_UNIX)
        self.control.connect(path)
        self.control.settimeout(10)
        self.memory_fd = os.memfd_create("ram", os.MFD_CLOEXEC)
        os.ftruncate(self.memory_fd, RAM)
        self.ram = mmap.mmap(self.memory_fd, RAM)
        self.words = memoryview(self.ram).cast("H")
        self.features = 1 << 32 | 1 << 30 | 1 << 28 | (1 << 29 if event_index else 0)
        self.wants_window = window
        self.window = Window(0)
        self.rings = [Ring(self, index) for index in range(queues)]
        self.backend_hold = threading.Event()
        self._backend, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self._handshake(theirs)
        threading.Thread(target=self._serve_backend, daemon=True).start()

    def daemon_threads(self) -> dict[str, str]:
        """Return where each of the daemon's threads waits in the kernel."""
        pid = struct.unpack("iII", self.control.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]
        tasks = Path(f"/proc/{pid}/task")
        return {
            task.name: f"{(task / 'wchan').read_text()} {(task / 'syscall').read_text()}" for task in tasks.iterdir()
        }

    # -- control messages

    def send(self, request: int, payload: bytes = b"", fds: tuple[int, ...] = (), flags: int = 1) -> None:
        ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", fds))] if fds else []
        self.control.sendmsg([HEADER.pack(request, flags, len(payload)) + payload], ancillary)

    def ask(self, request: int, payload: bytes = b"") -> bytes:
        self.send(request, payload)
        answer = receive(self.control)
        assert answer and answer[0] == request and answer[1] & 4, answer
        return answer[2]

    def tell(self, request: int, payload: bytes = b"", fds: tuple[int, ...] = ()) -> None:
        """Send a message and wait for its acknowledgement."""
        self.send(request, payload, fds, 1 | 8)
        answer = receive(self.control)
        assert answer and answer[2] == bytes(8), answer

    def _handshake(self, theirs: socket.socket) -> None:
        offered = struct.unpack("<Q", self.ask(1))[0]
        assert offered & self.features == self.features
        self.protocol = struct.unpack("<Q", self.ask(15))[0]
        if not self.wants_window:
            self.protocol &= ~(1 << 22)
        self.send(16, struct.pack("<Q", self.protocol))
        assert struct.unpack("<Q", self.ask(17))[0] >= len(self.rings)
        self.send(3)
        if self.protocol >> 22 & 1:
            regions, _, size = struct.unpack_from("<IIQ", self.ask(44))
            assert regions == 1
            self.window = Window(size)
            self.send(21, b"", (theirs.fileno(),))
        theirs.close()
        self.start()

    def start(self) -> None:
        """Start the device, as QEMU does when the guest's driver says that it is ready."""
        self.tell(2, struct.pack("<Q", self.features))
        self.set_memory()
        for ring in self.rings:
            self.tell(8, struct.pack("<II", ring.index, QUEUE_SIZE))
            self.tell(10, struct.pack("<II", ring.index, ring.resume_at))
            base = USER_BASE
            addresses = (base + ring.descriptors, base + ring.used_ring, base + ring.available, 0)
            self.tell(9, struct.pack("<IIQQQQ", ring.index, 0, *addresses))
            self.tell(13, struct.pack("<Q", ring.index), (ring.call,))
            self.tell(12, struct.pack("<Q", ring.index), (ring.kick,))
            self.tell(18, struct.pack("<II", ring.index, 1))

    def set_memory(self, extra: list[tuple[int, int, int, int, int]] | None = None) -> None:
        """Send the memory table: the RAM, and more regions as (guest, size, user, offset, descriptor)."""
        regions = [(GUEST_BASE, RAM, USER_BASE, 0, self.memory_fd), *(extra or [])]
        payload = struct.pack("<II", len(regions), 0)
        payload += b"".join(struct.pack("<QQQQ", *region[:4]) for region in regions)
        self.tell(5, payload, tuple(region[4] for region in regions))

    def stop(self) -> list[int]:
        """Stop all queues and return their base indices."""
        for ring in self.rings:
            ring.resume_at = struct.unpack("<II", self.ask(11, struct.pack("<II", ring.index, 0)))[1]
        return [ring.resume_at for ring in self.rings]

    def reset(self) -> None:
        """Reset the device: QEMU stops the queues and drops every mapping; the driver starts with empty rings."""
        self.stop()
        self.window.reset()
        for ring in self.rings:
            ring.next = ring.used = ring.resume_at = 0
            self.ram[ring.base : ring.base + RING_AREA] = bytes(RING_AREA)
        self.start()

    # -- the backend channel

    def _serve_backend(self) -> None:
        while message := receive(self._backend):
            request, flags, payload, fds = message
            while self.backend_hold.is_set():
                time.sleep(0.005)
            _region, file_offset, offset, length, _flags = struct.unpack("<B7xQQQQ", payload)
            window = self.window
            result = window.map(fds[0], file_offset, offset, length) if fds else window.unmap(offset, length)
            assert request == (9 if fds else 10)
            assert flags & 8
            with contextlib.suppress(OSError):
                self._backend.sendall(HEADER.pack(request, 1 | 4, 8) + struct.pack("<Q", result))

    def close(self) -> None:
        self.control.close()
        self._backend.shutdown(socket.SHUT_RDWR)
        self._backend.close()
        for ring in self.rings:
            os.close(ring.kick)
            os.close(ring.call)
        os.close(self.memory_fd)


class Daemon:
    """The daemon as a process of its own."""

    def __init__(self, directory: Path, shared: Path, *arguments: str) -> None:
        self.socket = str(directory / "vhost.sock")
        self.stats_socket = str(directory / "stats.sock")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "hostfsd", "--socket", self.socket, "--stats-socket", self.stats_socket,
             "--shared-dir", str(shared), *arguments],
            cwd=ROOT, stderr=subprocess.PIPE,
        )  # fmt: skip
        deadline = time.monotonic() + 10
        while not (os.path.exists(self.stats_socket) and self._listening()):
            if self.process.poll() is not None:
                assert self.process.stderr
                raise RuntimeError(self.process.stderr.read().decode())
            assert time.monotonic() < deadline
            time.sleep(0.01)

    def _listening(self) -> bool:
        try:
            return bool(self.stats())
        except OSError:
            return False

    def stats(self) -> dict:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(5)
            sock.connect(self.stats_socket)
            data = b""
            while part := sock.recv(65536):
                data += part
        return json.loads(data)

    def end(self) -> tuple[int, str]:
        """Wait for its end; return exit status and what it said."""
        _, errors = self.process.communicate(timeout=10)
        return self.process.returncode, errors.decode()

    def kill(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
        self.process.communicate()
