"""What one boot of a system consists of: guest, daemon, scratch, and what the guest mounts where. Only describes; testbed.py acts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from . import daemon, guest_init, qemu, units
from .cachestat import OWN_TREE
from .guest_root import kernel_path
from .paths import RUNTIME, HostPaths
from .systems import SYSTEMS, System

DATA_ROOTS = {"a": "/data/a", "b": "/data/b"}
SCRATCH = "/scratch"
SHARE = "/share"
TAG = "onecopy"
USER = "onecopy"
# PCI slots: the guest calls the disks that it has vda, vdb, vdc in this order.
_ROOT_SLOT, _SCRATCH_SLOT, _DATA_SLOT = 0x03, 0x04, 0x05
_OPTIONS = frozenset(
    {
        "aio",
        "iothread",
        "queues",
        "queue_size",
        "window_mib",
        "inode_dax_kib",
        "dax_always",
        "icount",
        "cpu_model",
        "memory",
        "reclaim",
        "scratch_mib",
        "cache",
        "device",
        "root",
        "discard",
        "read_ahead_kb",
    }
)


@dataclass(frozen=True)
class BootSpec:
    """What to boot.

    ``is_one_of_many``: other guests use the same share, so that its scratch is a directory of the guest's own name.
    ``options`` are tuning factors: ``aio`` (threads, native, io_uring), ``iothread`` (bool), ``queues``, ``queue_size``; hostfsd's
    ``window_mib``, ``inode_dax_kib``, ``dax_always`` (bool), ``cache``; ``icount`` (bool), ``cpu_model``; ``memory`` (memfd, private,
    private_merge), ``reclaim`` (balloon, reporting, virtio_mem), ``scratch_mib``; ``device`` (a profile of device_limit.py); ``root`` (data: the guest
    boots from the data set, which must be a root tree); ``discard`` (bool: what the guest discards of its disks is freed on the host);
    ``read_ahead_kb`` of the store and of the guest's mounts.
    """

    system: str
    label: str
    dataset: str
    accelerator: str
    memory_mib: int
    cpus: int
    name: str = "trial"
    is_one_of_many: bool = False
    options: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mount:
    """One call of the runner's ``mount``."""

    source: str
    target: str
    fstype: str
    options: str


@dataclass(frozen=True)
class Arrangement:
    """Everything that belongs to one boot. ``scratch_image`` None: the scratch is a directory of the share.

    ``base_image``: what the guest's own image is an overlay on, where it is one.
    """

    spec: BootSpec
    system: System
    directory: Path
    share: Path
    guest: qemu.GuestSpec | None
    scratch_image: Path | None
    daemon_unit: str | None
    data_mounts: tuple[Mount, ...]
    scratch_mounts: tuple[Mount, ...]
    base_image: Path | None = None

    @property
    def unit(self) -> str:
        """The unit of the guest, or of the ``hfs`` runner."""
        return (units.GUEST if self.guest else units.HFS_RUNNER).format(self.spec.name)

    @property
    def runner(self) -> Path:
        """The socket behind which the runner answers."""
        return self.directory / "runner.sock"

    @property
    def console(self) -> Path:
        """What the guest's kernel said."""
        return self.directory / "console.log"

    @property
    def own_image(self) -> Path | None:
        """The disk with the data that is this guest's alone, where the system has one."""
        disks = self.guest.disks if self.guest and self.system.own_image else ()
        return next((disk.path for disk in disks if disk.name == "data"), None)

    @property
    def files(self) -> list[Path]:
        """Image files that are made at its boot and go with it."""
        return [path for path in (self.scratch_image, self.own_image) if path is not None]

    @property
    def mounted_images(self) -> dict[str, Path]:
        """Images of file systems, overlays too, by where the guest mounts them: that of the data, and of the scratch."""
        if self.guest is None:
            return {}
        targets = {"data": "/data", "scratch": SCRATCH}
        found = {targets[disk.name]: disk.path for disk in self.guest.disks if disk.name in targets}
        return found | ({"/data": self.guest.pmem.path} if self.guest.pmem else {})

    @property
    def share_scratch(self) -> Path:
        """The share's directory that is this guest's scratch, where the system has a share."""
        return self.share / "scratch" / (self.spec.name if self.spec.is_one_of_many else "")

    @property
    def root(self) -> Path:
        """Where the guest's root image is mounted for the ``hfs`` chroot."""
        return self.directory / "root"

    @property
    def daemon_socket(self) -> Path:
        """The vhost-user socket of the daemon."""
        return self.directory / "share.sock"

    @property
    def stats(self) -> Path:
        """Where hostfsd tells its counters."""
        return self.directory / "stats.sock"


