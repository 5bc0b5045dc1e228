"""POSIX passthrough: every operation's effect on the host, seen from both sides."""

import errno
import os
import resource
import stat
import struct
import subprocess

import pytest
from guest import FuseError


def test_create_write_read_release(fs):
    entry, handle = fs.guest.create(b"a", mode=0o666)
    assert fs.guest.write(handle, 3, b"hello") == 5
    assert fs.guest.read(handle, 0, 100) == b"\0\0\0hello"
    assert (fs.shared / "a").read_bytes() == b"\0\0\0hello"
    assert stat.S_IMODE((fs.shared / "a").stat().st_mode) == 0o644
    fs.guest.release(handle)
    with pytest.raises(FuseError) as caught:
        fs.guest.read(handle, 0, 1)
    assert caught.value.errno == errno.EBADF
    assert fs.guest.getattr(entry.node).size == 8


def test_large_read_and_write_in_many_descriptors(fs):
    _, handle = fs.guest.create(b"big")
    data = os.urandom(1 << 20)
    assert fs.guest.write(handle, 0, data) == len(data)
    assert fs.guest.read(handle, 0, 1 << 20) == data
    assert fs.guest.read(handle, (1 << 20) - 10, 4096) == data[-10:]
    counted = fs.daemon.stats()
    assert counted["write_bytes"] == 1 << 20 and counted["read_bytes"] == (1 << 20) + 10
    assert counted["requests"]["READ"] == 2


def test_indirect_descriptors(fs):
    (fs.shared / "x").write_bytes(b"123")
    assert fs.guest.lookup(b"x", indirect=True).attr.size == 3


def test_append_goes_to_the_end(fs):
    (fs.shared / "log").write_bytes(b"one")
    handle = fs.guest.open(fs.guest.lookup(b"log").node, os.O_WRONLY | os.O_APPEND)
    (fs.shared / "log").write_bytes(b"onetwo")
    fs.guest.write(handle, 3, b"three")
    assert (fs.shared / "log").read_bytes() == b"onetwothree"


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: files get other owners")
def test_created_things_belong_to_the_caller(fs):
    fs.shared.chmod(0o755)  # the guest's kernel has decided already; the host does not decide again
    fs.guest.uid, fs.guest.gid = 1234, 5678
    fs.guest.create(b"f", mode=0o666, umask=0o027)
    fs.guest.mkdir(b"d", 0o777, 0o077)
    fs.guest.call(6, 1, b"l\0target\0")
    fs.guest.call(8, 1, struct.pack("<IIII", stat.S_IFIFO | 0o666, 0, 0o002, 0) + b"p\0")
    for name, mode in (("f", 0o640), ("d", 0o700), ("l", 0o777), ("p", 0o664)):
        status = os.lstat(fs.shared / name)
        assert (status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)) == (1234, 5678, mode), name
    fs.guest.uid = fs.guest.gid = 0
    fs.guest.create(b"root")
    assert (fs.shared / "root").stat().st_uid == 0
    fs.guest.call(8, 1, struct.pack("<IIII", stat.S_IFCHR | 0o600, 0x103, 0, 0) + b"null\0")
    assert os.stat(fs.shared / "null").st_rdev == os.makedev(1, 3)


def test_exclusive_create(fs):
    (fs.shared / "there").write_bytes(b"old")
    with pytest.raises(FuseError) as caught:
        fs.guest.create(b"there", os.O_RDWR | os.O_EXCL)
    assert caught.value.errno == errno.EEXIST
    _, handle = fs.guest.create(b"there", os.O_RDWR)
    assert fs.guest.read(handle, 0, 9) == b"old"
    fs.guest.create(b"there", os.O_RDWR | os.O_TRUNC)
    assert (fs.shared / "there").read_bytes() == b""


