"""The command line: checks the arguments, confines the process, serves one QEMU until it goes away.

Exit status: 0 the guest's QEMU has gone, or SIGTERM; 1 something failed while starting or running; 2 bad arguments;
3 this QEMU cannot map files into a guest.
"""

import argparse
import contextlib
import gc
import os
import re
import resource
import signal
import socket
import sys
import time
from collections.abc import Callable
from types import FrameType

from hostfsd import __version__, sandbox, stats
from hostfsd.backend import Backend
from hostfsd.counters import Counters, total
from hostfsd.credentials import Credentials
from hostfsd.device import Device, NoWindow
from hostfsd.export import CACHE_SECONDS, Export, Policy
from hostfsd.fuse import NO_DAX
from hostfsd.session import Session
from hostfsd.vhost_user import ProtocolError
from hostfsd.window import MAX_WINDOW, RANGE, Window

_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
MAX_QUEUES = 16


def size(text: str) -> int:
    """Parse a number of bytes: 4096, 64K, 512M, 2G."""
    match = re.fullmatch(r"(\d{1,15})([KMG]?)", text)
    if not match:
        raise argparse.ArgumentTypeError(f"{text!r} is no size; write for example 512M")
    return int(match[1]) * _UNITS[match[2]]


def parser() -> argparse.ArgumentParser:
    result = argparse.ArgumentParser(prog="hostfsd", description="Serves a directory to one QEMU guest, by vhost-user.")
    result.add_argument("--socket", required=True, help="unix socket that QEMU connects to")
    result.add_argument("--shared-dir", required=True, help="directory to share")
    result.add_argument("--tag", default="onecopy", help="name the guest mounts, 1 to 36 bytes (default: %(default)s)")
    result.add_argument("--window", type=size, default="512M", help="DAX window (default: %(default)s; 0: none)")
    result.add_argument(
        "--inode-dax", type=size, default="1M",
        help="files of at least this size are mapped by a guest that chooses per file (default: %(default)s; 0: every file)",
    )  # fmt: skip
    result.add_argument("--cache", choices=sorted(CACHE_SECONDS), default="auto", help="default: %(default)s")
    result.add_argument("--queues", type=int, default=1, help="request queues (default: %(default)s)")
    result.add_argument("--readonly", action="store_true", help="refuse every change; only with --window 0")
    result.add_argument("--xattr", action="store_true", help="pass extended attributes on")
    result.add_argument("--stats-socket", help="unix socket that answers every connection with one JSON line")
    result.add_argument("--sandbox", choices=["namespace", "none"], default="namespace", help="default: %(default)s")
    result.add_argument("--version", action="version", version=__version__)
    return result


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Return checked arguments, or leave with status 2 and one line that says what is wrong."""
    found = parser()
    args = found.parse_args(argv)
    # QEMU makes it a PCI device's memory, whose size is a power of two: with another one it aborts.
    if args.window and (args.window & (args.window - 1) or not RANGE <= args.window <= MAX_WINDOW):
        found.error(f"--window must be a power of two from 2M to {MAX_WINDOW >> 30}G (0: none)")
    if args.readonly and args.window:
        found.error(
            "--readonly is refused with a DAX window: QEMU maps files read-write, so the guest could change them all"
            " the same. Use --window 0, or share a copy that may be changed"
        )
    if not 1 <= args.queues <= MAX_QUEUES:
        found.error(f"--queues must be 1 to {MAX_QUEUES}")
    if not 1 <= len(args.tag.encode()) <= 36 or "\0" in args.tag:
        found.error("--tag must have 1 to 36 bytes")
    if not os.path.isdir(args.shared_dir):
        found.error(f"--shared-dir {args.shared_dir}: no such directory")
    if args.sandbox == "namespace" and os.geteuid() != 0:
        found.error("--sandbox namespace needs root; start the daemon as root, it drops what it does not need")
    return args


def main(argv: list[str] | None = None) -> int:
    args = parse(argv)
    if sys.byteorder != "little":
        return _fail("this machine is big-endian; the rings are little-endian")
    try:
        listener = _listen(args.socket)
        stats_listener = _listen(args.stats_socket) if args.stats_socket else None
    except OSError as error:
        return _fail(f"cannot listen: {error}")
    window = Window(args.window, Backend())
    try:
        limit = sandbox.raise_file_limit()
        if args.sandbox == "namespace":
            root, kept = sandbox.enter(os.path.realpath(args.shared_dir), args.readonly, False)
        else:
            root, kept = sandbox.stay(os.path.realpath(args.shared_dir))
        policy = Policy(args.cache, args.inode_dax if args.window else NO_DAX, args.readonly, args.xattr)
        export = Export(root, policy, window, Credentials(kept))
    except OSError as error:
        return _fail(f"cannot confine itself to {args.shared_dir}: {error.strerror}; --sandbox none does without")
    # Nothing here depends on the collector: cycles are broken by hand, and its runs would be pauses.
    gc.freeze()
    gc.set_threshold(100_000, 20, 100)
    return _serve(args, listener, stats_listener, export, limit)


class _Stopped(Exception):
    """SIGTERM or SIGINT came."""


def _raise_stopped(_number: int, _frame: FrameType | None) -> None:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    raise _Stopped


def _serve(
    args: argparse.Namespace,
    listener: socket.socket,
    stats_listener: socket.socket | None,
    export: Export,
    limit: int,
) -> int:
    device: Device | None = None
    signal.signal(signal.SIGTERM, _raise_stopped)
    signal.signal(signal.SIGINT, _raise_stopped)
    try:
        if stats_listener:
            stats.serve(stats_listener, _snapshot(export, lambda: device, limit))
        if export.window.watcher:
            export.window.watcher.start()
        connection, _ = listener.accept()
        listener.close()
        session = Session(export)
        device = Device(connection, session, export.window.backend, args.tag, args.queues)
        device.run()
    except _Stopped:
        pass
    except NoWindow:
        return _fail("this QEMU cannot map files into a guest (vhost-user SHMEM): QEMU 11.1 can; or use --window 0", 3)
    except ProtocolError as error:
        return _fail(f"QEMU broke the vhost-user protocol: {error}")
    except OSError as error:
        return _fail(f"connection to QEMU: {error}")
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        if device:
            device.close()
    return 0


def _snapshot(export: Export, device: Callable[[], Device | None], limit: int) -> Callable[[], dict[str, object]]:
    started = time.monotonic()

    def snapshot() -> dict[str, object]:
        found = device()
        sets = [queue.counters for queue in found.queues] if found else [Counters()]
        usage = resource.getrusage(resource.RUSAGE_SELF)
        return {
            "schema": 1,
            "version": __version__,
            "uptime_seconds": round(time.monotonic() - started, 3),
            "connected": found is not None,
            "dax": bool(found and found.dax),
            "cache": export.policy.cache,
            "inode_dax_bytes": export.policy.dax_threshold if export.window.size else None,
            "inodes": len(export.inodes),
            "open_files": len(export.files),
            "descriptors": stats.open_descriptors(),
            "descriptors_max": limit,
            "user_seconds": usage.ru_utime,
            "system_seconds": usage.ru_stime,
            **total(sets),
            "window": export.window.numbers(),
        }

    return snapshot


def _listen(path: str) -> socket.socket:
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    listener.bind(path)
    os.chmod(path, 0o600)
    listener.listen(4)
    return listener


def _fail(message: str, status: int = 1) -> int:
    print(f"hostfsd: {message}", file=sys.stderr, flush=True)
    return status
