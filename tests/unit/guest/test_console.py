"""The terminal's way into a guest."""

from __future__ import annotations

import os
import pty
import socket
import termios
import threading
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import console


class FakeGuest:
    """Listens like a guest's console; keeps what came, answers as told."""

    def __init__(self, path: Path, answer: bytes, stays: bool) -> None:
        self.heard = b""
        self.listener = socket.socket(socket.AF_UNIX)
        self.listener.bind(str(path))
        self.listener.listen(1)
        self.answer, self.stays = answer, stays
        self.thread = threading.Thread(target=self.serve, daemon=True)
        self.thread.start()

    def serve(self) -> None:
        connection, _ = self.listener.accept()
        with connection:
            connection.sendall(self.answer)
            while self.stays:
                data = connection.recv(4096)
                if not data:
                    return
                self.heard += data


def test_keys_go_in_and_output_comes_out_until_one_leaves(tmp_path: Path) -> None:
    guest = FakeGuest(tmp_path / "s", b"prompt# ", stays=True)
    keys, pressed = os.pipe()
    shown, screen = os.pipe()
    os.write(pressed, b"ls\n")
    result: list[str] = []
    thread = threading.Thread(target=lambda: result.append(console.connect(str(tmp_path / "s"), keys, screen)))
    thread.start()
    assert os.read(shown, 100) == b"prompt# "
    os.write(pressed, console.LEAVE)
    thread.join(10)
    guest.thread.join(10)
    assert result == ["left"]
    assert guest.heard.startswith(b" stty rows ")
    assert b"ls\n" in guest.heard


def test_a_guest_that_ends_is_told(tmp_path: Path) -> None:
    FakeGuest(tmp_path / "s", b"", stays=False)
    keys, _pressed = os.pipe()
    assert console.connect(str(tmp_path / "s"), keys, keys) == "the guest has gone"


def test_a_guest_that_does_not_run_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("sys.argv", ["console.py", str(tmp_path / "none")])
    with open(os.devnull) as nothing:
        monkeypatch.setattr("sys.stdin", nothing)
        assert console.main() == 1
    assert capfd.readouterr().err == f"{tmp_path / 'none'}: No such file or directory: is the guest running?\n"


def test_the_terminal_is_given_back_as_it_was() -> None:
    master, slave = pty.openpty()
    before = termios.tcgetattr(slave)
    with console.raw_terminal(slave):
        assert termios.tcgetattr(slave)[3] != before[3]
    assert termios.tcgetattr(slave) == before
    os.close(master)
    os.close(slave)
