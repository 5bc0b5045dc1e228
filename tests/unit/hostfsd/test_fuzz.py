"""Seeded fuzz: FUSE messages, rings and control messages that no kernel would send. No crash, no hang, no leak.

`HOSTFSD_FUZZ_MESSAGES` sets the number of messages (default 20,000), `HOSTFSD_FUZZ_SEED` the seed.
"""

import contextlib
import itertools
import os
import random
import socket
import struct
import time

import pytest
from frontend import GUEST_BASE, HEADER, QUEUE_SIZE, RAM, RING_AREA, USER_BASE, Daemon
from guest import BUFFERS, SLOT, FuseError

MESSAGES = int(os.environ.get("HOSTFSD_FUZZ_MESSAGES", "20000"))
SEED = int(os.environ.get("HOSTFSD_FUZZ_SEED", "1"))
BATCH = 16
INTERESTING = [0, 1, 2, 3, 7, 16, 4095, 4096, 2**21, 2**31 - 1, 2**31, 2**32 - 1, 2**62, 2**63 - 1, 2**63, 2**64 - 1]
NAMES = [b"a", b"b", b"dir", b"link", b"pipe", b"..", b".", b"", b"../x", b"/etc", b"n" * 255, b"n" * 256, b"\xff\xfe"]
SIZES = {1: 0, 2: 8, 3: 16, 4: 88, 5: 0, 6: 0, 8: 16, 9: 8, 10: 0, 11: 0, 12: 8, 13: 8, 14: 8, 15: 40, 16: 40, 17: 0,
         18: 24, 20: 16, 21: 8, 22: 8, 23: 8, 24: 0, 25: 24, 26: 64, 27: 8, 28: 40, 29: 24, 30: 16, 35: 16, 42: 8,
         43: 32, 44: 40, 45: 16, 46: 24, 47: 56, 48: 40, 49: 4, 50: 8}  # fmt: skip
SESSION_ENDS = (26, 38)
SLOW = (20, 30, 50)  # these write the host's disk


def number(rng: random.Random) -> int:
    """A small number most of the time: nodes, handles and flags that exist."""
    return rng.randrange(40) if rng.random() < 0.7 else rng.choice(INTERESTING)


