"""Nothing leads out of the shared directory, whatever the guest sends and however the host's names change meanwhile."""

import errno
import itertools
import os
import re
import resource
import stat
import struct
import subprocess
import threading
from pathlib import Path

import pytest
from guest import FuseError

from hostfsd import libc

SECRET = b"a secret outside of the share"
root_only = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: the sandbox is a mount namespace")


@pytest.fixture
def jail(start):
    setting = start("--window", "64M")
    setting.secret = setting.base / "secret"
    setting.secret.write_bytes(SECRET)
    return setting


def refused(call, *errors: int) -> None:
    with pytest.raises(FuseError) as caught:
        call()
    if errors:
        assert caught.value.errno in errors


NAMES = [b"..", b".", b"", b"/", b"../secret", b"/etc/passwd", b"a/../../secret", b"sub/..", b"./secret"]


def test_no_request_takes_a_path_for_a_name(jail):
    guest = jail.guest
    node = guest.mkdir(b"sub").node
    file = struct.pack("<Q", guest.create(b"file")[0].node)
    for parent, name in itertools.product((1, node), NAMES):
        for op, body in (
            (1, name + b"\0"),
            (8, struct.pack("<IIII", stat.S_IFREG | 0o600, 0, 0, 0) + name + b"\0"),
            (9, struct.pack("<II", 0o755, 0) + name + b"\0"),
            (35, struct.pack("<IIII", os.O_CREAT | os.O_RDWR, 0o600, 0, 0) + name + b"\0"),
            (6, name + b"\0target\0"),
            (10, name + b"\0"),
            (11, name + b"\0"),
            (12, struct.pack("<Q", 1) + name + b"\0new\0"),
            (12, struct.pack("<Q", 1) + b"file\0" + name + b"\0"),
            (45, struct.pack("<QII", 1, 2, 0) + b"file\0" + name + b"\0"),
            (13, file + name + b"\0"),
        ):
            refused(lambda: guest.call(op, parent, body), errno.EINVAL)  # noqa: B023
    assert jail.secret.read_bytes() == SECRET
    assert sorted(os.listdir(jail.shared)) == ["file", "sub"] and not os.listdir(jail.shared / "sub")


def test_names_without_an_end_are_refused(jail):
    for op, body in ((1, b"abc"), (6, b"abc\0def"), (12, struct.pack("<Q", 1) + b"a\0b"), (10, b"")):
        refused(lambda: jail.guest.call(op, 1, body), errno.EINVAL)  # noqa: B023


@pytest.mark.parametrize("target", ["../secret", "/etc/passwd", "{secret}", "/proc/self/root/etc/passwd"])
def test_symbolic_links_are_never_followed(jail, target):
    os.symlink(target.format(secret=jail.secret), jail.shared / "link")
    guest = jail.guest
    entry = guest.lookup(b"link")
    assert stat.S_ISLNK(entry.attr.mode)
    for flags in (os.O_RDONLY, os.O_RDWR, os.O_WRONLY | os.O_TRUNC):
        refused(lambda: guest.open(entry.node, flags), errno.ENXIO)  # noqa: B023
        refused(lambda: guest.create(b"link", flags), errno.ENXIO)  # noqa: B023
    refused(lambda: guest.opendir(entry.node), errno.ENOTDIR)
    refused(lambda: guest.lookup(b"x", entry.node), errno.ENOTDIR)
    refused(lambda: guest.setattr(entry.node, 8, size=0), errno.ENXIO)
    refused(lambda: guest.setattr(entry.node, 1, mode=0o777), errno.EOPNOTSUPP)
    refused(lambda: guest.map(entry.node, write=True), errno.EINVAL)
    guest.setattr(entry.node, 16 | 32, times=(1, 1, 0, 0, 0, 0))
    assert jail.secret.read_bytes() == SECRET and jail.secret.stat().st_mtime != 1


def test_a_link_to_a_directory_leads_nowhere(jail):
    os.symlink("..", jail.shared / "up")
    os.symlink("/", jail.shared / "top")
    for name in (b"up", b"top"):
        node = jail.guest.lookup(name).node
        refused(lambda: jail.guest.lookup(b"secret", node), errno.ENOTDIR)  # noqa: B023
        refused(lambda: jail.guest.create(b"new", node=node), errno.ENOTDIR)  # noqa: B023


