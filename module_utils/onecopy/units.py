"""systemd units of guests, daemons and the ``hfs`` runner: drop-ins that make ``systemctl cat`` show the exact command line."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from .commands import run

DIRECTORY = Path("/run/systemd/system")
GUEST = "onecopy-guest@{}.service"
VIRTIOFSD = "onecopy-virtiofsd@{}.service"
HOSTFSD = "onecopy-hostfsd@{}.service"
HFS_RUNNER = "onecopy-hfs-runner@{}.service"
TEMPLATES = (GUEST, VIRTIOFSD, HOSTFSD, HFS_RUNNER)
_TIMEOUT_SECONDS = 30


@dataclass(frozen=True, slots=True)
class State:
    """What systemd says of a unit."""

    active: str
    result: str
    main_pid: int | None
    exit_status: int
    stopped_at: int | None = None  # microseconds of the monotonic clock

    @property
    def is_running(self) -> bool:
        """Whether its main process lives."""
        return self.active in ("active", "activating", "reloading")


def quote(argument: str) -> str:
    """One argument for ExecStart=: quoted, with systemd's own expansions taken literally."""
    text = argument.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{text}"' if not argument or set(argument) & set(" \t\"'\\;") else text


def exec_start(argv: Sequence[str]) -> str:
    """ExecStart= lines that replace a template's own; one argument pair a line, so that a person can read them."""
    words = [quote(argument) for argument in argv]
    lines = [words[0]]
    for word in words[1:]:
        if word.startswith("-") or len(lines) == 1:
            lines.append(word)
        else:
            lines[-1] += f" {word}"
    return "ExecStart=\nExecStart=" + " \\\n    ".join(lines) + "\n"


def drop_in(argv: Sequence[str], service: Iterable[str] = (), unit: Iterable[str] = ()) -> str:
    """The text of a drop-in: the command line, and more lines for [Service] and [Unit]."""
    head = "".join(f"{line}\n" for line in unit)
    body = "".join(f"{line}\n" for line in service)
    return (f"[Unit]\n{head}\n" if head else "") + f"[Service]\n{exec_start(argv)}{body}"


def install(drop_ins: Mapping[str, str], directory: Path = DIRECTORY) -> None:
    """Write one drop-in per unit and let systemd read them."""
    for name, text in drop_ins.items():
        path = directory / f"{name}.d" / "boot.conf"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    run(["systemctl", "daemon-reload"], timeout_seconds=_TIMEOUT_SECONDS)


def installed(names: Iterable[str], directory: Path = DIRECTORY) -> list[str]:
    """Those of ``names`` that have a drop-in of ours."""
    return [name for name in names if (directory / f"{name}.d" / "boot.conf").exists()]


def remove(names: Iterable[str], directory: Path = DIRECTORY) -> None:
    """Stop the units now, remove their drop-ins and forget their failures. Units that are not there are no error."""
    names = list(names)
    if not names:
        return
    # --force --now has no use here: the stop timeout of the templates is short, and SIGKILL follows it.
    for verb in ("stop", "reset-failed"):
        subprocess.run(["systemctl", verb, *names], capture_output=True, check=False, timeout=_TIMEOUT_SECONDS)
    for name in names:
        folder = directory / f"{name}.d"
        (folder / "boot.conf").unlink(missing_ok=True)
        if folder.is_dir():
            folder.rmdir()
    run(["systemctl", "daemon-reload"], timeout_seconds=_TIMEOUT_SECONDS)


def start(*names: str) -> None:
    """Start units; returns when their programs run. Raises CommandError."""
    run(["systemctl", "start", *names], timeout_seconds=_TIMEOUT_SECONDS)


def state(name: str) -> State:
    """Ask systemd about one unit."""
    shown = run(
        ["systemctl", "show", "-p", "ActiveState,Result,MainPID,ExecMainStatus,ExecMainExitTimestampMonotonic", name],
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    return parse_state(shown)


def parse_state(shown: str) -> State:
    """Parse the output of ``systemctl show``."""
    values = dict(line.split("=", 1) for line in shown.splitlines() if "=" in line)
    pid = int(values.get("MainPID", "0"))
    return State(
        active=values.get("ActiveState", "inactive"),
        result=values.get("Result", ""),
        main_pid=pid or None,
        exit_status=int(values.get("ExecMainStatus", "0")),
        stopped_at=int(values.get("ExecMainExitTimestampMonotonic", "0")) or None,
    )


def last_child(pid: int, proc: Path = Path("/proc")) -> int:
    """The end of the chain of only children that starts at ``pid``; ``pid`` itself when it has none, or several."""
    parents: dict[int, list[int]] = {}
    for path in proc.glob("[0-9]*/stat"):
        try:
            # The name, in parentheses, may hold anything; state and parent follow it.
            parent = int(path.read_text(errors="replace").rpartition(")")[2].split()[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
        parents.setdefault(parent, []).append(int(path.parent.name))
    while len(parents.get(pid, [])) == 1:
        pid = parents[pid][0]
    return pid


def listed(pattern: str) -> list[str]:
    """Names of the units that systemd has loaded and that match ``pattern``, failed ones included."""
    shown = run(
        ["systemctl", "list-units", "--all", "--plain", "--no-legend", pattern], timeout_seconds=_TIMEOUT_SECONDS
    )
    return [line.split()[0] for line in shown.splitlines() if line.split()]


def host_is_stopping() -> bool:
    """Whether this host is being shut down: its guests are ended then, which says nothing about them."""
    try:
        shown = subprocess.run(["systemctl", "is-system-running"], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        return False
    return shown.stdout.strip() == "stopping"


def last_words(name: str) -> str:
    """The last line that a unit's processes wrote to the journal."""
    shown = run(
        ["journalctl", "-q", "-u", name, "-n", "1", "-o", "cat", "_SYSTEMD_UNIT=" + name],
        timeout_seconds=_TIMEOUT_SECONDS,
    )
    return shown.strip()[:200] or "none"
