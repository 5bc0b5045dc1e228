"""QEMU processes and file system daemons on this machine, read from /proc alone."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal

PROC: Final = Path("/proc")
DaemonKind = Literal["virtiofsd", "hostfsd"]
FileKey = tuple[int, int]
_QEMU: Final = re.compile(r"^(qemu-system-[\w-]+|qemu-kvm|kvm)$")
_O_PATH: Final = getattr(os, "O_PATH", 0o10000000)
_MAP_LINE: Final = re.compile(r"^([0-9a-f]+)-([0-9a-f]+) (\S{4}) ([0-9a-f]+) ([0-9a-f]+):([0-9a-f]+) (\d+)\s*(.*)$")


@dataclass(frozen=True, slots=True)
class OpenFile:
    """A regular file or block device that a process holds open; ``key`` is (device, inode), ``allocated`` in bytes."""

    fd: int
    name: str
    key: FileKey
    is_block: bool
    size: int
    allocated: int
    flags: int
    mount: int | None = None

    @property
    def direct(self) -> bool:
        """Opened with O_DIRECT: reads and writes bypass the host's page cache."""
        return bool(self.flags & os.O_DIRECT)

    @property
    def path_only(self) -> bool:
        """Opened with O_PATH: pinned, not read."""
        return bool(self.flags & _O_PATH)

    @property
    def writable(self) -> bool:
        """May be written through this descriptor."""
        return not self.path_only and self.flags & os.O_ACCMODE != os.O_RDONLY


@dataclass(frozen=True, slots=True)
class Mapping:
    """One line of /proc/PID/smaps; sizes in bytes. ``key`` is None for anonymous memory."""

    size: int
    key: FileKey | None
    name: str
    shared: bool
    rss: int = 0
    swap: int = 0


@dataclass(slots=True)
class Process:
    """One process of interest; ``argv`` as it was started."""

    pid: int
    argv: list[str]
    parent: int = 0
    exe: str = ""


@dataclass(slots=True)
class Daemon:
    """One virtiofsd or hostfsd with its sandboxed child, if it has one; ``server`` is the process that serves.

    Choices that its command line leaves open are the daemon's defaults. ``sockets`` are the socket inodes that it
    holds.
    """

    kind: DaemonKind
    process: Process
    server: int
    shared_dir: str
    cache: str
    sandbox: str
    socket: str | None
    descriptor: int | None
    inode_file_handles: str = "never"
    allow_mmap: bool = False
    dax_window: str | None = None
    inode_dax: str | None = None
    sockets: set[int] = field(default_factory=set)


def processes() -> list[Process]:
    """Every process that has a command line and may be read; those that end meanwhile are left out."""
    found = []
    for entry in sorted(int(name) for name in os.listdir(PROC) if name.isdigit()):
        try:
            raw = (PROC / str(entry) / "cmdline").read_bytes()
            status = (PROC / str(entry) / "stat").read_text(encoding="utf-8", errors="replace")
            exe = os.readlink(PROC / str(entry) / "exe")
        except OSError:
            continue
        if raw:
            argv = raw.rstrip(b"\0").decode("utf-8", "surrogateescape").split("\0")
            found.append(
                Process(entry, argv, int(status.rpartition(")")[2].split()[1]), exe.removesuffix(" (deleted)"))
            )
    return found


def is_qemu(process: Process) -> bool:
    """Whether the running program is a QEMU system emulator, whatever its argv[0] says."""
    return bool(_QEMU.match(os.path.basename(process.exe)))


def daemons(everything: Iterable[Process]) -> list[Daemon]:
    """File system daemons; a sandboxing parent and the child that serves count as one."""
    kinds = {process.pid: (process, kind) for process in everything if (kind := daemon_kind(process.argv, process.exe))}
    found = []
    for pid, (process, kind) in kinds.items():
        if process.parent in kinds:
            continue
        server = next((child.pid for child, _ in kinds.values() if child.parent == pid), pid)
        daemon = parse_daemon(process, kind, server)
        daemon.sockets = socket_inodes(pid) | socket_inodes(server)
        found.append(daemon)
    return found


def daemon_kind(argv: list[str], exe: str) -> DaemonKind | None:
    """Which file system daemon a command line starts, if any."""
    if os.path.basename(exe) == "virtiofsd":
        return "virtiofsd"
    if os.path.basename(exe).startswith("python") and any(
        re.search(r"(^|/)hostfsd(\.pyz|/__main__\.py)?$", word) for word in argv[1:6]
    ):
        return "hostfsd"
    return None


def parse_daemon(process: Process, kind: DaemonKind, server: int) -> Daemon:
    """Read a daemon's command line: ``--key value``, ``--key=value`` and virtiofsd's legacy ``-o key=value,…``."""
    options: dict[str, str] = {}
    words = process.argv[1:]
    for position, word in enumerate(words):
        following = words[position + 1] if position + 1 < len(words) else ""
        if word.startswith("--"):
            key, equals, value = word[2:].partition("=")
            options[key] = value if equals else "" if following.startswith("-") else following
        elif word == "-o" or (word.startswith("-o") and len(word) > 2):
            for part in (following if word == "-o" else word[2:]).split(","):
                key, _, value = part.partition("=")
                options.setdefault({"source": "shared-dir"}.get(key, key), value)
    descriptor = options.get("fd", "")
    return Daemon(
        kind,
        process,
        server,
        shared_dir=options.get("shared-dir", ""),
        cache=options.get("cache", "auto"),
        sandbox=options.get("sandbox", "namespace"),
        socket=options.get("socket-path") or options.get("socket"),
        descriptor=int(descriptor) if descriptor.isdigit() else None,
        inode_file_handles=options.get("inode-file-handles", "never"),
        allow_mmap="allow-mmap" in options,
        dax_window=options.get("window", "512M") if kind == "hostfsd" else None,
        inode_dax=options.get("inode-dax", "1M") if kind == "hostfsd" else None,
    )


