"""Properties of every message and of every ring that a guest may send, by hypothesis: what breaks one is shrunk to its least form.

The examples are the same in every run. What may follow from many messages is fuzzed in test_fuzz.py.
"""

import shutil
import struct
from typing import NamedTuple

from frontend import GUEST_BASE, QUEUE_SIZE, RAM, RING_AREA
from guest import BUFFERS, SLOT
from hypothesis import given, settings
from hypothesis import strategies as st
from test_fuzz import INTERESTING, NAMES, SESSION_ENDS, SIZES, SLOW, fill

UNTOUCHED = 0xA5
PLACE = BUFFERS + SLOT
ANSWER = PLACE + 0x4000
SPACE = 0x4000
UNANSWERED = {2, 36, 41, 42}
NAMED = {1, 6, 8, 9, 10, 11, 12, 13, 21, 22, 24, 35, 45}
OF_HANDLES = {15, 16, 18, 25, 28, 29, 43, 44, 46, 47}
FILLING = {4, 43}  # with any size these fill the disk, which is no property


def the_same_in_every_run(examples: int):
    """Settings of a property whose examples are all served by one daemon."""
    return settings(derandomize=True, database=None, deadline=None, max_examples=examples)


# What the guest holds at the beginning of each example, by name: nodes, and handles of open files.
HELD = ["a", "b", "dir", "link", "open a", "open b", "open dir"]
small = st.one_of(st.sampled_from(HELD), st.integers(0, 40))
number = st.one_of(st.sampled_from(HELD), st.integers(0, 40), st.sampled_from(INTERESTING))


class Message(NamedTuple):
    """A request whose numbers may be names of what is held. `cut` and `length`: None for what is right."""

    op: int
    unique: int
    node: int | str
    words: list[int | str]
    tail: bytes
    cut: int | None
    length: int | None

    def encode(self, held: dict[str, int]) -> bytes:
        numbers = [held.get(word, word) for word in (self.node, *self.words)]
        body = struct.pack(f"<{len(self.words)}Q", *numbers[1:])[: SIZES.get(self.op, 16)]
        body = (body + self.tail)[: self.cut]
        length = 40 + len(body) if self.length is None else self.length & 0xFFFFFFFF
        return struct.pack("<IIQQIIIHH", length, self.op, self.unique, numbers[0], 0, 0, 1, 0, 0) + body


@st.composite
def messages(draw) -> Message:
    """A request of any kind that leaves the session on and the host's disk in peace."""
    op = draw(st.sampled_from(sorted(set(SIZES) - {*SESSION_ENDS, *SLOW} | {0, 36, 40, 99, 2**32 - 1})))
    count = SIZES.get(op, 16) // 8 + 1
    words = draw(st.lists(small if op in FILLING else number, min_size=count, max_size=count))
    if op in OF_HANDLES:
        words[0] = draw(st.one_of(st.sampled_from(HELD[4:]), st.sampled_from(HELD[4:]), number))
    tail = b""
    if op in NAMED:
        tail = b"\0".join([*draw(st.lists(st.sampled_from(NAMES), min_size=1, max_size=2)), b""])
    elif op in {16, 42, 49}:
        tail = draw(st.binary(max_size=64))
    wrong = draw(st.sampled_from(["", "", "", "cut", "length"]))
    cut = draw(st.integers(0, 8 * count + len(tail))) if wrong == "cut" else None
    length = draw(st.one_of(st.integers(0, 200), st.sampled_from(INTERESTING))) if wrong == "length" else None
    node = draw(st.one_of(st.just(1), st.sampled_from(HELD[:4]), number))
    return Message(op, draw(st.integers(0, 2**64 - 1)), node, words, tail, cut, length)


def hold(guest) -> dict[str, int]:
    """A session that holds what HELD names."""
    guest.init()
    held = {name: guest.lookup(name.encode()).node for name in HELD[:4]}
    held |= {f"open {name}": guest.open(held[name]) for name in ("a", "b")}
    return held | {"open dir": guest.opendir(held["dir"])}


def emptied(shared) -> None:
    for path in shared.iterdir():
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def mended(fs) -> None:
    """Nothing of the last example is left in the table, and the session goes on."""
    base = fs.frontend.rings[1].base
    fs.frontend.ram[base : base + 16 * QUEUE_SIZE] = bytes(16 * QUEUE_SIZE)
    assert fs.guest.getattr(1).nlink


