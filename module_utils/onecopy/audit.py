"""Audit a running host: which guests run, what the host caches of their storage, how much of it a guest can hold again.

Reads /proc and /sys, and the residency of files that QEMU and file-system daemons hold open. Changes nothing.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from . import (
    audit_cache,
    audit_cmdline,
    audit_guest,
    audit_host,
    audit_images,
    audit_judge,
    audit_options,
    cachestat,
)
from . import audit_processes as procs

SCHEMA: Final = 1
_UNSEEN_CACHES: Final = {"zfs": "ZFS keeps it in the ARC, which is not the page cache"}
_GUEST_CACHES: Final = {"auto", "always"}


class AuditError(Exception):
    """The audit cannot be made here; the message says why and what cures it."""


@dataclass(frozen=True, slots=True)
class Options:
    """``seconds`` bounds the counting of shares on this host."""

    seconds: float = 20.0
    share_walk: audit_cache.WalkMode = "known_names"
    monitors: bool = True


@dataclass(slots=True)
class _Seen:
    """One running guest before judgement."""

    process: procs.Process
    guest: audit_cmdline.Guest
    files: list[procs.OpenFile]
    maps: list[procs.Mapping]
    window: list[procs.Mapping]
    images: list[audit_images.Image]
    daemons: list[procs.Daemon | None] = field(default_factory=list)


def audit(options: Options) -> dict[str, Any]:
    """Return the whole audit as plain data (see library/audit_info.py for its shape).

    Raises AuditError when it may not look into other processes.
    """
    if os.geteuid() != 0:
        raise AuditError("the audit reads other users' processes: run it as root (become: true)")
    everything = procs.processes()
    qemus = [process for process in everything if procs.is_qemu(process) and not audit_cmdline.is_probe(process.argv)]
    daemons = procs.daemons(everything)
    pids = [process.pid for process in qemus] + [daemon.process.pid for daemon in daemons]
    sockets = procs.unix_sockets_of([1, *pids])
    seen, remarks = [], []
    for process in qemus:
        try:
            seen.append(_look_at(process, daemons, sockets))
        except OSError as error:
            remarks.append(f"QEMU {process.pid} could not be looked at: {error}")
    shares = _Shares(options, audit_cache.Deadline(options.seconds))
    users = _users(seen)
    guests, verdicts, images = [], [], {}
    for one in seen:
        found, verdict = _guest(one, shares, users, sockets, options)
        guests.append(found)
        verdicts.append(verdict)
        images.update(
            {image["path"]: image["host_cached_bytes"] for image in found["images"] if "host_cached_bytes" in image}
        )
    host = audit_host.host()
    used = {daemon.process.pid for one in seen for daemon in one.daemons if daemon}
    return {
        "schema": SCHEMA,
        "host": {**host, "residency_method": cachestat.method()},
        "guests": guests,
        "daemons_without_guest": [_daemon(daemon) for daemon in daemons if daemon.process.pid not in used],
        "images_host_cached_bytes": sum(images.values()),
        "shares_host_cached_bytes": shares.host_cached(),
        "verdict": _host_verdict(verdicts, host, seen),
        "remarks": remarks + shares.remarks(),
    }


def _look_at(process: procs.Process, daemons: list[procs.Daemon], sockets: list[procs.UnixSocket]) -> _Seen:
    guest = audit_cmdline.parse(process.argv)
    files = list(procs.open_files(process.pid))
    maps = audit_host.mappings_of(process.pid)
    memory_paths = {backend.path for backend in guest.backends if backend.path}
    window = audit_host.window_mappings(maps, memory_paths) if guest.shares else []
    inodes = [one.key[1] for one in window if one.key]
    found = audit_images.images(guest, files, audit_images.same_file(process.pid), inodes)
    seen = _Seen(process, guest, files, maps, window, found)
    seen.daemons = [procs.match_daemon(share.socket, daemons, sockets) for share in guest.shares]
    return seen


def _users(seen: list[_Seen]) -> dict[Any, int]:
    """How many guests use each image (by its file) and each shared directory (by its name)."""
    counts: dict[Any, int] = {}
    for one in seen:
        mine = {image.opened.key for image in one.images if image.opened} | {
            daemon.shared_dir for daemon in one.daemons if daemon
        }
        for key in mine:
            counts[key] = counts.get(key, 0) + 1
    return counts


def _guest(
    one: _Seen, shares: _Shares, users: dict[Any, int], sockets: list[procs.UnixSocket], options: Options
) -> tuple[dict[str, Any], audit_judge.Verdict]:
    guest, pid = one.guest, one.process.pid
    found_images = []
    by_file: dict[Any, audit_judge.Source] = {}
    mounts = audit_host.file_systems(pid)
    for image in one.images:
        entry, source = _image(pid, image, mounts, users)
        found_images.append(entry)
        key = image.opened.key if image.opened else image.name
        if source and (key not in by_file or by_file[key].direct):
            by_file[key] = source
    sources = list(by_file.values())
    found_shares = []
    for share, daemon in zip(guest.shares, one.daemons, strict=True):
        entry, source = shares.share(share, daemon, one.window, users)
        found_shares.append(entry)
        sources.append(source)
    cache = audit_guest.guest_cache(pid, guest, sockets, options.monitors)
    memory, facts = _memory(one, cache)
    verdict = audit_judge.judge_guest(memory, sources)
    balloon = guest.balloon
    return {
        "pid": pid,
        "name": guest.name or f"pid {pid}",
        **_known(uuid=guest.uuid, machine=guest.machine),
        "manager": guest.manager,
        "accelerator": guest.accelerator,
        "memory": facts,
        "balloon": {
            "present": balloon is not None,
            "free_page_reporting": bool(balloon and balloon.free_page_reporting),
        },
        "guest_cache": _known(bytes=cache.bytes, source=cache.source, why_not=cache.why_not),
        "images": found_images,
        "shares": found_shares,
        "verdict": _verdict(verdict),
        "remarks": guest.remarks,
    }, verdict


def _memory(one: _Seen, cache: audit_guest.GuestCache) -> tuple[audit_judge.Memory, dict[str, Any]]:
    guest = one.guest
    pmem = {image.path for image in guest.pmem}
    backends = [backend for backend in guest.backends if backend.path is None or backend.path not in pmem]
    backed = audit_host.backed_bytes(
        [backend.size for backend in backends] or [guest.memory_bytes], one.maps, one.files
    )
    total = max(guest.memory_bytes, sum(backend.size for backend in backends))
    balloon = guest.balloon
    memory = audit_judge.Memory(
        total, backed, cache.bytes, balloon is not None, bool(balloon and balloon.free_page_reporting)
    )
    facts = _known(
        total_bytes=total,
        backed_bytes=backed,
        shared=any(backend.shared for backend in backends),
        backends=sorted({backend.kind for backend in backends}) or ["private memory of QEMU"],
        ksm_merged_bytes=audit_host.ksm_merged_bytes(one.process.pid),
    )
    return memory, facts


def _image(
    pid: int, image: audit_images.Image, mounts: dict[int, str], users: dict[Any, int]
) -> tuple[dict[str, Any], audit_judge.Source | None]:
    opened = image.opened
    entry = {
        "path": opened.name if opened else image.name,
        "role": image.role,
        "cache": image.cache,
        "direct": image.direct,
        "read_only": image.read_only,
        **_known(format=image.format, device=image.device),
    }
    if opened is None:
        entry["why_not"] = (
            "no descriptor is open: data over a protocol of QEMU's own, or an empty drive; not in this host's page cache"
        )
        return entry, None
    entry["guests"] = users[opened.key]
    why_not = _UNSEEN_CACHES.get(mounts.get(opened.mount or -1, "")) or (
        "a ZFS volume is kept in the ARC" if opened.name.startswith("/dev/zd") else None
    )
    cached: int | None = None
    if why_not is None:
        try:
            counted = audit_cache.of_open_file(pid, opened)
            cached, entry["host_cached_bytes"], entry["size_bytes"] = counted.bytes, counted.bytes, counted.size
        except OSError as error:
            why_not = f"could not be counted: {error.strerror}"
    if why_not:
        entry["why_not"] = why_not
    if image.role == "firmware":
        return entry, None
    source = audit_judge.Source(
        "pmem" if image.role == "pmem" else "image",
        entry["path"],
        cached,
        entry["guests"],
        direct=image.direct,
    )
    return entry, source


class _Shares:
    """Counts each shared directory and each daemon once, within one time budget."""

    def __init__(self, options: Options, deadline: audit_cache.Deadline) -> None:
        self.walk = options.share_walk
        self.deadline = deadline
        self.trees: dict[procs.FileKey, audit_cache.Residency] = {}
        self.said: list[str] = []
        if self.walk == "known_names" and not audit_cache.known_names_supported():
            self.walk = "none"
            self.said.append(
                "this kernel cannot list only names it has cached (Linux 5.12): trees of shares are not walked"
            )

    def host_cached(self) -> int:
        return sum(tree.bytes for tree in self.trees.values())

    def remarks(self) -> list[str]:
        return self.said

    def share(
        self,
        share: audit_cmdline.Share,
        daemon: procs.Daemon | None,
        mapped: list[procs.Mapping],
        users: dict[Any, int],
    ) -> tuple[dict[str, Any], audit_judge.Source]:
        """One share of one guest: what was found, and what is to be judged."""
        entry: dict[str, Any] = {"device": share.device, **_known(socket=share.socket, tag=share.tag)}
        if daemon is None:
            entry["why_not"] = "no file-system daemon was found at the other end of its socket"
            return entry, audit_judge.Source("share", share.tag or share.socket or share.device, None)
        entry.update(_daemon(daemon))
        with contextlib.suppress(OSError):
            tree = self._tree(daemon)
            entry["tree"] = _residency(tree)
            entry["host_cached_bytes"] = tree.bytes
        held = self._held(daemon)
        entry["known_to_guest"] = _residency(held)
        by_handle = daemon.inode_file_handles != "never"
        cached: int | None = held.bytes if held.complete and not by_handle else None
        if by_handle:
            entry["why_not"] = (
                "the daemon keeps file handles, not descriptors: which files the guest knows cannot be seen"
            )
            if "tree" in entry and entry["tree"]["complete"] and self.walk == "everything":
                cached = entry["host_cached_bytes"]
        dax = daemon.dax_window not in (None, "0")
        outside = (
            self._held(daemon, procs.outside_window(mapped, _size(daemon.inode_dax))).bytes if dax and cached else 0
        )
        window = sum(one.size for one in mapped) if dax else 0
        entry["dax_mapped_bytes"] = window
        caches = daemon.cache in _GUEST_CACHES or daemon.allow_mmap
        name = f"{daemon.kind} {daemon.shared_dir}"
        guests = users.get(daemon.shared_dir, 1)
        return entry, audit_judge.Source(
            "share", name, cached, guests, guest_caches=caches, dax=dax, mapped=window, outside_dax=outside
        )

    def _held(
        self, daemon: procs.Daemon, chosen: Callable[[procs.OpenFile], bool] | None = None
    ) -> audit_cache.Residency:
        """Files that the daemon keeps open for its guest, all or those chosen."""
        files = (one for one in self._descriptors(daemon) if chosen is None or chosen(one))
        return audit_cache.of_held_files(daemon.server, files, self.deadline)

    @staticmethod
    def _descriptors(daemon: procs.Daemon) -> Iterator[procs.OpenFile]:
        return (
            one
            for one in procs.open_files(daemon.server)
            if not one.is_block and not one.name.startswith(("/proc/", "/memfd:")) and one.fd > 2
        )

    def _tree(self, daemon: procs.Daemon) -> audit_cache.Residency:
        root = procs.open_shared_dir(daemon)
        try:
            status = os.fstat(root)
            key = (status.st_dev, status.st_ino)
            if key not in self.trees:
                self.trees[key] = audit_cache.of_tree(root, self.walk, self.deadline)
            return self.trees[key]
        finally:
            os.close(root)


def _size(text: str | None) -> int:
    return audit_options.size_bytes(text, "B") if text else 0


def _daemon(daemon: procs.Daemon) -> dict[str, Any]:
    return _known(
        daemon=daemon.kind,
        pid=daemon.process.pid,
        directory=daemon.shared_dir,
        cache=daemon.cache,
        sandbox=daemon.sandbox,
        dax_window=daemon.dax_window,
    )


def _residency(counted: audit_cache.Residency) -> dict[str, Any]:
    found = asdict(counted)
    renamed = {"bytes": "host_cached_bytes", "size": "size_bytes", "skipped": "names_not_cached"}
    return _known(**{renamed.get(name, name): value for name, value in found.items()})


def _verdict(verdict: audit_judge.Verdict) -> dict[str, Any]:
    setting = audit_judge.SETTINGS[verdict.setting]
    return _known(
        duplicated_at_most_bytes=verdict.duplicated_at_most,
        limited_by=verdict.limited_by,
        complete=verdict.complete,
        setting=verdict.setting,
        short=setting.short,
        try_this=setting.try_this,
        subject=verdict.subject,
        reason=verdict.reason,
        gives_up=setting.gives_up,
        saves_at_most_bytes=verdict.saves_at_most,
        evidence=list(setting.evidence) if setting.evidence else None,
    )


def _host_verdict(verdicts: list[audit_judge.Verdict], host: dict[str, Any], seen: list[_Seen]) -> dict[str, Any]:
    notes = audit_judge.host_notes(
        ksm_running=host["ksm"].get("run") == 1,
        pages_sharing=host["ksm"].get("pages_sharing", 0),
        shared_memory_guests=sum(any(backend.shared for backend in one.guest.backends) for one in seen),
        guests=len(seen),
        thp=host["thp"].get("enabled"),
        shmem_thp=host["thp"].get("shmem_enabled"),
    )
    verdict = audit_judge.judge_host(verdicts, notes)
    setting = audit_judge.SETTINGS[verdict.setting]
    return {
        "duplicated_at_most_bytes": verdict.duplicated_at_most,
        "complete": verdict.complete,
        "setting": verdict.setting,
        "short": setting.short,
        "try_this": setting.try_this,
        "reason": verdict.reason,
        "saves_at_most_bytes": verdict.saves_at_most,
        "notes": list(verdict.notes),
    }


def _known(**values: Any) -> dict[str, Any]:
    """What is known: a value that was not had is absent, never null."""
    return {name: value for name, value in values.items() if value is not None}
