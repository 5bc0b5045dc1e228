"""What runs on this machine below one process, and what a box holds: looked up by pid, never by name on the whole machine."""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Process:
    """One process; ``words`` is its command line, ``inner_pid`` its pid in its own pid namespace."""

    pid: int
    parent: int
    name: str
    words: tuple[str, ...]
    inner_pid: int

    @property
    def program(self) -> str:
        """The first word's last part; daemons that set their title write it with a colon."""
        return Path(self.words[0].partition(":")[0]).name if self.words else self.name


def processes() -> Iterator[Process]:
    """All living processes of the machine."""
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            status = dict(
                line.split(":", 1)
                for line in (entry / "status").read_text(errors="replace").splitlines()
                if ":" in line
            )
            words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
        except (FileNotFoundError, ProcessLookupError):
            continue
        if status["State"].split()[0] in "ZX":
            continue
        inner = int(status.get("NSpid", status["Pid"]).split()[-1])
        words = [word for word in words if word]
        yield Process(int(entry.name), int(status["PPid"]), status["Name"].strip(), tuple(words), inner)


def below(root: int) -> list[Process]:
    """Every process that descends from ``root``, which is not among them."""
    children: dict[int, list[Process]] = {}
    for process in processes():
        children.setdefault(process.parent, []).append(process)
    found, waiting = [], [root]
    while waiting:
        mine = children.get(waiting.pop(), [])
        found += mine
        waiting += [process.pid for process in mine]
    return found


def marked(variable: str, value: str) -> list[Process]:
    """Every process that was started with this environment, and everything it started."""
    wanted = f"{variable}={value}".encode()
    found = []
    for process in processes():
        try:
            environment = Path(f"/proc/{process.pid}/environ").read_bytes().split(b"\0")
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
        if wanted in environment:
            found.append(process)
    return found


def _is_of_sshd(process: Process, family: dict[int, Process]) -> bool:
    parent = family.get(process.parent)
    while parent is not None:
        if parent.program.startswith("sshd"):
            return True
        parent = family.get(parent.parent)
    return False


_IS: dict[str, Callable[[Process, dict[int, Process]], bool]] = {
    # One with a guest: a run also asks QEMU for its version.
    "QEMU": lambda process, family: process.program.startswith("qemu-system-") and "-name" in process.words,
    "virtiofsd": lambda process, family: process.program == "virtiofsd",
    "hostfsd": lambda process, family: any(word.endswith("/hostfsd.pyz") for word in process.words),
    "sshd": lambda process, family: process.program.startswith("sshd"),
    "run unit": lambda process, family: "onecopy.lock" in process.words,
    # What Ansible runs: fed to a Python of an SSH session on its standard input.
    "trial module": lambda process, family: process.program.startswith("python3") and _is_of_sshd(process, family),
}


def victims(kind: str, root: int) -> list[int]:
    """Pids of one kind below ``root``."""
    family = {process.pid: process for process in below(root)}
    return sorted(pid for pid, process in family.items() if _IS[kind](process, family))


def kill(pids: list[int], number: int) -> list[int]:
    """Send a signal to every one that still lives; those that it reached."""
    reached = []
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
            reached.append(pid)
    return reached


def kinds(root: int) -> Counter[str]:
    """How many processes of every name there are below ``root``, SSH sessions and what they run apart."""
    family = {process.pid: process for process in below(root)}
    return Counter(
        process.name
        for process in family.values()
        if not process.program.startswith("sshd") and not _is_of_sshd(process, family)
    )
