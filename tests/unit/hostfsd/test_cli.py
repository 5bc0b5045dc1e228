"""The command line: what it refuses and how it says so, how the daemon ends, the statistics, the zipapp."""

import ast
import contextlib
import fcntl
import json
import os
import signal
import struct
import subprocess
import sys
import threading
import time
import zipfile

import pytest
from frontend import ROOT, Daemon, Frontend
from guest import Guest

from hostfsd import build, cli

REFUSED = [
    (["--window", "1M"], "a power of two from 2M"),
    (["--window", "2560M"], "a power of two from 2M"),
    (["--window", "16G"], "to 8G"),
    (["--window", "much"], "is no size"),
    (["--window", "-2M"], "argument"),
    (["--inode-dax", "1.5M"], "is no size"),
    (["--readonly"], "refused with a DAX window"),
    (["--queues", "0"], "1 to 16"),
    (["--queues", "17"], "1 to 16"),
    (["--tag", ""], "1 to 36 bytes"),
    (["--tag", "t" * 37], "1 to 36 bytes"),
    (["--cache", "sometimes"], "invalid choice"),
    (["--shared-dir", "/nowhere/at/all"], "no such directory"),
    (["--nonsense"], "unrecognized"),
]


@pytest.mark.parametrize(("arguments", "said"), REFUSED)
def test_bad_arguments_are_refused(tmp_path, capsys, arguments, said):
    with pytest.raises(SystemExit) as caught:
        cli.parse(["--socket", str(tmp_path / "s"), "--shared-dir", str(tmp_path), "--sandbox", "none", *arguments])
    assert caught.value.code == 2
    assert said in capsys.readouterr().err
    assert not (tmp_path / "s").exists()


def test_sizes():
    assert [cli.size(text) for text in ("0", "4096", "64K", "512M", "2G")] == [0, 4096, 65536, 512 << 20, 2 << 30]


def test_a_socket_that_cannot_be_made(tmp_path, capsys):
    arguments = ["--socket", str(tmp_path / "no" / "dir"), "--shared-dir", str(tmp_path), "--sandbox", "none"]
    assert cli.main(arguments) == 1
    assert "cannot listen" in capsys.readouterr().err


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("connected", [False, True])
def test_a_signal_ends_it_cleanly(tmp_path, number, connected):
    (tmp_path / "shared").mkdir()
    daemon = Daemon(tmp_path, tmp_path / "shared", "--sandbox", "none")
    try:
        frontend = Frontend(daemon.socket) if connected else None
        if frontend:
            Guest(frontend).init()
        daemon.process.send_signal(number)
        assert daemon.end() == (0, "")
    finally:
        daemon.kill()


def test_it_ends_when_qemu_goes_away(fs):
    fs.frontend.control.close()
    assert fs.daemon.end() == (0, "")


def test_a_qemu_without_the_window_is_refused(tmp_path):
    (tmp_path / "shared").mkdir()
    daemon = Daemon(tmp_path, tmp_path / "shared", "--sandbox", "none")
    try:
        with pytest.raises((OSError, AssertionError)):
            Frontend(daemon.socket, window=False)
        status, said = daemon.end()
        assert status == 3 and "QEMU 11.1 can" in said
    finally:
        daemon.kill()


def test_without_a_window_any_qemu_will_do(start):
    setting = start("--window", "0", window=False)
    assert setting.guest.getattr(1).ino


def test_statistics(fs):
    first = fs.daemon.stats()
    assert first["schema"] == 1 and first["connected"] and first["dax"] and first["cache"] == "auto"
    for _ in range(5):
        fs.guest.getattr(1)
    second = fs.daemon.stats()
    assert second["requests"]["GETATTR"] - first["requests"].get("GETATTR", 0) == 5
    assert second["requests_total"] == sum(second["requests"].values())
    assert second["descriptors"] == len(os.listdir(f"/proc/{fs.daemon.process.pid}/fd")) + 1  # the one that asks
    assert json.dumps(second)


