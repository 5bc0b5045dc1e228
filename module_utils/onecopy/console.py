"""Connect this terminal to a guest's shell: ``console.py SOCKET``. Ctrl-] leaves."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import socket
import sys
import termios
import tty
from collections.abc import Iterator

LEAVE = b"\x1d"  # Ctrl-]


@contextlib.contextmanager
def raw_terminal(fd: int) -> Iterator[None]:
    """Hand every key over as it comes; afterwards the terminal is as it was. Input that is no terminal is left alone."""
    if not os.isatty(fd):
        yield
        return
    before = termios.tcgetattr(fd)
    try:
        tty.setraw(fd)
        yield
    finally:
        termios.tcsetattr(fd, termios.TCSADRAIN, before)


def connect(path: str, source: int, sink: int) -> str:
    """Carry bytes both ways until somebody leaves; return who did. Raises OSError when nobody listens at ``path``."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as guest:
        guest.connect(path)
        try:
            return _carry(guest, source, sink)
        except (BrokenPipeError, ConnectionResetError):
            return "the guest has gone"


def _carry(guest: socket.socket, source: int, sink: int) -> str:
    size = shutil.get_terminal_size()
    # The guest's console cannot know how big this terminal is; the line also brings a first prompt.
    guest.sendall(f" stty rows {size.lines} columns {size.columns}\n".encode())
    while True:
        ready, _, _ = select.select([source, guest.fileno()], [], [])
        if guest.fileno() in ready:
            data = guest.recv(65536)
            if not data:
                return "the guest has gone"
            os.write(sink, data)
        if source in ready:
            data = os.read(source, 65536)
            typed, leaving, _ = data.partition(LEAVE)
            guest.sendall(typed)
            if not data or leaving:
                return "left"


def main() -> int:
    """Entry point."""
    if len(sys.argv) != 2:
        print("usage: console.py SOCKET", file=sys.stderr)
        return 2
    print("A shell in the guest; data at /data, a scratch at /scratch. Ctrl-] leaves.", flush=True)
    try:
        with raw_terminal(sys.stdin.fileno()):
            end = connect(sys.argv[1], sys.stdin.fileno(), sys.stdout.fileno())
    except OSError as error:
        print(f"{sys.argv[1]}: {error.strerror or error}: is the guest running?", file=sys.stderr)
        return 1
    print(f"\n{end}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