def end(fs, descriptors: int) -> None:
    """Nothing was kept, and nothing unexpected was said."""
    fs.guest.init()
    left = fs.daemon.stats()
    assert (left["inodes"], left["open_files"], left["window"]["ranges_live"]) == (1, 0, 0)
    assert left["descriptors"] == descriptors
    fs.daemon.process.terminate()
    status, said = fs.daemon.end()
    assert status == 0 and "Traceback" not in said and "is broken" not in said, said[-3000:]


def test_every_message_gets_a_whole_answer_or_none(fs):
    """An answer has the length that the ring says, the request's number and an error that Linux takes; nothing lies behind it."""
    fill(fs.shared)
    ring, ram = fs.frontend.rings[1], fs.frontend.ram
    descriptors = fs.daemon.stats()["descriptors"]
    answered = []

    @the_same_in_every_run(700)
    @given(
        message=messages(),
        cut=st.integers(0, 200),
        space=st.sampled_from([SPACE, SPACE, SPACE, 4096, 160, 17, 16, 4, 0]),
    )
    def check(message, cut, space):
        request = message.encode(hold(fs.guest))
        ram[PLACE : PLACE + len(request)] = request
        ram[ANSWER : ANSWER + SPACE] = bytes([UNTOUCHED]) * SPACE
        cut = min(cut, len(request))
        chain = [(PLACE, cut, 0), (PLACE + cut, len(request) - cut, 0), (ANSWER, min(space, 16), 2)]
        chain += [(ANSWER + 16, space - 16, 2)] if space > 16 else []
        ring.put([(GUEST_BASE + at, length, flags) for at, length, flags in chain if length])
        head, written = ring.wait()
        assert head == 0 and (written == 0 or 16 <= written <= space)
        assert not ram[ANSWER + written : ANSWER + SPACE].strip(bytes([UNTOUCHED]))
        if written:
            assert message.op not in UNANSWERED
            length, error, echoed = struct.unpack_from("<IiQ", ram, ANSWER)
            assert (length, echoed) == (written, message.unique) and -4096 < error <= 0
            assert written == 16 or not error
            answered.append(error)
        mended(fs)
        if message.op in NAMED:
            emptied(fs.shared)
            fill(fs.shared)

    check()
    assert answered.count(0) > 50 and len(set(answered)) > 5, "the examples have hardly reached anything"
    end(fs, descriptors)


ADDRESSES = [GUEST_BASE + place for place in (PLACE, PLACE + 40, ANSWER, RAM - 16, RAM, -1)] + [0, 2**63, 2**64 - 1]
LENGTHS = [0, 1, 15, 16, 32, 40, 56, 104, 4096, 2**31, 2**32 - 1]
links = st.tuples(
    st.sampled_from(ADDRESSES),
    st.sampled_from(LENGTHS),
    st.integers(0, 7),  # next, write, indirect
    st.one_of(st.integers(0, 5), st.sampled_from([QUEUE_SIZE - 1, QUEUE_SIZE, 2**16 - 1])),
)


def test_no_ring_makes_the_daemon_write_where_it_was_not_told_to(fs):
    """Any table of descriptors: every chain comes back, and what no writable descriptor names stays as it is."""
    ring, ram = fs.frontend.rings[1], fs.frontend.ram
    descriptors = fs.daemon.stats()["descriptors"]
    rings = len(fs.frontend.rings) * RING_AREA
    returned = []

    @the_same_in_every_run(70)
    @given(
        table=st.lists(links, min_size=1, max_size=6),
        indirect=st.lists(links, max_size=3),
        head=st.one_of(st.integers(0, 5), st.sampled_from([QUEUE_SIZE, 2**16 - 1])),
    )
    def check(table, indirect, head):
        ram[PLACE : PLACE + 56] = struct.pack("<IIQQIIIHH", 56, 3, 7, 1, 0, 0, 1, 0, 0) + bytes(16)
        for place, chain in ((ring.descriptors, table), (ANSWER, indirect)):
            for index, link in enumerate(chain):
                struct.pack_into("<QIHH", ram, place + 16 * index, *link)
        before = bytearray(ram[rings:])
        ring.offer(head)
        assert ring.wait()[0] == head
        after = bytes(ram[rings:])
        for address, length, flags, _ in table + indirect:
            start = address - GUEST_BASE - rings
            if flags & 2 and 0 <= start <= start + length <= len(after):
                before[start : start + length] = after[start : start + length]
        assert before == after
        returned.append(head)
        mended(fs)

    check()
    assert len(returned) >= 70
    end(fs, descriptors)
