"""What a QEMU command line says about storage and memory. Pure: text in, data out."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Final, Literal

from .audit_options import Options, is_on, key_values, options_of, size_bytes

Manager = Literal["libvirt", "proxmox", "plain"]

# The key that the first value of an option belongs to when it stands without one.
_IMPLIED: Final = {
    "device": "driver",
    "object": "qom-type",
    "machine": "type",
    "M": "type",
    "m": "size",
    "name": "guest",
    "accel": "accel",
    "chardev": "backend",
    "mon": "chardev",
    "blockdev": "driver",
}
_DISK_SHORTCUTS: Final = {"hda", "hdb", "hdc", "hdd", "cdrom", "sd", "pflash", "mtdblock", "fda", "fdb"}
_CACHE_MODES: Final[dict[str, tuple[bool, bool]]] = {  # (writeback, direct)
    "writeback": (True, False),
    "none": (True, True),
    "off": (True, True),
    "writethrough": (False, False),
    "directsync": (False, True),
    "unsafe": (True, False),
}
_NO_FILE: Final = re.compile(
    r"^(nbd|rbd|ssh|iscsi|https?|ftps?|gluster|nfs|vxhs|nvme|curl|json|null-co|null-aio)(\+[a-z]+)?:"
)
_NETWORK_DRIVERS: Final = {
    "nbd",
    "rbd",
    "ssh",
    "iscsi",
    "http",
    "https",
    "ftp",
    "gluster",
    "nfs",
    "nvme",
    "curl",
    "null-co",
    "null-aio",
    "nvme-io_uring",
}
_FILE_DRIVERS: Final = {"file", "host_device", "host_cdrom"}


@dataclass(frozen=True, slots=True)
class Disk:
    """One image that the command line names; every layer of a chain that it spells out is a Disk of its own.

    ``path`` is as QEMU sees it (``/dev/fdset/N`` for a passed descriptor), None where the data come over a protocol.
    ``direct`` is what was asked for; the descriptor's own O_DIRECT flag is the truth. Firmware never enters a page
    cache of the guest.
    """

    path: str | None
    cache: str
    direct: bool
    read_only: bool = False
    backing: bool = False
    format: str | None = None
    device: str | None = None
    protocol: str | None = None
    firmware: bool = False


@dataclass(frozen=True, slots=True)
class MemoryBackend:
    """A guest memory object; ``size`` in bytes."""

    id: str
    kind: str
    size: int
    shared: bool
    merge: bool
    path: str | None = None


@dataclass(frozen=True, slots=True)
class Share:
    """A vhost-user file system; ``socket`` is the chardev's path, None where the socket was passed as a descriptor."""

    device: str
    socket: str | None
    descriptor: int | None
    tag: str | None = None


@dataclass(frozen=True, slots=True)
class Pmem:
    """An image mapped into the guest as persistent memory."""

    path: str
    shared: bool
    device: str


@dataclass(frozen=True, slots=True)
class Balloon:
    """A balloon device and what it may do by itself."""

    device: str
    free_page_reporting: bool
    id: str | None = None


@dataclass(frozen=True, slots=True)
class Monitor:
    """Where the machine protocol (QMP) listens; no ``socket`` where it was passed as a descriptor.

    ``waits``: QEMU may not run the guest before somebody has connected (wait=on, the default of a listening socket).
    """

    socket: str | None
    waits: bool = False


@dataclass(slots=True)
class Guest:
    """One QEMU command line. ``memory_bytes`` is the RAM at start, pmem apart."""

    name: str | None = None
    uuid: str | None = None
    manager: Manager = "plain"
    accelerator: str = "tcg"
    machine: str | None = None
    memory_bytes: int = 128 << 20
    backends: list[MemoryBackend] = field(default_factory=list)
    disks: list[Disk] = field(default_factory=list)
    shares: list[Share] = field(default_factory=list)
    pmem: list[Pmem] = field(default_factory=list)
    balloon: Balloon | None = None
    monitors: list[Monitor] = field(default_factory=list)
    guest_agent: bool = False
    pid_file: str | None = None
    remarks: list[str] = field(default_factory=list)