def arguments(rng: random.Random, op: int) -> bytes:
    size = SIZES.get(op, rng.randrange(64))
    words = b"".join(struct.pack("<Q", number(rng)) for _ in range(size // 8 + 1))
    if rng.random() < 0.5:
        words = b"".join(struct.pack("<I", number(rng) & 0xFFFFFFFF) for _ in range(size // 4 + 1))
    body = words[:size]
    if op in (1, 6, 8, 9, 10, 11, 12, 13, 21, 22, 24, 35, 45):
        body += rng.choice(NAMES) + b"\0" + rng.choice(NAMES) + b"\0"
    if op in {42, 49}:
        count = rng.choice([0, 1, 3, 2**32 - 1])
        body = struct.pack("<I", count) + (bytes(4) if op == 42 else b"")
        body += b"".join(struct.pack("<QQ", number(rng), number(rng)) for _ in range(min(count, 3)))
    if op == 48 and rng.random() < 0.7:
        body = struct.pack("<5Q", 0, rng.randrange(4) << 21, 1 << 21, rng.randrange(1, 3), rng.randrange(33) << 21)
    if op in (4, 43) and rng.random() < 0.9:  # sizes that fill the disk of the tests prove nothing
        body = bytes(byte if index < 8 else 0 for index, byte in enumerate(body))
    if rng.random() < 0.1:
        body = body[: rng.randrange(len(body) + 1)]
    return body


def message(rng: random.Random) -> tuple[bytes, int, bool]:
    """Return (request, space for the answer, whether it ends the session)."""
    op = rng.choice(list(SIZES)) if rng.random() < 0.97 else rng.randrange(100)
    ends = op in SESSION_ENDS
    if (ends or op in SLOW) and rng.random() < 0.95:
        op, ends = 3, False
    body = arguments(rng, op)
    if op == 16:
        data = rng.randbytes(rng.randrange(200))
        body = struct.pack("<QQIIQII", number(rng), rng.randrange(10000), len(data), 0, 0, 0, 0) + data
    length = 40 + len(body) if rng.random() < 0.97 else number(rng) & 0xFFFFFFFF
    ids = (0, 0) if rng.random() < 0.8 else (rng.randrange(3000), rng.randrange(3000))
    header = struct.pack("<IIQQIIIHH", length, op, 2, number(rng), *ids, 1, 0, 0)
    request = header + body
    if rng.random() < 0.02:
        request = rng.randbytes(rng.randrange(200))
    return request, rng.choice([0, 4, 16, 100, 128, 160, 4096, 8192]), ends


def fill(shared) -> None:
    (shared / "a").write_bytes(b"a" * 5000)
    (shared / "b").write_bytes(b"b" * (3 << 20))
    (shared / "dir").mkdir()
    (shared / "dir" / "x").touch()
    os.symlink("/etc/passwd", shared / "link")
    os.mkfifo(shared / "pipe")


def send(rng: random.Random, guest, ring, slot: int, payload: bytes, space: int) -> None:
    """Put a message into the ring in one to four readable pieces and up to three writable ones, broken now and then."""
    frontend = guest.frontend
    base = BUFFERS + ring.index * SLOT + slot * 0x4000
    frontend.ram[base : base + len(payload)] = payload
    cuts = sorted({0, *(rng.randrange(len(payload) + 1) for _ in range(rng.randrange(3))), len(payload)})
    if len(payload) >= 40 and rng.random() < 0.5:
        cuts = sorted({0, 40, len(payload)})
    chain = [(GUEST_BASE + base + a, b - a, 0) for a, b in itertools.pairwise(cuts)]
    answer = base + 0x1000
    while space > 0:
        part = min(space, rng.choice([16, 16, 4096, 8192, 7]))
        chain.append((GUEST_BASE + answer, part, 2))
        answer += part
        space -= part
        if len(chain) >= 6:
            break
    chain = chain or [(GUEST_BASE + base, 40, 0)]
    if rng.random() < 0.05:
        at = rng.randrange(len(chain))
        address, length, flags = chain[at]
        chain[at] = rng.choice(
            [(number(rng), length, flags), (address, number(rng) & 0xFFFFFFFF, flags), (address, length, rng.randrange(8)),
             (GUEST_BASE + RAM - 8, length, flags), (GUEST_BASE + RAM - 4096, rng.randrange(8192), flags)]
        )  # fmt: skip
    ring.put(chain, first=slot * 8)
    if rng.random() < 0.01:  # a chain that leads nowhere, or in a circle
        at = ring.descriptors + 16 * (slot * 8)
        struct.pack_into("<HH", frontend.ram, at + 12, 1, rng.choice([slot * 8, QUEUE_SIZE, 0xFFFF]))


def test_messages(fs):
    rng = random.Random(SEED)
    fill(fs.shared)
    guest = fs.guest
    start = fs.daemon.stats()["descriptors"]
    sent, began = 0, time.monotonic()
    while sent < MESSAGES:
        ring = fs.frontend.rings[rng.randrange(2)]
        for slot in range(BATCH):
            payload, space, _ends = message(rng)
            send(rng, guest, ring, slot, payload, space)
        for _ in range(BATCH):
            ring.wait()
        sent += BATCH
        if sent % 4096 < BATCH:
            stats = fs.daemon.stats()
            assert stats["descriptors"] < 2000 + len(os.listdir(fs.shared))
            for name in os.listdir(fs.shared):  # keep the tree small
                if name not in ("a", "b", "dir", "link", "pipe"):
                    with contextlib.suppress(OSError):
                        path = fs.shared / name
                        path.rmdir() if path.is_dir() and not path.is_symlink() else path.unlink()
    for ring in fs.frontend.rings:  # garbage in tables must not stay behind for honest requests
        fs.frontend.ram[ring.base : ring.base + 16 * QUEUE_SIZE] = bytes(16 * QUEUE_SIZE)
    guest.init()
    stats = fs.daemon.stats()
    assert (stats["inodes"], stats["open_files"], stats["window"]["ranges_live"]) == (1, 0, 0)
    assert stats["descriptors"] == start
    print(
        f"{sent} messages (seed {SEED}) in {time.monotonic() - began:.0f} s: {stats['requests_total']} requests of"
        f" {len(stats['requests'])} kinds, {stats['errors']} refused, {stats['bad_chains']} broken chains; descriptors"
        f" {start} before, {stats['descriptors']} after; inodes 1 before, {stats['inodes']} after"
    )
    assert sum(stats["requests"].values()) > sent * 0.8 and len(stats["requests"]) > 35
    assert fs.daemon.process.poll() is None
    fs.daemon.process.terminate()
    status, said = fs.daemon.end()
    assert status == 0 and "Traceback" not in said, said[-3000:]


def test_broken_rings_stop_a_queue_and_nothing_else(fs):
    """Random bytes over one whole ring: the other queue goes on, and a reset mends everything."""
    ring = fs.frontend.rings[1]
    for seed in range(12):
        rng = random.Random(seed)
        fs.frontend.ram[ring.base : ring.base + RING_AREA] = rng.randbytes(RING_AREA)
        os.eventfd_write(ring.kick, 1)
        time.sleep(0.05)
        fs.guest.forget(5)
        assert fs.daemon.process.poll() is None
        fs.frontend.reset()
        fs.guest.init()
        assert fs.guest.getattr(1).nlink


@pytest.mark.parametrize("seed", range(5))
def test_control_messages_end_the_daemon_at_worst(tmp_path, seed):
    """QEMU is trusted more than the guest, but a broken one must not make the daemon crash, hang or spin."""
    rng = random.Random(seed)
    shared = tmp_path / "shared"
    shared.mkdir()
    for _ in range(3):
        daemon = Daemon(tmp_path, shared, "--sandbox", "none", "--window", "64M")
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(daemon.socket)
                sock.settimeout(0.02)
                with contextlib.suppress(OSError):
                    for _ in range(60):
                        request = rng.choice(
                            [1, 2, 3, 5, 8, 9, 10, 11, 12, 13, 15, 16, 17, 18, 21, 24, 34, 44, rng.randrange(60)]
                        )
                        if request == 21:
                            continue
                        body = b"".join(struct.pack("<I", number(rng) & 0xFFFFFFFF) for _ in range(rng.randrange(12)))
                        fds = [os.memfd_create("x"), os.eventfd(0)][: rng.randrange(3)]
                        size = len(body) if rng.random() < 0.95 else rng.choice(INTERESTING) & 0xFFFFFFFF
                        socket.send_fds(sock, [HEADER.pack(request, rng.choice([1, 9]), size) + body], fds)
                        for fd in fds:
                            os.close(fd)
                        with contextlib.suppress(TimeoutError):
                            sock.recv(65536)
            status, said = daemon.end()
            assert status in (0, 1, 3) and "Traceback" not in said, said
        finally:
            daemon.kill()


def test_the_arguments_of_a_write_are_read_once(fs):
    """The guest changes a request while it is served: the daemon works on its own copy."""
    _, handle = fs.guest.create(b"f")
    with pytest.raises(FuseError):
        fs.guest.call(16, 0, struct.pack("<QQIIQII", handle, 0, 10, 0, 0, 0, 0), b"only five"[:5])
    assert (fs.shared / "f").read_bytes() == b""


def test_a_ring_outside_of_memory_is_a_protocol_error(fs):
    fs.frontend.stop()
    fs.frontend.send(9, struct.pack("<IIQQQQ", 1, 0, USER_BASE + RAM - 16, USER_BASE, USER_BASE, 0))
    fs.frontend.send(12, struct.pack("<Q", 1), (fs.frontend.rings[1].kick,))
    status, said = fs.daemon.end()
    assert status == 1 and "outside the guest's memory" in said and "Traceback" not in said