def open_files(pid: int) -> Iterator[OpenFile]:
    """Regular files and block devices among a process's descriptors; anonymous memory files (memfd) included."""
    directory = PROC / str(pid) / "fd"
    for name in sorted(os.listdir(directory), key=int):
        try:
            status = os.stat(directory / name)
            is_block = stat.S_ISBLK(status.st_mode)
            if not (stat.S_ISREG(status.st_mode) or is_block):
                continue
            link = os.readlink(directory / name)
            info = dict(
                line.partition(":")[::2]
                for line in (PROC / str(pid) / "fdinfo" / name).read_text(encoding="ascii").splitlines()
            )
        except OSError:
            continue  # closed meanwhile
        # Two device nodes of one block device are one page cache: its number counts, not the node's inode.
        key = (-1, status.st_rdev) if is_block else (status.st_dev, status.st_ino)
        mount = info.get("mnt_id", "").strip()
        yield OpenFile(
            int(name),
            link,
            key,
            is_block,
            status.st_size,
            status.st_blocks * 512,
            int(info["flags"], 8),
            int(mount) if mount.isdigit() else None,
        )


def socket_inodes(pid: int) -> set[int]:
    """Inodes of the sockets that a process holds; empty when it is gone."""
    found: set[int] = set()
    try:
        names = os.listdir(PROC / str(pid) / "fd")
    except OSError:
        return found
    for name in names:
        try:
            link = os.readlink(PROC / str(pid) / "fd" / name)
        except OSError:
            continue
        if link.startswith("socket:["):
            found.add(int(link[8:-1]))
    return found


@dataclass(frozen=True, slots=True)
class UnixSocket:
    """One line of /proc/net/unix."""

    inode: int
    path: str
    listening: bool
    connected: bool


def unix_sockets(text: str) -> list[UnixSocket]:
    """Parse /proc/net/unix; sockets without a path are left out."""
    found = []
    for line in text.splitlines()[1:]:
        words = line.split(maxsplit=7)
        if len(words) == 8:
            found.append(UnixSocket(int(words[6]), words[7], bool(int(words[3], 16) & 0x10000), words[5] == "03"))
    return found


def unix_sockets_of(pids: Iterable[int]) -> list[UnixSocket]:
    """The sockets of every network namespace that these processes live in, each namespace read once."""
    found, seen = [], set()
    for pid in pids:
        try:
            namespace = os.readlink(PROC / str(pid) / "ns" / "net")
            if namespace not in seen:
                seen.add(namespace)
                found.extend(
                    unix_sockets(
                        (PROC / str(pid) / "net" / "unix").read_text(encoding="utf-8", errors="surrogateescape")
                    )
                )
        except OSError:
            continue
    return found


def mappings(text: str) -> list[Mapping]:
    """Parse /proc/PID/smaps (or maps: then rss and swap are 0)."""
    found: list[Mapping] = []
    for line in text.splitlines():
        head = _MAP_LINE.match(line)
        if head:
            inode = int(head[7])
            key = (os.makedev(int(head[5], 16), int(head[6], 16)), inode) if inode else None
            found.append(Mapping(int(head[2], 16) - int(head[1], 16), key, head[8], head[3][3] == "s"))
        elif found and line.startswith(("Rss:", "Swap:")):
            name, amount = line.split()[:2]
            last = found[-1]
            rss, swap = (int(amount) * 1024, last.swap) if name == "Rss:" else (last.rss, int(amount) * 1024)
            found[-1] = Mapping(last.size, last.key, last.name, last.shared, rss, swap)
    return found


def match_daemon(path: str | None, known: Iterable[Daemon], sockets: Iterable[UnixSocket]) -> Daemon | None:
    """The daemon that serves a QEMU's socket ``path``, or None.

    First the daemon that holds a socket which carries the path in the kernel's table (libvirt passes its daemons a
    descriptor and no path), then the one whose command line names the path.
    """
    if path is None:
        return None
    inodes = {socket.inode for socket in sockets if socket.path == path}
    candidates = list(known)
    by_socket = (daemon for daemon in candidates if daemon.sockets & inodes)
    by_name = (
        daemon for daemon in candidates if daemon.socket and os.path.normpath(daemon.socket) == os.path.normpath(path)
    )
    return next(by_socket, None) or next(by_name, None)


def outside_window(mapped: Iterable[Mapping], threshold: int) -> Callable[[OpenFile], bool]:
    """Whether a guest with a DAX window caches a file itself: smaller than the threshold (bytes), and no range of it is mapped.

    Inodes alone are compared: some file systems show another device in mappings than in stat().
    """
    inodes = {one.key[1] for one in mapped if one.key}
    return lambda one: one.size < threshold and one.key[1] not in inodes


def open_shared_dir(daemon: Daemon) -> int:
    """A descriptor of the directory that a daemon shares: its root in a sandbox, the path it was given without one.

    Raises OSError where it cannot be opened.
    """
    place = f"{PROC}/{daemon.server}"
    path = (
        f"{place}/root"
        if daemon.sandbox != "none"
        else f"{place}/root{daemon.shared_dir}"
        if daemon.shared_dir[:1] == "/"
        else f"{place}/cwd/{daemon.shared_dir}"
    )
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOATIME | os.O_CLOEXEC)