def parse(argv: Sequence[str]) -> Guest:
    """Read one QEMU command line (argv[0] included). What it does not know it leaves alone; what it cannot read becomes
    a remark.
    """
    guest = Guest()
    raw: dict[str, list[Options]] = {}
    for name, value in options_of(argv):
        try:
            if name in _DISK_SHORTCUTS:
                raw.setdefault("drive", []).append(
                    {"file": value, "if": "pflash" if name == "pflash" else "ide", "__device": name}
                )
            else:
                raw.setdefault("machine" if name == "M" else name, []).append(key_values(value, _IMPLIED.get(name, "")))
        except ValueError as error:
            guest.remarks.append(f"-{name}: {error}")
        if name == "readconfig":
            guest.remarks.append(
                f"-readconfig {value}: the settings in that file are not read; open files are counted all the same"
            )
    _identity(guest, raw, argv)
    _memory(guest, raw)
    _drives(guest, raw)
    _blockdevs(guest, raw)
    _devices(guest, raw)
    return guest


def is_probe(argv: Sequence[str]) -> bool:
    """Whether this QEMU was started to ask what it can do (libvirt's capability probes), not to run a guest."""
    machine = [
        value.split(",")[0].removeprefix("type=") for name, value in options_of(argv) if name in ("machine", "M")
    ]
    return bool(machine) and machine[-1] == "none"


def _identity(guest: Guest, raw: dict[str, list[Options]], argv: Sequence[str]) -> None:
    for options in raw.get("name", []):
        guest.name = options.get("guest", guest.name)
    for options in raw.get("uuid", []):
        guest.uuid = next(iter(options), None)
    for options in raw.get("machine", []):
        guest.machine = options.get("type", guest.machine)
        guest.accelerator = options.get("accel", guest.accelerator).split(":")[0]
    if "enable-kvm" in raw:
        guest.accelerator = "kvm"
    for options in raw.get("accel", [])[:1]:
        guest.accelerator = options.get("accel", guest.accelerator)
    for options in raw.get("pidfile", []):
        guest.pid_file = next(iter(options), None)
    text = " ".join(argv)
    if "/var/run/qemu-server/" in text or "/run/qemu-server/" in text:
        guest.manager = "proxmox"
    elif any("debug-threads" in options for options in raw.get("name", [])) and (
        "charmonitor" in text or "/libvirt/" in text
    ):
        guest.manager = "libvirt"


def _memory(guest: Guest, raw: dict[str, list[Options]]) -> None:
    for options in raw.get("m", []):
        try:
            guest.memory_bytes = size_bytes(options["size"])
        except (KeyError, ValueError) as error:
            guest.remarks.append(f"-m: {error}")
    for options in raw.get("object", []):
        kind = options.get("qom-type", "")
        if not kind.startswith("memory-backend-"):
            continue
        try:
            guest.backends.append(
                MemoryBackend(
                    options.get("id", ""),
                    kind,
                    size_bytes(options.get("size", "0"), "B"),
                    is_on(options, "share", default=kind == "memory-backend-memfd"),
                    is_on(options, "merge", default=True),
                    options.get("mem-path"),
                )
            )
        except ValueError as error:
            guest.remarks.append(f"-object {kind}: {error}")


def _drives(guest: Guest, raw: dict[str, list[Options]]) -> None:
    everything_discarded = "snapshot" in raw
    for options in raw.get("drive", []):
        path = options.get("file") or options.get("file.filename")
        protocol = options.get("file.driver")
        if path is not None:
            scheme = _NO_FILE.match(path)
            protocol, path = (scheme[1], None) if scheme else (protocol, path.removeprefix("file:"))
        if protocol in _NETWORK_DRIVERS:
            path = None
        if path is None and protocol is None:
            continue  # an empty CD drive
        mode = (
            "unsafe"
            if is_on(options, "snapshot", default=everything_discarded) and "cache" not in options
            else options.get("cache", "writeback")
        )
        direct = is_on(options, "cache.direct", default=_CACHE_MODES.get(mode, (True, False))[1])
        guest.disks.append(
            Disk(
                path,
                _mode_name(mode, direct),
                direct,
                read_only=is_on(
                    options, "readonly", default=is_on(options, "read-only", default=options.get("media") == "cdrom")
                ),
                format=options.get("format") or options.get("driver"),
                device=options.get("id") or options.get("__device") or options.get("if"),
                protocol=protocol if path is None else None,
                firmware=options.get("if") == "pflash",
            )
        )