def directory(name: str) -> Path:
    """Sockets and per-boot files of the guest ``name``."""
    return RUNTIME / "guests" / name


def arrange(spec: BootSpec, paths: HostPaths) -> Arrangement:
    """Describe the boot. Raises ValueError on an unknown system, an unknown option, or one that contradicts the system."""
    system = SYSTEMS.get(spec.system)
    if system is None:
        raise ValueError(f"unknown system {spec.system!r}: known: {', '.join(SYSTEMS)}")
    unknown = sorted(set(spec.options) - _OPTIONS)
    if unknown:
        raise ValueError(f"{spec.label}: unknown option {unknown[0]!r}: known: {', '.join(sorted(_OPTIONS))}")
    if spec.options.get("root", "data") != "data" or ("root" in spec.options and system.path == "host"):
        raise ValueError(f"{spec.label}: option root: only a guest's can be the data set, and only `data` says so")
    here = directory(spec.name)
    common = {"spec": spec, "system": system, "directory": here, "share": paths.share(spec.dataset)}
    if system.path == "host":
        return Arrangement(
            **cast(Any, common), guest=None, scratch_image=None, daemon_unit=None, data_mounts=(), scratch_mounts=()
        )
    if system.storage == "share":
        mount_options = "dax=always" if spec.options.get("dax_always") else ""
        shared = Mount(TAG, SHARE, "virtiofs", mount_options)
        data: tuple[Mount, ...] = (
            shared,
            Mount(f"{SHARE}/data", "/data", "", "bind"),
            Mount("", "/data", "", "remount,bind,ro,noatime"),
        )
        unit = units.VIRTIOFSD if system.path == "virtiofs" else units.HOSTFSD
        scratch_image, scratch, daemon_unit = (
            None,
            (Mount(f"{SHARE}/scratch/{spec.name if spec.is_one_of_many else ''}".rstrip("/"), SCRATCH, "", "bind"),),
            unit.format(spec.name),
        )
    else:
        source, dax = ("/dev/pmem0", ",dax=always") if system.dax else (_device(spec, "data"), "")
        journal = ",noload" if system.filesystem == "ext4" else ""
        data = (Mount(source, "/data", system.filesystem, f"ro{journal},noatime{dax}"),)
        scratch_image, daemon_unit = paths.store / "scratch" / f"{spec.name}.img", None
        scratch = (Mount(_device(spec, "scratch"), SCRATCH, "ext4", "noatime"),)
    return Arrangement(
        **cast(Any, common),
        guest=_guest(spec, system, paths, scratch_image, data[0]),
        scratch_image=scratch_image,
        daemon_unit=daemon_unit,
        data_mounts=data,
        scratch_mounts=scratch,
        base_image=paths.image(spec.dataset, system.name) if system.own_image == "overlay" else None,
    )


def daemon_argv(arrangement: Arrangement, paths: HostPaths) -> list[str]:
    """The daemon's command line. Raises DaemonError."""
    system, options = arrangement.system, arrangement.spec.options
    if system.path == "virtiofs":
        assert system.virtiofs_cache
        binary = daemon.find_virtiofsd()
        known = daemon.virtiofsd_options(binary)
        return daemon.virtiofsd_argv(binary, known, arrangement.share, arrangement.daemon_socket, system.virtiofs_cache)
    return daemon.hostfsd_argv(
        paths.state / "hostfsd.pyz",
        arrangement.share,
        arrangement.daemon_socket,
        arrangement.stats,
        TAG,
        window_mib=_int(options, "window_mib", 512),
        inode_dax_kib=_int(options, "inode_dax_kib", 1024),
        cache=cast(daemon.VirtiofsCache, options.get("cache") or system.virtiofs_cache or "auto"),
        queues=_int(options, "queues", 1),
    )


def hfs_service(arrangement: Arrangement) -> list[str]:
    """[Service] lines of the ``hfs`` runner: chrooted in the guest's root image, data and scratch at the same paths as in a guest."""
    return [
        f"RootDirectory={arrangement.root}",
        f"BindReadOnlyPaths={arrangement.share}/data:/data",
        f"BindPaths={arrangement.share}/scratch:{SCRATCH}",
        f"BindPaths={arrangement.directory}:/run/onecopy",
    ]