def test_setattr(fs):
    (fs.shared / "f").write_bytes(b"0123456789")
    node = fs.guest.lookup(b"f").node
    assert stat.S_IMODE(fs.guest.setattr(node, 1, mode=0o100600).mode) == 0o600
    assert fs.guest.setattr(node, 8, size=4).size == 4
    assert (fs.shared / "f").read_bytes() == b"0123"
    found = fs.guest.setattr(node, 16 | 32, times=(1000, 2000, 0, 5, 6, 0))
    assert (found.atime, found.atime_ns, found.mtime, found.mtime_ns) == (1000, 5, 2000, 6)
    found = fs.guest.setattr(node, 32, times=(0, (1 << 64) - 10, 0, 0, 0, 0))
    assert found.mtime == (1 << 64) - 10 and found.atime == 1000
    assert os.stat(fs.shared / "f").st_mtime == -10
    assert fs.guest.setattr(node, 32 | 256).mtime > 10**9
    if os.geteuid() == 0:
        found = fs.guest.setattr(node, 2 | 4, uid=7, gid=8)
        assert (found.uid, found.gid) == (7, 8)
        os.symlink("f", fs.shared / "l")
        link = fs.guest.lookup(b"l").node
        assert fs.guest.setattr(link, 2, uid=9).uid == 9
        assert os.stat(fs.shared / "f").st_uid == 7


def test_truncate_by_handle_of_an_unlinked_file(fs):
    entry, handle = fs.guest.create(b"gone")
    fs.guest.write(handle, 0, b"x" * 100)
    fs.guest.call(10, 1, b"gone\0")
    assert fs.guest.setattr(entry.node, 8 | 64, handle=handle, size=10).size == 10
    assert fs.guest.read(handle, 0, 100) == b"x" * 10


def test_links_and_names(fs):
    guest = fs.guest
    entry, _ = guest.create(b"f")
    linked = guest.call(13, 1, struct.pack("<Q", entry.node) + b"hard\0")
    assert struct.unpack_from("<Q", linked)[0] == entry.node
    guest.call(6, 1, b"soft\0some/where\0")
    assert guest.call(5, guest.lookup(b"soft").node) == b"some/where"
    directory = guest.mkdir(b"d")
    guest.call(12, 1, struct.pack("<Q", directory.node) + b"hard\0moved\0")
    assert sorted(os.listdir(fs.shared)) == ["d", "f", "soft"]
    guest.call(45, 1, struct.pack("<QII", directory.node, 2, 0) + b"f\0moved\0")  # RENAME_EXCHANGE
    with pytest.raises(FuseError) as caught:
        guest.call(45, 1, struct.pack("<QII", directory.node, 1, 0) + b"f\0moved\0")  # RENAME_NOREPLACE
    assert caught.value.errno == errno.EEXIST
    with pytest.raises(FuseError) as caught:
        guest.call(11, 1, b"d\0")
    assert caught.value.errno == errno.ENOTEMPTY
    guest.call(10, directory.node, b"moved\0")
    guest.call(11, 1, b"d\0")
    assert sorted(os.listdir(fs.shared)) == ["f", "soft"]
    with pytest.raises(FuseError) as caught:
        guest.lookup(b"n" * 256)
    assert caught.value.errno == errno.ENAMETOOLONG


def test_hard_links_are_one_inode(fs):
    (fs.shared / "a").write_bytes(b"1")
    os.link(fs.shared / "a", fs.shared / "b")
    assert fs.guest.lookup(b"a").node == fs.guest.lookup(b"b").node


