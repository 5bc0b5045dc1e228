"""The DAX window: what the guest sees in it and what its stores become, while files change on both sides."""

import errno
import os
import struct
import subprocess
import threading
import time
from pathlib import Path

import pytest
from guest import RANGE, FuseError

PAGE = 4096


def until(condition, timeout: float = 5) -> None:
    deadline = time.monotonic() + timeout
    while not condition():
        assert time.monotonic() < deadline, "did not come true in time"
        time.sleep(0.01)


@pytest.fixture
def mapped(fs):
    """A file of 10,000 bytes, open in the guest and mapped at the window's start."""
    fs.path = fs.shared / "f"
    fs.data = os.urandom(10000)
    fs.path.write_bytes(fs.data)
    fs.node = fs.guest.lookup(b"f").node
    fs.handle = fs.guest.open(fs.node)
    fs.guest.map(fs.node, write=True)
    return fs


def test_init_offers_the_window(fs, start):
    flags, flags2 = fs.flags
    assert flags >> 26 & 1 and flags2 >> 1 & 1
    plain = start("--window", "0")
    assert not plain.flags[0] >> 26 & 1 and not plain.flags[1] >> 1 & 1
    with pytest.raises(FuseError) as caught:
        plain.guest.map(1)
    assert caught.value.errno == errno.ENOSYS


def test_files_above_the_threshold_are_flagged(start):
    setting = start("--window", "64M", "--inode-dax", "8K")
    (setting.shared / "large").write_bytes(bytes(8192))
    (setting.shared / "small").write_bytes(bytes(8191))
    assert setting.guest.lookup(b"large").attr.flags == 2
    assert setting.guest.lookup(b"small").attr.flags == 0
    assert setting.guest.getattr(1).flags == 0
    every = start("--window", "64M", "--inode-dax", "0")
    (every.shared / "f").write_bytes(b"1")
    assert every.guest.lookup(b"f").attr.flags == 2
    none = start("--window", "0", "--inode-dax", "0")
    (none.shared / "f").write_bytes(b"1")
    assert none.guest.lookup(b"f").attr.flags == 0


def test_the_guest_sees_the_file_up_to_its_last_byte(mapped):
    assert mapped.window.read(0, 10000) == mapped.data
    numbers = mapped.daemon.stats()["window"]
    assert (numbers["mapped_bytes"], numbers["maps_live"], numbers["ranges_live"]) == (8192, 2, 1)
    assert numbers["tail_pages"] == 1
    assert "READ" not in mapped.daemon.stats()["requests"]


def test_the_counters_tell_which_ranges_of_which_files_are_shown(mapped):
    status = mapped.path.stat()
    name = f"{status.st_dev}:{status.st_ino}"
    numbers = mapped.daemon.stats()["window"]
    assert (numbers["shown"], numbers["range_bytes"]) == ({name: [0]}, RANGE)
    mapped.guest.unmap(0)
    assert mapped.daemon.stats()["window"]["shown"] == {}


def test_whole_pages_are_the_hosts_own(mapped):
    mapped.window.write(100, b"guest")
    assert mapped.path.read_bytes()[100:105] == b"guest"
    with mapped.path.open("r+b") as stream:
        stream.seek(200)
        stream.write(b"host")
    assert mapped.window.read(200, 4) == b"host"


SYNCS = {
    "flush": lambda fs: fs.guest.flush(fs.handle),
    "fsync": lambda fs: fs.guest.fsync(fs.handle),
    "release": lambda fs: fs.guest.release(fs.handle),
    "unmap": lambda fs: fs.guest.unmap(0),
    "syncfs": lambda fs: fs.guest.call(50, 1, bytes(8)),
    "setattr": lambda fs: fs.guest.setattr(fs.node, 8, size=9999),
    "extension": lambda fs: fs.guest.write(fs.handle, 10000, b"x"),
    "open": lambda fs: fs.guest.open(fs.node),
    "read": lambda fs: fs.guest.read(fs.handle, 0, 1),
    "fallocate": lambda fs: fs.guest.call(43, 0, struct.pack("<QQQII", fs.handle, 0, 20000, 0, 0)),
    "destroy": lambda fs: fs.guest.call(38, 0),
    "init": lambda fs: fs.guest.init(),
    "forget": lambda fs: fs.guest.forget(fs.node),
    "stop": lambda fs: fs.frontend.stop(),
    "terminate": lambda fs: (fs.daemon.process.terminate(), fs.daemon.end()),
    "qemu killed": lambda fs: (fs.frontend.control.close(), fs.daemon.end()),
    "nothing but time": lambda fs: until(lambda: b"stored" in fs.path.read_bytes()),
}


