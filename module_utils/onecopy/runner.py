"""The runner: in a guest (or the ``hfs`` chroot) it does what the host tells it, times it and answers. See CONTRIBUTING.md for the protocol.

Usage: ``main.py port NAME`` or ``main.py socket PATH``. Imports little: start-up time counts.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import json
import os
import resource
import sys
from collections.abc import Callable
from typing import Any

from . import cachestat, runner_coherence, runner_fuse, runner_kernel, runner_workload
from .runner_channel import PortChannel, SocketChannel, find_port

VERSION = 1
_LINE_LIMIT = 4 << 20
_DESCRIPTORS = 1 << 18
_MOUNT_FLAGS = {"ro": 1, "nosuid": 2, "nodev": 4, "noexec": 8, "remount": 32, "noatime": 1024, "bind": 4096}
_RB_POWER_OFF = 0x4321FEDC

Result = dict[str, Any]


class OperationError(Exception):
    """An operation failed; ``reason`` is from the record schema's closed list."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class Runner:
    """The operations; what ``hold`` opened lives here."""

    def __init__(self, channel: PortChannel | SocketChannel, is_guest: bool) -> None:
        self.channel = channel
        self.is_guest = is_guest
        self.is_done = False
        self._held: dict[str, dict[int, int]] = {}
        self._onlooker = runner_coherence.Onlooker()
        self._requests = runner_fuse.RequestCounter()
        self._operations: dict[str, Callable[..., Result]] = {
            name.removeprefix("op_"): getattr(self, name) for name in dir(self) if name.startswith("op_")
        }

    def answer(self, line: bytes) -> bytes:
        """The answer to one request line: always one line, always with the request's id."""
        request_id = None
        try:
            request = json.loads(line)
            request_id = request.pop("id")
            operation = self._operations.get(request.pop("op"), _unknown)
            answer: Result = {"id": request_id, "ok": True, "result": operation(**request)}
        except BrokenPipeError:
            raise
        except OperationError as error:
            answer = _failure(request_id, error.reason, str(error))
        except runner_workload.WorkloadError as error:
            answer = _failure(request_id, "workload_failed", str(error))
        except Exception as error:  # whatever it was: the host is told, and the runner lives on
            answer = _failure(request_id, "internal", f"{type(error).__name__}: {error}")
        return json.dumps(answer, separators=(",", ":")).encode() + b"\n"

    def op_hello(self) -> Result:
        """Who answers."""
        return {
            "version": VERSION,
            "boot_id": runner_kernel.read("/proc/sys/kernel/random/boot_id").strip(),
            "kernel": os.uname().release,
            "python": "{}.{}.{}".format(*sys.version_info[:3]),
            "uptime_seconds": float(runner_kernel.read("/proc/uptime").split()[0]),
        }

    def op_mount(self, source: str, target: str, fstype: str, options: str) -> Result:
        """mount(2); options it does not know as flags go to the file system."""
        flags, data = 0, []
        for option in filter(None, options.split(",")):
            flag = _MOUNT_FLAGS.get(option)
            if flag is None:
                data.append(option)
            else:
                flags |= flag
        _libc_call(
            "mount", source.encode(), target.encode(), fstype.encode(), ctypes.c_ulong(flags), ",".join(data).encode()
        )
        return {}

    def op_unmount(self, target: str) -> Result:
        """umount(2)."""
        _libc_call("umount2", target.encode(), 0)
        return {}

    def op_drop(self, what: int) -> Result:
        """Drop clean pages (1), dentries and inodes (2) or both (3), after writing dirty pages."""
        os.sync()
        with open("/proc/sys/vm/drop_caches", "w", encoding="ascii") as file:
            file.write(str(what))
        return {}

    def op_prefetch(self, trees: list[str]) -> Result:
        """Read every file below ``trees`` once; a tree that is not there has none."""
        total = 0
        for tree in trees:
            with contextlib.suppress(FileNotFoundError):
                for path in cachestat.walk_part(tree):
                    fd = os.open(path, os.O_RDONLY)
                    try:
                        total += cachestat.prefetch(fd)
                    finally:
                        os.close(fd)
        return {"bytes": total}

    def op_hold(self, parts: dict[str, str]) -> Result:
        """Open every file of the parts and keep it open."""
        self.op_release()
        _raise_descriptor_limit()
        result = {}
        for name, directory in parts.items():
            descriptors = self._held[name] = {}
            pages = 0
            for position, path in enumerate(cachestat.walk_part(directory)):
                fd = descriptors[position] = os.open(path, os.O_RDONLY)
                pages += -(-os.fstat(fd).st_size // cachestat.PAGE_SIZE)
            result[name] = {"files": len(descriptors), "pages": pages}
        return result

    def op_residency(self, parts: dict[str, str]) -> Result:
        """Count the resident pages of the parts, on the held descriptors where there are any."""
        return {
            name: self._held_residency(name) if name in self._held else _tree_residency(directory)
            for name, directory in parts.items()
        }

    def op_evict(self, ranges: dict[str, list[list[int]]]) -> Result:
        """Drop clean pages of held files: by part (position of the file, offset, length).

        A DAX file has no pages here: its descriptor is closed, so that ``drop`` 2 can forget the file with its mappings.
        """
        let_go = 0
        for name, pieces in ranges.items():
            descriptors = self._held[name]
            for position, offset, length in pieces:
                if position not in descriptors:
                    continue
                if cachestat.is_dax(descriptors[position]):
                    os.close(descriptors.pop(position))
                    let_go += 1
                else:
                    os.posix_fadvise(descriptors[position], offset, length, os.POSIX_FADV_DONTNEED)
        return {"let_go": let_go}

    def op_resident_runs(self, parts: list[str]) -> Result:
        """Which pages of the held files are cached: by part and position, runs of (first page, pages); null for a DAX file."""
        return {
            name: {
                position: None if cachestat.is_dax(fd) else cachestat.resident_runs(fd)
                for position, fd in self._held[name].items()
            }
            for name in parts
        }

    def op_release(self) -> Result:
        """Close what ``hold`` opened."""
        for descriptors in self._held.values():
            for fd in descriptors.values():
                os.close(fd)
        self._held.clear()
        return {}

    def op_run(self, pipeline: list[list[str]], timeout_seconds: float, cwd: str = "/") -> Result:
        """Run one workload; it is ended when the host goes away. ``busy_seconds`` where this guest can tell (see runner_kernel)."""
        before = runner_kernel.busy_seconds() if self.is_guest else None
        result = runner_workload.run(pipeline, timeout_seconds, cwd, self.channel)
        after = runner_kernel.busy_seconds() if before is not None else None
        if before is not None and after is not None:
            result["busy_seconds"] = after - before
        return result

    def op_facts(self) -> Result:
        """What may make one guest differ from another."""
        return runner_kernel.facts()

    def op_read_ahead(self, target: str, kib: int) -> Result:
        """Set the readahead of what is mounted there."""
        runner_kernel.set_read_ahead(target, kib)
        return {}

    def op_memory(self) -> Result:
        """/proc/meminfo in bytes."""
        return runner_kernel.memory()

    def op_counters(self, fuse: bool = False) -> Result:
        """What crossed the block layer, chosen events of the memory manager, and CPU seconds by state; with ``fuse`` FUSE requests by opcode,
        counted from the first such call to the next one without.
        """
        if fuse:
            self._requests.start()
        else:
            self._requests.stop()
        counts = self._requests.counts()
        return runner_kernel.counters() | ({} if counts is None else {"fuse": counts})

    def op_watch(self, cases: list[dict[str, Any]]) -> Result:
        """Begin to watch files, each in one way (runner_coherence.py); what is seen first."""
        return {"seen": self._onlooker.watch(cases)}

    def op_look(self) -> Result:
        """What is seen now of the watched files."""
        return {"seen": self._onlooker.look()}

    def op_alter(self, changes: list[dict[str, str]]) -> Result:
        """Change files."""
        runner_coherence.alter(changes)
        return {}

    def op_fstrim(self, target: str) -> Result:
        """Discard the free blocks of a file system."""
        fd = os.open(target, os.O_RDONLY)
        try:
            # struct fstrim_range {u64 start, len, minlen}, _IOWR('X', 121)
            answer = fcntl.ioctl(fd, 0xC0185879, (0).to_bytes(8, "little") + b"\xff" * 8 + (0).to_bytes(8, "little"))
        finally:
            os.close(fd)
        return {"bytes": int.from_bytes(answer[8:16], "little")}

    def op_statfs(self, target: str) -> Result:
        """Size and free space of a file system."""
        status = os.statvfs(target)
        size = status.f_frsize
        return {
            "total_bytes": status.f_blocks * size,
            "free_bytes": status.f_bfree * size,
            "available_bytes": status.f_bavail * size,
            "inodes": status.f_files,
            "free_inodes": status.f_ffree,
        }

    def op_poweroff(self) -> Result:
        """Switch the guest off; a runner on the host only ends itself."""
        os.sync()
        self.is_done = True
        return {}

    def _held_residency(self, name: str) -> Result:
        total = _Residency()
        for fd in self._held[name].values():
            total.add(fd)
        return total.as_dict()


class _Residency:
    """Sums over files."""

    def __init__(self) -> None:
        self.files = self.pages = self.resident = self.dirty = self.dax_files = self.dax_pages = 0

    def add(self, fd: int) -> None:
        """Count one open file; cachestat(2) on a DAX file could crash the kernel and is refused by cachestat()."""
        self.files += 1
        try:
            counted = cachestat.cachestat(fd)
        except cachestat.DaxFileError:
            pages = -(-os.fstat(fd).st_size // cachestat.PAGE_SIZE)
            self.pages += pages
            self.dax_files += 1
            self.dax_pages += pages
            return
        self.pages += counted.pages
        self.resident += counted.resident
        self.dirty += counted.dirty or 0

    def as_dict(self) -> Result:
        return {
            "files": self.files,
            "pages": self.pages,
            "resident_pages": self.resident,
            "dirty_pages": self.dirty,
            "dax_files": self.dax_files,
            "dax_pages": self.dax_pages,
        }


def _tree_residency(directory: str) -> Result:
    total = _Residency()
    for path in cachestat.walk_part(directory):
        fd = os.open(path, os.O_RDONLY)
        try:
            total.add(fd)
        finally:
            os.close(fd)
    return total.as_dict()


def _unknown(**arguments: object) -> Result:
    raise OperationError("internal", "no such operation")


def _failure(request_id: object, reason: str, message: str) -> Result:
    return {"id": request_id, "ok": False, "error": {"reason": reason, "message": message}}


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < _DESCRIPTORS:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (_DESCRIPTORS, max(hard, _DESCRIPTORS)))
        except (PermissionError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def _libc_call(name: str, *arguments: object) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    if getattr(libc, name)(*arguments):
        shown = " ".join(argument.decode() for argument in arguments if isinstance(argument, bytes))
        raise OperationError("mount_failed", f"{name} {shown}: {os.strerror(ctypes.get_errno())}")


def serve(channel: PortChannel | SocketChannel, is_guest: bool) -> None:
    """Answer until ``poweroff``; a request that a host left half-sent is thrown away with him."""
    runner = Runner(channel, is_guest)
    while not runner.is_done:
        channel.wait_for_host()
        waiting = b""
        try:
            while not runner.is_done:
                data = channel.read()
                if not data or len(waiting) > _LINE_LIMIT:
                    break
                *lines, waiting = (waiting + data).split(b"\n")
                for line in lines:
                    channel.write(runner.answer(line))
        except BrokenPipeError:
            continue


def main() -> None:
    """Entry point."""
    kind, where = sys.argv[1:]
    is_guest = kind == "port"
    serve(PortChannel(find_port(where)) if is_guest else SocketChannel(where), is_guest)
    if is_guest:
        _libc_call("reboot", _RB_POWER_OFF)
