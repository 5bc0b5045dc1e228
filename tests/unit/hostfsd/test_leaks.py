"""Lookup counts and descriptors are exact: after many random operations, and after the guest let go, nothing is left."""

import os
import random
import time

from guest import FuseError

OPERATIONS = int(os.environ.get("HOSTFSD_OPERATIONS", "6000"))


def test_nothing_is_left_after_many_operations(fs):  # noqa: PLR0912, PLR0915
    rng = random.Random(1)
    guest = fs.guest
    (fs.shared / "sub").mkdir()
    start = fs.daemon.stats()["descriptors"]
    lookups: dict[int, int] = {}
    handles: list[int] = []

    def seen(entry) -> int:
        lookups[entry.node] = lookups.get(entry.node, 0) + 1
        return entry.node

    def name() -> bytes:
        return b"n%d" % rng.randrange(60)

    most, began = 0, time.monotonic()
    for _ in range(OPERATIONS):
        most = max(most, len(lookups))
        choice = rng.randrange(10)
        try:
            if choice == 0:
                entry, handle = guest.create(name())
                handles.append(handle)
                seen(entry)
            elif choice == 1:
                seen(guest.lookup(name()))
            elif choice == 2:
                handles.append(guest.open(seen(guest.lookup(name()))))
            elif choice == 3:
                guest.call(10, 1, name() + b"\0")
            elif choice == 4:
                guest.call(12, 1, b"\1" + bytes(7) + name() + b"\0" + name() + b"\0")
            elif choice == 5 and handles:
                guest.release(handles.pop(rng.randrange(len(handles))))
            elif choice == 6 and lookups:
                node = rng.choice(list(lookups))
                count = rng.randrange(1, lookups[node] + 1)
                guest.forget(node, count)
                lookups[node] -= count
                if not lookups[node]:
                    del lookups[node]
            elif choice == 7:
                for entry, *_ in guest.list(1, plus=True):
                    if entry.node:
                        seen(entry)
            elif choice == 8 and handles:
                guest.write(rng.choice(handles), rng.randrange(5000), b"x" * rng.randrange(5000))
            elif choice == 9:
                node = seen(guest.lookup(name()))
                guest.map(node, 0, rng.randrange(32) * (2 << 20), write=True)
        except FuseError:
            pass
    assert fs.daemon.stats()["inodes"] == len(lookups) + 1
    assert fs.daemon.stats()["open_files"] == len(handles)
    for handle in handles:
        guest.release(handle)
    guest.unmap(*range(0, 64 << 20, 2 << 20))
    nodes = list(lookups)
    for at in range(0, len(nodes), 100):  # BATCH_FORGET
        part = nodes[at : at + 100]
        body = len(part).to_bytes(4, "little") + bytes(4)
        body += b"".join(node.to_bytes(8, "little") + lookups[node].to_bytes(8, "little") for node in part)
        guest.call(42, 0, body, queue=0, answered=False)
    left = fs.daemon.stats()
    assert (left["inodes"], left["open_files"], left["window"]["ranges_live"]) == (1, 0, 0)
    print(
        f"{OPERATIONS} operations in {time.monotonic() - began:.0f} s, up to {most} inodes held: descriptors {start} before,"
        f" {left['descriptors']} after; inodes 1 before, {left['inodes']} after; maps {left['window']['maps_total']}"
    )
    open_now = [os.readlink(entry) for entry in os.scandir(f"/proc/{fs.daemon.process.pid}/fd")]
    assert left["descriptors"] == start and not fs.window.maps, sorted(open_now)


def test_a_forget_of_too_much_or_of_nothing_harms_nobody(fs):
    (fs.shared / "f").touch()
    node = fs.guest.lookup(b"f").node
    for wrong in ((node + 1, 1), (0, 5), (1, 2**64 - 1), (node, 2**64 - 1), (node, 1)):
        fs.guest.forget(*wrong)
    assert fs.daemon.stats()["inodes"] == 1
    assert fs.guest.lookup(b"f").node != node