@pytest.mark.parametrize("sync", SYNCS)
def test_a_store_to_the_last_partial_page_reaches_the_file(mapped, sync):
    mapped.window.write(9000, b"stored")
    SYNCS[sync](mapped)
    assert mapped.path.read_bytes()[9000:9006] == b"stored"
    assert mapped.path.read_bytes()[:9000] == mapped.data[:9000]


def test_bytes_changed_on_both_sides_all_survive(mapped):
    mapped.window.write(9000, b"guest")
    with mapped.path.open("r+b") as stream:
        stream.seek(9500)
        stream.write(b"host")
    mapped.guest.flush(mapped.handle)
    assert mapped.path.read_bytes()[9000:9005] == b"guest" and mapped.path.read_bytes()[9500:9504] == b"host"
    assert mapped.window.read(9000, 5) == b"guest" and mapped.window.read(9500, 4) == b"host"


def test_the_host_changes_the_last_page_and_the_guest_sees_it_soon(mapped):
    with mapped.path.open("r+b") as stream:
        stream.seek(9500)
        stream.write(b"host")
    until(lambda: mapped.window.read(9500, 4) == b"host")


def test_a_file_that_grows_in_use_is_never_unmapped(mapped):
    """The guest appends through WRITE and stores through the mapping meanwhile: no map call, no lost byte."""
    calls = len(mapped.window.log)
    expected = bytearray(mapped.data)
    for number in range(300):
        line = b"line %5d\n" % number
        end = len(expected)
        mapped.guest.write(mapped.handle, end, line)
        expected += line
        assert mapped.window.read(end, len(line)) == line
        mapped.window.write(end, b"L")
        expected[end : end + 1] = b"L"
    mapped.guest.fsync(mapped.handle)
    assert mapped.path.read_bytes() == expected == mapped.window.read(0, len(expected))
    assert len(mapped.window.log) == calls


def test_the_grown_part_is_mapped_from_the_file_at_the_next_first_open(mapped):
    more = os.urandom(100000)
    mapped.guest.write(mapped.handle, 10000, more)
    assert mapped.daemon.stats()["window"]["mapped_bytes"] == 8192
    mapped.guest.open(mapped.node)  # not the first one: the range is in use
    assert mapped.daemon.stats()["window"]["mapped_bytes"] == 8192
    for handle in (mapped.handle, mapped.handle + 1):
        mapped.guest.release(handle)
    mapped.guest.open(mapped.node)
    numbers = mapped.daemon.stats()["window"]
    assert numbers["mapped_bytes"] == 110000 // PAGE * PAGE and numbers["tail_pages"] == 1
    assert mapped.window.read(0, 110000) == mapped.data + more


def test_the_host_appends(mapped):
    with mapped.path.open("ab") as stream:
        stream.write(b"more")
    assert mapped.guest.getattr(mapped.node).size == 10004
    assert mapped.window.read(9990, 14) == mapped.data[-10:] + b"more"


@pytest.mark.parametrize("size", [0, 1, 4096, 4097, 8192, 9999])
def test_the_guest_truncates_and_extends(mapped, size):
    mapped.window.write(9000, b"stored")
    mapped.guest.setattr(mapped.node, 8, size=size)
    expected = bytearray(mapped.data)
    expected[9000:9006] = b"stored"
    assert mapped.path.read_bytes() == expected[:size]
    mapped.guest.setattr(mapped.node, 8, size=20000)
    assert mapped.window.read(0, 20000) == expected[:size] + bytes(20000 - size) == mapped.path.read_bytes()


def test_the_guest_truncates_by_open(mapped):
    mapped.guest.open(mapped.node, os.O_RDWR | os.O_TRUNC)
    assert mapped.path.read_bytes() == b""
    assert mapped.daemon.stats()["window"]["mapped_bytes"] == 0
    mapped.guest.write(mapped.handle, 0, b"new")
    assert mapped.window.read(0, 3) == b"new"


def test_a_truncation_on_the_host_is_unmapped_at_once(mapped):
    """Pages beyond the end would kill QEMU: the watcher replaces them before anybody asks."""
    os.truncate(mapped.path, 100)
    until(lambda: mapped.daemon.stats()["window"]["mapped_bytes"] == 0)
    # Between taking the old pieces away and mapping the new tail, nothing is there to be read.
    until(lambda: mapped.daemon.stats()["window"]["maps_live"] == 1)
    until(lambda: mapped.window.read(0, 100) == mapped.data[:100])
    mapped.window.write(5000, b"nobody hears this")
    assert mapped.guest.getattr(mapped.node).size == 100
    assert mapped.path.read_bytes() == mapped.data[:100]