@pytest.mark.parametrize("plus", [False, True])
def test_directories_are_read_in_full_with_stable_offsets(fs, plus):
    names = {f"file-{number:04}".encode() for number in range(700)}
    for name in names:
        (fs.shared / name.decode()).touch()
    listed = fs.guest.list(1, plus)
    assert {name for *_, name in listed} == names | {b".", b".."}
    assert len({offset for _, _, offset, _, _ in listed}) == len(listed)
    handle = fs.guest.opendir(1)
    for index in (0, 350, 100, 600):  # anywhere, in any order, and after others were removed
        again = fs.guest.readdir(handle, listed[index][2], 4096, plus)
        assert [name for *_, name in again] == [name for *_, name in listed[index + 1 : index + 1 + len(again)]]
    for *_, name in listed[:300]:
        if name in names:
            (fs.shared / name.decode()).unlink()
    fs.guest.releasedir(handle)
    handle = fs.guest.opendir(1)
    rest, offset = [], listed[299][2]
    while part := fs.guest.readdir(handle, offset, 4096, plus):
        rest += part
        offset = part[-1][2]
    assert {name for *_, name in rest} == {name for *_, name in listed[300:]}


def test_readdirplus_counts_lookups(fs):
    for number in range(50):
        (fs.shared / str(number)).touch()
    listed = fs.guest.list(1, plus=True)
    assert fs.daemon.stats()["inodes"] == 51
    for entry, *_, name in listed:
        assert (entry.node == 0) == (name in (b".", b".."))
        if entry.node:
            fs.guest.forget(entry.node)
    assert fs.daemon.stats()["inodes"] == 1


@pytest.mark.parametrize(("cache", "auto"), [("never", True), ("auto", False), ("always", False)])
def test_attributes_come_with_the_names_where_the_guest_may_keep_them(start, cache, auto):
    flags = start("--cache", cache).flags[0]
    assert flags >> 13 & 1
    assert bool(flags >> 14 & 1) == auto


def test_a_listing_leaves_descriptors_for_what_is_asked_for_by_name(fs):
    resource.prlimit(fs.daemon.process.pid, resource.RLIMIT_NOFILE, (100, 100))
    for number in range(300):
        (fs.shared / str(number)).touch()
    listed = fs.guest.list(1, plus=True)
    assert len(listed) == 302
    assert 45 < sum(entry.node != 0 for entry, *_ in listed) < 80
    assert fs.guest.lookup(b"299").node


def test_the_root_shows_nothing_above_itself(fs):
    parent = fs.shared.parent.stat().st_ino
    assert parent not in {number for _, number, *_ in fs.guest.list(1)}


def test_statfs_fallocate_lseek_copy_fsync(fs):
    guest = fs.guest
    blocks = struct.unpack_from("<Q", guest.call(17, 1))[0]
    assert blocks == os.statvfs(fs.shared).f_blocks
    entry, handle = guest.create(b"f")
    guest.call(43, 0, struct.pack("<QQQII", handle, 0, 1 << 20, 0, 0))
    assert guest.getattr(entry.node).size == 1 << 20
    guest.write(handle, 0, b"a" * 8192)
    guest.call(43, 0, struct.pack("<QQQII", handle, 0, 4096, 3, 0))
    assert guest.read(handle, 0, 8192) == bytes(4096) + b"a" * 4096
    _, other = guest.create(b"g")
    body = struct.pack("<7Q", handle, 4096, 0, other, 0, 4096, 0)
    assert struct.unpack_from("<I", guest.call(47, 0, body))[0] == 4096
    assert (fs.shared / "g").read_bytes() == b"a" * 4096
    os.truncate(fs.shared / "g", 1 << 20)
    assert struct.unpack("<Q", guest.call(46, 0, struct.pack("<QQII", other, 0, os.SEEK_HOLE, 0)))[0] == 4096
    guest.fsync(handle)
    guest.fsync(handle, data_only=True)
    guest.call(50, 1, bytes(8))
    directory = guest.opendir(1)
    guest.call(30, 0, struct.pack("<QII", directory, 0, 0))


def test_what_is_not_served_is_refused_cleanly(fs):
    for op in (31, 32, 33, 34, 37, 39, 40, 51, 52, 60, 99, 4096, 2**32 - 1):
        with pytest.raises(FuseError) as caught:
            fs.guest.call(op, 1, bytes(64))
        assert caught.value.errno == (errno.ENOTTY if op == 39 else errno.ENOSYS)