def _mode_name(mode: str, direct: bool) -> str:
    if direct == _CACHE_MODES.get(mode, (True, False))[1]:
        return "none" if mode == "off" else mode
    return "none" if direct else "writeback"


def _blockdevs(guest: Guest, raw: dict[str, list[Options]]) -> None:
    nodes = {options["node-name"]: options for options in raw.get("blockdev", []) if "node-name" in options}
    used = {
        reference
        for options in nodes.values()
        for key, reference in options.items()
        if reference in nodes and key != "node-name"
    }
    by_drive = {
        options["drive"]: options.get("id") or options.get("driver")
        for options in raw.get("device", [])
        if "drive" in options
    }
    flash = {value for options in raw.get("machine", []) for key, value in options.items() if key.startswith("pflash")}
    for name, options in nodes.items():
        if name not in used:
            layers = _chain(nodes, options, by_drive.get(name) or name, backing=False, above={})
            guest.disks.extend(replace(disk, firmware=name in flash) for disk in layers)


def _chain(
    nodes: dict[str, Options], options: Options, device: str, *, backing: bool, above: Options
) -> Iterator[Disk]:
    """Walk one node down to the files it ends in; ``above`` is what a layer inherits (cache, read-only)."""
    driver = options.get("driver", "")
    inherited = {key: options.get(key, above.get(key, "")) for key in ("cache.direct", "cache.no-flush", "read-only")}
    if driver not in _FILE_DRIVERS | _NETWORK_DRIVERS:
        inherited["format"] = (
            driver if driver not in ("raw", "throttle", "copy-on-read") or not above.get("format") else above["format"]
        )
        for child in ("file", "backing"):
            below = nodes.get(options.get(child, "")) or {
                key.removeprefix(f"{child}."): value for key, value in options.items() if key.startswith(f"{child}.")
            }
            if below:
                keep = (
                    dict(inherited)
                    if child == "file"
                    else {"cache.direct": inherited["cache.direct"], "read-only": "on"}
                )
                yield from _chain(nodes, below, device, backing=backing or child == "backing", above=keep)
        return
    direct = inherited["cache.direct"] == "on"
    mode = "none" if direct else "unsafe" if inherited["cache.no-flush"] == "on" else "writeback"
    path = options.get("filename") if driver in _FILE_DRIVERS else None
    yield Disk(
        path,
        mode,
        direct,
        read_only=above.get("read-only", inherited["read-only"]) == "on",
        backing=backing,
        format=above.get("format") or "raw",
        device=device,
        protocol=driver if path is None else None,
    )


def _devices(guest: Guest, raw: dict[str, list[Options]]) -> None:
    chardevs = {options["id"]: options for options in raw.get("chardev", []) if "id" in options}
    backends = {backend.id: backend for backend in guest.backends}
    for options in raw.get("device", []):
        driver = options.get("driver", "")
        chardev = chardevs.get(options.get("chardev", ""), {})
        if driver.startswith("vhost-user-fs") or (
            driver.startswith("vhost-user-test-device") and options.get("virtio-id") == "26"
        ):
            descriptor = chardev.get("fd", "")
            guest.shares.append(
                Share(
                    driver, chardev.get("path"), int(descriptor) if descriptor.isdigit() else None, options.get("tag")
                )
            )
        elif driver.startswith(("virtio-pmem", "nvdimm")):
            backend = backends.get(options.get("memdev", ""))
            if backend and backend.path:
                guest.pmem.append(Pmem(backend.path, backend.shared, driver))
        elif driver.startswith("virtio-balloon"):
            guest.balloon = Balloon(driver, is_on(options, "free-page-reporting"), options.get("id"))
        elif driver == "virtserialport" and options.get("name") == "org.qemu.guest_agent.0":
            guest.guest_agent = True
    for options in raw.get("mon", []):
        chardev = chardevs.get(options.get("chardev", ""), {})
        if options.get("mode") == "control" and chardev.get("backend") == "socket" and is_on(chardev, "server"):
            guest.monitors.append(Monitor(chardev.get("path"), _waits(chardev)))
    for options in raw.get("qmp", []):
        address = next((key for key in options if key.startswith("unix:")), None)
        if address and is_on(options, "server"):
            guest.monitors.append(Monitor(address.removeprefix("unix:"), _waits(options)))


def _waits(options: Options) -> bool:
    return is_on(options, "wait", default=not is_on(options, "nowait"))