def hfs_argv() -> list[str]:
    """The command line of the ``hfs`` runner, inside its root."""
    return [
        "/usr/bin/python3",
        "-SEs",
        "-X",
        "frozen_modules=on",
        "/run/onecopy/runner/main.py",
        "socket",
        "/run/onecopy/runner.sock",
    ]


def _device(spec: BootSpec, disk: str) -> str:
    """What the guest calls one of its disks."""
    disks = ["scratch", "data"] if "root" in spec.options else ["root", "scratch", "data"]
    return f"/dev/vd{'abc'[disks.index(disk)]}"


def _guest(spec: BootSpec, system: System, paths: HostPaths, scratch: Path | None, data: Mount) -> qemu.GuestSpec:
    """``data``: the first mount of the data set, whose root tree is the guest's own root where that is asked for."""
    options = spec.options
    disks = []
    if "root" in options:
        tree = f"a/{OWN_TREE}" if system.storage == "image" else f"data/a/{OWN_TREE}"
        root = qemu.Root(data.source, data.fstype, data.options, tree)
    else:
        disks.append(qemu.Disk("root", paths.guest / "root.img", _ROOT_SLOT))
        root = qemu.ROOT_DISK
    pmem = share = None
    cache = system.block_cache or "none"
    tuning: dict[str, Any] = {
        "cache": cache,
        # O_DIRECT is what Linux' own asynchronous I/O is made for; over the page cache it would block.
        "aio": options.get("aio") or ("native" if cache == "none" else "threads"),
        "queues": _int(options, "queues", 1),
        "queue_size": _int(options, "queue_size", 256),
        "has_iothread": bool(options.get("iothread", False)),
        "discards": bool(options.get("discard", False)),
    }
    if scratch is not None:
        disks.append(qemu.Disk("scratch", scratch, _SCRATCH_SLOT, is_readonly=False, **tuning))
    if system.storage == "image":
        image = paths.image(spec.dataset, system.name)
        if system.path == "pmem":
            size = image.stat().st_size if image.exists() else 0
            pmem = qemu.Pmem(image, size, is_shared=system.merges != "mapping")
        elif system.own_image is None:
            disks.append(qemu.Disk("data", image, _DATA_SLOT, **tuning))
        else:
            own = paths.own_image(spec.name, system.own_image)
            kind: Any = "raw" if system.own_image == "copy" else "qcow2"
            disks.append(qemu.Disk("data", own, _DATA_SLOT, is_readonly=False, format=kind, **tuning))
    else:
        # QEMU's own device carries at most 1,024 entries; more than one request queue needs a guest with as many vCPUs.
        share = qemu.Share(
            directory(spec.name) / "share.sock",
            TAG,
            "vhost-user-fs" if system.path == "virtiofs" else "vhost-user-test-device",
            _int(options, "queues", 1),
            _int(options, "queue_size", 128),
        )
    reclaim = cast(Any, options.get("reclaim"))
    modules = (guest_init.PMEM_MODULES if pmem else ()) + guest_init.RECLAIM_MODULES.get(reclaim, ())
    modules += guest_init.EROFS_MODULES if system.filesystem == "erofs" else ()
    return qemu.GuestSpec(
        name=spec.name,
        accelerator=cast(Any, spec.accelerator),
        memory_mib=spec.memory_mib,
        cpus=spec.cpus,
        kernel=kernel_path(paths.guest),
        initrd=paths.guest / "initrd",
        directory=directory(spec.name),
        root=root,
        # A daemon writes a guest's memory behind TCG's back, which goes on with what it has translated of the program that was in the page before.
        # Data that hold no programs do not need it, and it costs instructions.
        clears_pages=spec.accelerator == "tcg" and (paths.share(spec.dataset) / "data/a" / OWN_TREE).is_dir(),
        disks=tuple(disks),
        pmem=pmem,
        share=share,
        cpu_model=cast("str | None", options.get("cpu_model")),
        icount=bool(options.get("icount", False)),
        memory=cast(Any, options.get("memory") or ("private_merge" if system.merges == "guest_memory" else "memfd")),
        reclaim=reclaim,
        modules=modules,
    )


def _int(options: Mapping[str, object], name: str, default: int) -> int:
    value = options.get(name, default)
    if type(value) is not int:  # a bool is an int to isinstance
        raise ValueError(f"option {name} must be a whole number, not {value!r}")
    return value
