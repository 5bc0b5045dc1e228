"""File-system daemons as command lines: virtiofsd by the options it says it has, hostfsd by ours."""

from __future__ import annotations

import re
from collections.abc import Collection
from pathlib import Path
from typing import Literal

from .commands import run

VIRTIOFSD_PLACES = ("/usr/libexec/virtiofsd", "/usr/lib/qemu/virtiofsd", "/usr/bin/virtiofsd")
_REQUIRED = ("--socket-path", "--shared-dir", "--cache")

VirtiofsCache = Literal["never", "auto", "always"]


class DaemonError(Exception):
    """The daemon cannot do what is wanted of it."""


def find_virtiofsd(places: Collection[str] = VIRTIOFSD_PLACES) -> Path:
    """Where virtiofsd lies. Raises DaemonError."""
    for place in places:
        if Path(place).is_file():
            return Path(place)
    raise DaemonError(f"virtiofsd is not installed (looked at {', '.join(places)})")


def parse_options(help_text: str) -> frozenset[str]:
    """The long options that ``--help`` names; versions tell nothing, since distributions patch."""
    return frozenset(re.findall(r"^\s+(?:-\w, )?(--[a-z][a-z-]*)", help_text, re.MULTILINE))


def virtiofsd_options(binary: Path) -> frozenset[str]:
    """The long options of this virtiofsd."""
    return parse_options(run([str(binary), "--help"], timeout_seconds=10))


def virtiofsd_argv(
    binary: Path, options: Collection[str], shared: Path, socket: Path, cache: VirtiofsCache
) -> list[str]:
    """The exact command line. Raises DaemonError when an option without which the figures would mislead is missing."""
    missing = [option for option in _REQUIRED if option not in options]
    if missing:
        raise DaemonError(f"{binary} has no {', '.join(missing)}")
    argv = [str(binary), "--socket-path", str(socket), "--shared-dir", str(shared), "--cache", cache]
    wanted = {
        "--sandbox": "namespace",
        "--inode-file-handles": "never",
        "--thread-pool-size": "0",
        # The unit sets the limit; by itself the daemon would try to raise it, which a container may forbid.
        "--rlimit-nofile": "0",
        "--log-level": "warn",
    }
    for option, value in wanted.items():
        if option in options:
            argv += [f"{option}={value}"]
    return argv


def hostfsd_argv(
    program: Path,
    shared: Path,
    socket: Path,
    stats: Path,
    tag: str,
    *,
    window_mib: int,
    inode_dax_kib: int,
    cache: VirtiofsCache,
    queues: int,
) -> list[str]:
    """The exact command line of hostfsd; ``inode_dax_kib`` is the size from which a file is mapped (0: every file)."""
    argv = ["/usr/bin/python3", str(program), "--socket", str(socket), "--shared-dir", str(shared), "--tag", tag]
    argv += ["--window", f"{window_mib}M", "--inode-dax", f"{inode_dax_kib}K", "--cache", cache]
    return [*argv, "--queues", str(queues), "--stats-socket", str(stats)]
