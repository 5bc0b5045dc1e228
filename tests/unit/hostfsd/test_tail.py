"""The three-way merge of a tail: random changes on both sides, against a model."""

import errno
import itertools
import os
import random
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import ledger

from hostfsd.tail import Tail, differences

MIB = 1 << 20


@pytest.mark.parametrize("seed", range(50))
def test_differences(seed):
    rng = random.Random(seed)
    one = bytearray(rng.randbytes(rng.randrange(2000)))
    other = bytearray(one)
    for _ in range(rng.randrange(6)):
        start = rng.randrange(len(one) + 1)
        other[start : start + rng.randrange(600)] = rng.randbytes(len(other[start : start + rng.randrange(600)]))
        other = (other + one)[: len(one)]
    runs = list(differences(bytes(one), bytes(other)))
    changed = {index for start, end in runs for index in range(start, end)}
    assert changed == {index for index in range(len(one)) if one[index] != other[index]}
    assert all(a[1] < b[0] for a, b in itertools.pairwise(runs))


@pytest.mark.parametrize("seed", range(30))
def test_merges_lose_no_change(tmp_path, seed):
    rng = random.Random(seed)
    fd = os.open(tmp_path / "f", os.O_RDWR | os.O_CREAT)
    model = bytearray(rng.randbytes(rng.randrange(5000)))
    os.pwrite(fd, model, 0)
    tail = Tail(0, 8192)
    tail.merge(fd, False)
    for _ in range(40):
        if rng.random() < 0.2:
            size = rng.randrange(8192)
            tail.merge(fd, True)  # what the daemon does before a size changes
            os.ftruncate(fd, size)
            model[:] = (model + bytes(8192))[:size]
            tail.merge(fd, True)
        touched = set()
        for side in (tail.fd, fd):
            for _ in range(rng.randrange(4)):
                if model:
                    at, byte = rng.randrange(len(model)), rng.randrange(256)
                    if at not in touched:
                        touched.add(at)
                        os.pwrite(side, bytes([byte]), at)
                        model[at] = byte
        tail.merge(fd, True)
        assert os.pread(fd, 9000, 0) == model
        assert os.pread(tail.fd, 8192, 0) == model + bytes(8192 - len(model))
    os.close(fd)


def test_a_file_that_takes_nothing_loses_nothing(tmp_path):
    path = tmp_path / "f"
    path.write_bytes(b"x" * 100)
    readable, writable = os.open(path, os.O_RDONLY), os.open(path, os.O_RDWR)
    tail = Tail(0, 4096)
    tail.merge(writable, False)
    os.pwrite(tail.fd, b"new", 50)
    with pytest.raises(OSError, match=str(errno.EBADF)):
        tail.merge(readable, True)
    assert tail.merge(writable, True) == 3
    assert path.read_bytes()[50:53] == b"new"
    os.close(readable)
    os.close(writable)


def test_a_tail_that_nobody_changed_allocates_nothing_that_stays(tmp_path):
    """A daemon looks at every tail once a second: with a thousand of them its memory grew to several times what it keeps."""
    (tmp_path / "f").write_bytes(b"x" * 5000)
    fd = os.open(tmp_path / "f", os.O_RDWR)
    tail = Tail(4096, 8192)
    tail.merge(fd, True)
    kept = tail._agreed
    for _ in range(3):
        assert tail.merge(fd, True) == 0
    assert tail._agreed is kept
    os.pwrite(fd, b"y", 4096)
    tail.merge(fd, True)
    assert (tail._agreed[:1], tail._agreed is kept) == (b"y", False)
    os.close(fd)


def test_the_memory_ledger_counts_it_for_the_daemon_and_not_the_guests_memory_that_the_daemon_maps() -> None:
    process = Path("/proc/self")
    before = ledger.daemon_bytes(process)
    memory, tail = os.memfd_create("memory-backend-memfd"), Tail(0, 16 * MIB)
    try:
        os.write(memory, bytes(64 * MIB))
        for offset in (0, 8 * MIB):
            os.pwrite(tail.fd, bytes(MIB), offset)
        assert 2 * MIB <= ledger.daemon_bytes(process) - before < 8 * MIB
    finally:
        os.close(memory)
    held = ledger.daemon_bytes(process)
    del tail
    assert held - ledger.daemon_bytes(process) >= 2 * MIB