def test_replacement_on_the_host_leaves_the_open_file_alone(mapped):
    (mapped.shared / "new").write_bytes(b"new")
    os.rename(mapped.shared / "new", mapped.path)
    assert mapped.window.read(0, 10000) == mapped.data
    assert mapped.guest.lookup(b"f").node != mapped.node
    mapped.window.write(9000, b"x")
    mapped.guest.release(mapped.handle)
    assert mapped.path.read_bytes() == b"new"


def test_punching_a_hole(mapped):
    mapped.window.write(9000, b"gone")
    mapped.guest.call(43, 0, struct.pack("<QQQII", mapped.handle, 0, 10000, 3, 0))
    assert mapped.window.read(0, 10000) == bytes(10000) == mapped.path.read_bytes()


def test_copy_into_a_mapped_file(mapped):
    (mapped.shared / "source").write_bytes(b"s" * 3000)
    source = mapped.guest.open(mapped.guest.lookup(b"source").node)
    mapped.guest.call(47, 0, struct.pack("<7Q", source, 0, 0, mapped.handle, 8000, 3000, 0))
    assert mapped.window.read(0, 11000) == mapped.data[:8000] + b"s" * 3000


def test_an_empty_file_is_never_mapped(fs):
    (fs.shared / "empty").touch()
    node = fs.guest.lookup(b"empty").node
    fs.guest.map(node)
    assert fs.daemon.stats()["window"]["mapped_bytes"] == 0
    handle = fs.guest.open(node)
    fs.guest.write(handle, 0, b"filled")
    assert fs.window.read(0, 6) == b"filled"


def test_a_second_map_with_write_is_an_upgrade_without_a_gap(fs):
    (fs.shared / "f").write_bytes(b"z" * 5000)
    node = fs.guest.lookup(b"f").node
    fs.guest.map(node)
    calls = len(fs.window.log)
    fs.guest.map(node, write=True)
    assert len(fs.window.log) == calls
    assert fs.daemon.stats()["window"]["upgrades_total"] == 1
    fs.window.write(0, b"w")
    assert (fs.shared / "f").read_bytes()[:1] == b"w"


def test_a_running_program_is_shown_by_copy(fs):
    """It cannot be opened for writing, so QEMU cannot map it; the guest still reads it, and writing stays refused."""
    program = fs.shared / "program"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    running = subprocess.Popen([program, "60"])
    try:
        node = fs.guest.lookup(b"program").node
        fs.guest.map(node)
        data = program.read_bytes()
        assert fs.window.read(0, len(data)) == data
        with pytest.raises(FuseError) as caught:
            fs.guest.map(node, write=True)
        assert caught.value.errno == errno.ETXTBSY
    finally:
        running.kill()
        running.wait()
    fs.guest.map(node, write=True)
    fs.guest.open(node)
    assert fs.daemon.stats()["window"]["mapped_bytes"] == len(data) // PAGE * PAGE


def test_many_ranges_exhaustion_and_reclaim(fs):
    """Every place of the window is used, reused for another file without being freed, and freed."""
    size = 3 * RANGE
    for name in ("a", "b"):
        with (fs.shared / name).open("wb") as stream:
            stream.truncate(size)
            os.pwrite(stream.fileno(), name.encode() * 8, size - 8)
    nodes = [fs.guest.lookup(name).node for name in (b"a", b"b")]
    places = fs.window.size // RANGE
    for place in range(places):
        fs.guest.map(nodes[0], place % 3 * RANGE, place * RANGE)
    assert fs.daemon.stats()["window"]["ranges_live"] == places
    for place in range(places):
        fs.guest.map(nodes[1], 2 * RANGE, place * RANGE)
    assert fs.window.read(5 * RANGE + RANGE - 8, 8) == b"b" * 8
    with pytest.raises(FuseError):
        fs.guest.map(nodes[0], 0, places * RANGE)
    fs.guest.unmap(*[place * RANGE for place in range(places)])
    assert not fs.window.maps and fs.daemon.stats()["window"]["ranges_live"] == 0


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a small file system")
def test_a_hole_on_a_full_disk_is_enospc_before_anything_is_stored(start, tmp_path):
    """Stored into through the window, it would be a SIGBUS that kills QEMU."""
    shared = tmp_path / "0" / "shared"
    shared.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", shared], check=True)
    try:
        fs = start("--window", "64M")
        for name, size in (("sparse", 2 * RANGE), ("half", RANGE)):
            with (shared / name).open("wb") as stream:
                stream.truncate(size)
        half, sparse = (fs.guest.lookup(name).node for name in (b"half", b"sparse"))
        fs.guest.map(half, write=True)
        assert (shared / "half").stat().st_blocks * 512 == RANGE, "its holes have blocks now"
        assert (shared / "half").stat().st_size == RANGE
        fs.guest.map(sparse, position=RANGE)
        assert fs.window.read(RANGE, 4) == bytes(4), "reading needs no room"
        with pytest.raises(FuseError) as caught:
            fs.guest.map(sparse, position=RANGE, write=True)
        assert caught.value.errno == errno.ENOSPC
        descriptors = fs.daemon.stats()["descriptors"]
        fs.guest.unmap(RANGE)
        with pytest.raises(FuseError):
            fs.guest.map(sparse, position=RANGE, write=True)
        assert fs.daemon.stats()["descriptors"] < descriptors, "nothing is kept of what was refused"
        fs.window.write(0, b"still")
        assert (shared / "half").read_bytes()[:5] == b"still"
    finally:
        subprocess.run(["umount", "-l", shared], check=True)