@contextlib.contextmanager
def lease(path):
    """Hold a lease: whoever opens the file waits in the host's kernel until it is given back."""
    before = signal.signal(signal.SIGIO, signal.SIG_IGN)  # says that somebody waits; it would end this process
    fd = os.open(path, os.O_RDWR)
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_WRLCK)
        yield
    finally:
        os.close(fd)
        signal.signal(signal.SIGIO, before)


@contextlib.contextmanager
def owed(frontend):
    """QEMU owes the answers to maps."""
    frontend.backend_hold.set()
    try:
        yield
    finally:
        frontend.backend_hold.clear()


@pytest.mark.parametrize("who", ["the host's kernel", "QEMU"])
def test_queues_serve_in_parallel(start, who):
    """A request that waits for the host's kernel or for QEMU holds up its own queue and no other one."""
    setting = start("--queues", "2", "--window", "64M", queues=3)
    guest = setting.guest
    for name in ("f", "waits"):
        (setting.shared / name).write_bytes(b"x" * 4096)
    handle, node = guest.open(guest.lookup(b"f").node), guest.lookup(b"waits").node
    answers = []

    def wait() -> None:
        if who == "QEMU":
            answers.append(guest.call(48, node, struct.pack("<5Q", 2**64 - 1, 0, 2 << 20, 2, 0), space=0, queue=1))
        else:
            answers.append(guest.call(14, node, struct.pack("<II", os.O_RDONLY, 0), queue=1))

    waiting = threading.Thread(target=wait)
    with owed(setting.frontend) if who == "QEMU" else lease(setting.shared / "waits"):
        waiting.start()
        op = "SETUPMAPPING" if who == "QEMU" else "OPEN"
        seen = 1 if op == "SETUPMAPPING" else 2
        deadline = time.monotonic() + 10
        while setting.daemon.stats()["requests"].get(op, 0) < seen:
            assert time.monotonic() < deadline
        for _ in range(200):
            assert guest.read(handle, 0, 4096, queue=2) == b"x" * 4096
            assert guest.lookup(b"f", queue=2).attr.size == 4096
        assert waiting.is_alive() and not answers
    waiting.join(10)
    assert len(answers) == 1 and setting.daemon.stats()["requests"]["READ"] == 200


@pytest.mark.parametrize("event_index", [False, True])
def test_the_ring_index_wraps(start, event_index):
    """More requests than a 16-bit index counts, with and without event indices."""
    setting = start("--window", "0", event_index=event_index)
    for ring in setting.frontend.rings:
        ring.resume_at = 0
    setting.frontend.stop()
    for ring in setting.frontend.rings:  # start shortly before the wrap
        ring.next = ring.used = ring.resume_at = 65500
        setting.frontend.ram[ring.used_ring + 2 : ring.used_ring + 4] = (65500).to_bytes(2, "little")
        setting.frontend.ram[ring.available + 2 : ring.available + 4] = (65500).to_bytes(2, "little")
    setting.frontend.start()
    for _ in range(200):
        assert setting.guest.getattr(1).ino
    assert setting.frontend.rings[1].next == (65500 + 200) & 0xFFFF


def test_the_zipapp_is_complete_and_its_bytes_are_always_the_same(tmp_path):
    for name in ("one", "two"):
        build.build(tmp_path / name)
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()
    assert os.access(tmp_path / "one", os.X_OK)
    names = zipfile.ZipFile(tmp_path / "one").namelist()
    assert "__main__.py" in names and "hostfsd/build.py" not in names
    done = subprocess.run(
        [sys.executable, tmp_path / "one", "--version"], capture_output=True, text=True, cwd="/", check=False
    )
    assert done.returncode == 0 and done.stdout.strip()


def test_no_file_is_long_and_only_the_standard_library_is_used():
    allowed = set(sys.stdlib_module_names) | {"hostfsd"}

    for path in (ROOT / "hostfsd").glob("*.py"):
        text = path.read_text()
        assert len(text.splitlines()) < 400, path
        for node in ast.walk(ast.parse(text)):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            assert all(name.split(".")[0] in allowed for name in names), path