def test_xattr_is_a_switch(start):
    off, on = start("--window", "0"), start("--window", "0", "--xattr")
    for setting in (off, on):
        (setting.shared / "f").touch()
    try:
        os.setxattr(on.shared / "f", "user.probe", b"1")
    except OSError:
        pytest.skip("the file system of the tests has no user attributes")
    node = off.guest.lookup(b"f").node
    with pytest.raises(FuseError) as caught:
        off.guest.call(22, node, struct.pack("<II", 0, 0) + b"user.a\0")
    assert caught.value.errno == errno.ENOSYS
    guest, node = on.guest, on.guest.lookup(b"f").node
    guest.call(21, node, struct.pack("<II", 3, 0) + b"user.a\0" + b"xyz")
    assert os.getxattr(on.shared / "f", "user.a") == b"xyz"
    assert struct.unpack_from("<I", guest.call(22, node, struct.pack("<II", 0, 0) + b"user.a\0"))[0] == 3
    assert guest.call(22, node, struct.pack("<II", 100, 0) + b"user.a\0") == b"xyz"
    with pytest.raises(FuseError) as caught:
        guest.call(22, node, struct.pack("<II", 1, 0) + b"user.a\0")
    assert caught.value.errno == errno.ERANGE
    assert b"user.a\0" in guest.call(23, node, struct.pack("<II", 1000, 0))
    guest.call(24, node, b"user.a\0")
    with pytest.raises(FuseError) as caught:
        guest.call(22, node, struct.pack("<II", 100, 0) + b"user.a\0")
    assert caught.value.errno == errno.ENODATA


@pytest.mark.parametrize(
    ("mode", "seconds", "file_flags", "dir_flags"), [("never", 0, 1, 0), ("auto", 1, 0, 0), ("always", 86400, 2, 10)]
)
def test_cache_modes(start, mode, seconds, file_flags, dir_flags):
    setting = start("--cache", mode, "--window", "0")
    (setting.shared / "f").touch()
    entry = setting.guest.lookup(b"f")
    assert (entry.entry_valid, entry.attr_valid) == (seconds, seconds)
    no_flush = 32
    for flags, expected in ((os.O_RDWR, file_flags), (os.O_RDONLY, file_flags | no_flush)):
        opened = setting.guest.call(14, entry.node, struct.pack("<II", flags, 0))
        assert struct.unpack_from("<QI", opened)[1] == expected
    opened = setting.guest.call(27, 1, struct.pack("<II", 0, 0))
    assert struct.unpack_from("<QI", opened)[1] == dir_flags | no_flush


def test_readonly_share(start):
    setting = start("--readonly", "--window", "0")
    (setting.shared / "f").write_bytes(b"data")
    node = setting.guest.lookup(b"f").node
    assert setting.guest.read(setting.guest.open(node, os.O_RDONLY), 0, 10) == b"data"
    for attempt in (
        lambda: setting.guest.open(node, os.O_RDWR),
        lambda: setting.guest.open(node, os.O_RDONLY | os.O_TRUNC),
        lambda: setting.guest.create(b"g"),
        lambda: setting.guest.setattr(node, 1, mode=0),
        lambda: setting.guest.mkdir(b"d"),
    ):
        with pytest.raises(FuseError) as caught:
            attempt()
        assert caught.value.errno == errno.EROFS
    assert os.listdir(setting.shared) == ["f"]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: mounts a small file system")
def test_full_disk_is_enospc(start, tmp_path):
    small = tmp_path / "0" / "shared"
    small.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", small], check=True)
    try:
        guest = start("--window", "0").guest
        _, handle = guest.create(b"f")
        guest.write(handle, 0, b"x" * (1 << 20))
        with pytest.raises(FuseError) as caught:
            guest.write(handle, 1 << 20, b"x" * 4096)
        assert caught.value.errno == errno.ENOSPC
    finally:
        subprocess.run(["umount", "-l", small], check=True)