def test_impossible_ranges_are_refused(mapped):
    for offset, position, length in (
        (0, 1, RANGE),
        (1, 0, RANGE),
        (0, 0, 4096),
        (0, 0, 0),
        (0, 0, 2 * RANGE),
        (0, 2**64 - RANGE, RANGE),
        (2**63, 0, RANGE),
        (2**64 - RANGE, 0, RANGE),
        (0, 0, 2**64 - 1),
    ):
        with pytest.raises(FuseError) as caught:
            mapped.guest.map(mapped.node, offset, position, length=length)
        assert caught.value.errno == errno.EINVAL
    assert mapped.window.read(0, 10000) == mapped.data


def test_other_things_than_files_are_not_mapped(fs):
    os.mkfifo(fs.shared / "p")
    for node in (1, fs.guest.lookup(b"p").node):
        with pytest.raises(FuseError):
            fs.guest.map(node)


def test_qemu_refuses_a_map(mapped):
    mapped.window.refuse = 1
    with pytest.raises(FuseError) as caught:
        mapped.guest.map(mapped.node, 0, RANGE)
    assert caught.value.errno == errno.EIO
    mapped.window.refuse = 0
    mapped.guest.map(mapped.node, 0, RANGE)
    assert mapped.window.read(RANGE, 10000) == mapped.data


def test_reset_drops_maps_and_a_new_session_starts_clean(mapped):
    mapped.window.write(9000, b"stored")
    mapped.frontend.reset()
    mapped.guest.init()
    assert mapped.path.read_bytes()[9000:9006] == b"stored"
    numbers = mapped.daemon.stats()
    assert (numbers["window"]["ranges_live"], numbers["inodes"], numbers["open_files"]) == (0, 1, 0)
    mapped.guest.map(mapped.guest.lookup(b"f").node)
    assert mapped.window.read(0, 8192) == mapped.data[:8192]


def test_pause_and_resume_keep_the_maps(mapped):
    mapped.frontend.stop()
    mapped.window.write(9000, b"stored")
    mapped.frontend.start()
    mapped.guest.flush(mapped.handle)
    assert mapped.path.read_bytes()[9000:9006] == b"stored"


def test_stop_while_qemu_owes_an_answer(mapped):
    """QEMU stops the device from the loop that answers maps: the daemon must not wait, and does the request afterwards."""
    mapped.frontend.backend_hold.set()
    request = threading.Thread(target=mapped.guest.map, args=(mapped.node, 0, RANGE))
    request.start()
    time.sleep(0.2)
    before = mapped.frontend.rings[1].next
    assert mapped.frontend.stop()[1] == (before - 1) & 0xFFFF
    mapped.frontend.backend_hold.clear()
    mapped.frontend.start()
    request.join(5)
    assert not request.is_alive()
    assert mapped.window.read(RANGE, 10000) == mapped.data


def test_mapped_files_come_back_in_the_memory_table(mapped):
    """QEMU lists the window's files as memory: they are not mapped here, where a truncation would kill the daemon."""
    regions = []
    for number, (length, _, fd) in enumerate(mapped.window.maps.values()):
        regions.append((0x2_0000_0000 + number * RANGE, length, 0x7E00_0000_0000 + number * RANGE, 0, fd))
    mapped.frontend.set_memory(regions)
    os.truncate(mapped.path, 0)
    assert mapped.guest.getattr(mapped.node).size == 0
    maps = Path(f"/proc/{mapped.daemon.process.pid}/maps").read_text()
    assert "hostfsd-tail" not in maps and "shared/f" not in maps