def test_pipes_sockets_and_devices_are_never_opened(jail):
    os.mkfifo(jail.shared / "pipe")
    names = [b"pipe"]
    if os.geteuid() == 0:
        os.mknod(jail.shared / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
        names.append(b"null")
    for name in names:
        node = jail.guest.lookup(name).node
        refused(lambda: jail.guest.open(node, os.O_RDONLY), errno.ENXIO)  # noqa: B023
        refused(lambda: jail.guest.create(name), errno.ENXIO)  # noqa: B023
        refused(lambda: jail.guest.setattr(node, 8, size=0), errno.ENXIO)  # noqa: B023


def opened(call, *errors: int) -> int | None:
    """Return the handle that a call opens, None when it is refused with one of the errors; others are raised."""
    try:
        return call()
    except FuseError as error:
        if error.errno in errors:
            return None
        raise


def swap(jail, stop: threading.Event, one: str, other: str) -> threading.Thread:
    """Exchange two names of the share as fast as possible, until told to stop."""
    directory = os.open(jail.shared, os.O_RDONLY)

    def run() -> None:
        while not stop.is_set():
            libc.renameat2(directory, one.encode(), directory, other.encode(), 2)
        os.close(directory)

    thread = threading.Thread(target=run)
    thread.start()
    return thread


def test_a_file_that_is_exchanged_for_a_link_meanwhile(jail):
    (jail.shared / "race").write_bytes(b"inside")
    os.symlink(jail.secret, jail.shared / "other")
    stop = threading.Event()
    thread = swap(jail, stop, "race", "other")
    kinds = set()
    try:
        for _ in range(1500):
            entry = jail.guest.lookup(b"race")
            kinds.add(stat.S_IFMT(entry.attr.mode))
            handle = opened(lambda: jail.guest.open(entry.node, os.O_RDWR), errno.ENXIO)  # noqa: B023
            if handle is None:
                continue
            assert jail.guest.read(handle, 0, 100) == b"inside"
            jail.guest.release(handle)
            handle = opened(lambda: jail.guest.create(b"race")[1], errno.ENXIO, errno.ENOENT)
            if handle is None:
                continue
            assert jail.guest.read(handle, 0, 100) == b"inside"
            jail.guest.release(handle)
    finally:
        stop.set()
        thread.join()
    assert kinds == {stat.S_IFREG, stat.S_IFLNK}, "the race was never run"
    assert jail.secret.read_bytes() == SECRET


def test_a_directory_that_is_exchanged_for_a_link_meanwhile(jail):
    (jail.base / "outside").mkdir()
    (jail.base / "outside" / "file").write_bytes(SECRET)
    (jail.shared / "dir").mkdir()
    (jail.shared / "dir" / "file").write_bytes(b"inside")
    os.symlink(jail.base / "outside", jail.shared / "other")
    stop = threading.Event()
    thread = swap(jail, stop, "dir", "other")
    reached = 0
    try:
        for number in range(1000):
            directory = jail.guest.lookup(b"dir").node
            handle = opened(
                lambda: jail.guest.open(jail.guest.lookup(b"file", directory).node),  # noqa: B023
                errno.ENOTDIR,
            )
            if handle is None:
                continue
            jail.guest.create(b"new%d" % number, node=directory)
            reached += 1
            assert jail.guest.read(handle, 0, 100) == b"inside"
            jail.guest.release(handle)
    finally:
        stop.set()
        thread.join()
    assert reached
    assert os.listdir(jail.base / "outside") == ["file"]


@root_only
def test_a_directory_that_the_host_moves_out_of_the_share_leads_nowhere(jail):
    """The guest still knows its node, and the node of a directory below: their descriptors go with them."""
    (jail.shared / "dir" / "sub").mkdir(parents=True)
    (jail.shared / "dir" / "sub" / "old").write_bytes(b"inside")
    guest = jail.guest
    top = guest.lookup(b"dir").node
    sub = guest.lookup(b"sub", top).node
    old = guest.lookup(b"old", sub).node
    listing, reading = guest.opendir(sub), guest.open(old)
    inside = guest.create(b"inside")[0].node
    outside = jail.base / "outside"
    (jail.shared / "dir").rename(outside)
    (outside / "new").write_bytes(SECRET)
    (outside / "sub" / "new").write_bytes(SECRET)
    modes = struct.pack("<II", 0o755, 0)
    for node in (top, sub):
        for op, body in (
            (1, b"new\0"),
            (8, struct.pack("<IIII", stat.S_IFREG | 0o600, 0, 0, 0) + b"made\0"),
            (9, modes + b"made\0"),
            (35, struct.pack("<IIII", os.O_CREAT | os.O_RDWR, 0o600, 0, 0) + b"made\0"),
            (35, struct.pack("<IIII", os.O_CREAT | os.O_RDWR, 0o600, 0, 0) + b"new\0"),
            (6, b"made\0target\0"),
            (10, b"new\0"),
            (11, b"sub\0"),
            (12, struct.pack("<Q", 1) + b"new\0taken\0"),
            (45, struct.pack("<QII", 1, 0, 0) + b"new\0taken\0"),
            (13, struct.pack("<Q", inside) + b"made\0"),
            (27, bytes(8)),
        ):
            refused(lambda: guest.call(op, node, body), errno.ESTALE)  # noqa: B023
        refused(lambda: guest.call(12, 1, struct.pack("<Q", node) + b"inside\0made\0"), errno.ESTALE)  # noqa: B023
    for plus in (False, True):
        refused(lambda: guest.readdir(listing, plus=plus), errno.ESTALE)  # noqa: B023
    assert sorted(os.listdir(outside)) == ["new", "sub"]
    assert sorted(os.listdir(outside / "sub")) == ["new", "old"]
    assert os.listdir(jail.shared) == ["inside"]
    # What was open stays so, as every descriptor does.
    assert guest.read(reading, 0, 100) == b"inside"
    outside.rename(jail.shared / "back")
    assert guest.lookup(b"new", sub).node and [entry[4] for entry in guest.readdir(listing)]


def test_a_hard_link_is_what_was_asked_for(jail):
    """LINK names its source by node: exchanging names between lookup and link changes nothing."""
    (jail.shared / "f").write_bytes(b"inside")
    node = jail.guest.lookup(b"f").node
    (jail.shared / "f").unlink()
    os.symlink(jail.secret, jail.shared / "f")
    refused(lambda: jail.guest.call(13, 1, struct.pack("<Q", node) + b"linked\0"), errno.ENOENT)
    assert os.listdir(jail.shared) == ["f"]


def status_of(jail) -> dict[str, str]:
    lines = Path(f"/proc/{jail.daemon.process.pid}/status").read_text().splitlines()
    return dict(line.split(":\t", 1) for line in lines if ":\t" in line)


@root_only
def test_the_process_is_confined(jail):
    pid = jail.daemon.process.pid
    status = status_of(jail)
    allowed = sum(1 << number for number in (0, 1, 3, 4, 6, 7, 27, 31))
    for name in ("CapEff", "CapPrm", "CapBnd"):
        assert int(status[name], 16) & ~allowed == 0, name
    assert int(status["CapInh"], 16) == int(status["CapAmb"], 16) == 0
    assert status["NoNewPrivs"] == "1"
    for thread in os.listdir(f"/proc/{pid}/task"):
        text = Path(f"/proc/{pid}/task/{thread}/status").read_text()
        assert re.search(r"NoNewPrivs:\t1", text) and f"CapPrm:\t{allowed:016x}" in text
    for namespace in ("mnt", "net", "ipc"):
        assert os.readlink(f"/proc/{pid}/ns/{namespace}") != os.readlink(f"/proc/self/ns/{namespace}")
    mounts = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    assert len(mounts) == 1 and {"nosuid", "nodev", "noexec"} <= set(mounts[0].split()[5].split(","))
    assert sorted(os.listdir(f"/proc/{pid}/root")) == sorted(os.listdir(jail.shared))
    limits = Path(f"/proc/{pid}/limits").read_text()
    files = int(re.search(r"Max open files\s+(\d+)", limits)[1])
    assert files == jail.daemon.stats()["descriptors_max"] <= 1 << 20


@root_only
def test_what_ending_threads_need_was_loaded_before_the_sandbox_hid_it(jail):
    """Without it glibc aborts the daemon now and then, when one of its threads ends after the others."""
    pid = jail.daemon.process.pid
    assert "/libgcc_s.so" in Path(f"/proc/{pid}/maps").read_text()
    assert not list(Path(f"/proc/{pid}/root").rglob("libgcc_s*"))


@root_only
def test_other_mounts_below_the_share_are_not_shared(start, tmp_path):
    below = tmp_path / "0" / "shared" / "below"
    below.mkdir(parents=True)
    subprocess.run(["mount", "-t", "tmpfs", "tmpfs", below], check=True)
    try:
        (below / "hidden").touch()
        setting = start("--window", "0")
        node = setting.guest.lookup(b"below").node
        refused(lambda: setting.guest.lookup(b"hidden", node), errno.ENOENT)
    finally:
        subprocess.run(["umount", "-l", below], check=True)


def test_descriptors_run_out_cleanly(jail):
    """A guest that holds everything gets errors; the daemon goes on, and gives all of it back."""
    resource.prlimit(jail.daemon.process.pid, resource.RLIMIT_NOFILE, (200, 200))
    for number in range(300):
        (jail.shared / str(number)).touch()
    held = [opened(lambda: jail.guest.lookup(b"%d" % number).node, errno.EMFILE) for number in range(300)]  # noqa: B023
    held = [node for node in held if node]
    assert 100 < len(held) < 200
    refused(lambda: jail.guest.open(held[0]), errno.EMFILE)
    jail.guest.forget(held.pop())  # room for the file to map, none for its tail
    for _ in range(20):
        refused(lambda: jail.guest.map(held[0]), errno.EMFILE)
    for node in held:
        jail.guest.forget(node)
    assert jail.guest.lookup(b"299").node
    assert jail.daemon.stats()["inodes"] == 2
    jail.daemon.process.terminate()
    assert jail.daemon.end() == (0, "")
