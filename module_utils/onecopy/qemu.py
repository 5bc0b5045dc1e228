"""One guest as a QEMU command line: a small description in, the exact argv out."""

from __future__ import annotations

import json
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from . import guest_init

BINARY = "qemu-system-x86_64"
MEMORY = "m0"
PLUGGED = "plugged"
_VIRTIO_MEM_MIB = 128  # the least that Linux plugs
TB_MIB = 64  # bounds TCG's code buffer, which otherwise grows to 195 MB inside QEMU
MAXMEM_MIB = 3584  # guest memory and what is plugged into it

# A guest with memory above 4 GiB, where QEMU puts that of virtio-pmem, would set 64 MiB aside for bounce buffers that virtio does not use (swiotlb).
_CMDLINE = (
    "console=ttyS0 quiet panic=-1 net.ifnames=0 mitigations=off audit=0 random.trust_cpu=on tsc=reliable no_timer_check "
    "nokaslr nowatchdog rcupdate.rcu_expedited=1 cryptomgr.notests transparent_hugepage=madvise swiotlb=noforce"
)


@dataclass(frozen=True, slots=True)
class Disk:
    """A virtio-blk disk. ``address`` is its PCI slot: the guest names disks in that order."""

    name: str
    path: Path
    address: int
    cache: Literal["writeback", "none"] = "none"
    aio: Literal["threads", "native", "io_uring"] = "threads"
    is_readonly: bool = True
    queues: int = 1
    queue_size: int = 256
    has_iothread: bool = False
    format: Literal["raw", "qcow2"] = "raw"
    discards: bool = False


@dataclass(frozen=True, slots=True)
class Pmem:
    """A virtio-pmem device that maps an image file: shared with the host's page cache, or privately."""

    path: Path
    size_bytes: int
    is_shared: bool = True


@dataclass(frozen=True, slots=True)
class Share:
    """A vhost-user file system; ``device`` says which QEMU device carries it."""

    socket: Path
    tag: str
    device: Literal["vhost-user-fs", "vhost-user-test-device"] = "vhost-user-fs"
    queues: int = 1
    queue_size: int = 128


@dataclass(frozen=True, slots=True)
class Root:
    """What the guest's initramfs mounts as its root, in the words of mount(2); ``directory``: which of its directories is the root."""

    source: str
    fstype: str
    options: str
    directory: str = ""


ROOT_DISK = Root("/dev/vda", "ext4", "ro,noload,noatime")


@dataclass(frozen=True, slots=True)
class GuestSpec:
    """One guest. ``directory`` holds its sockets and console log; ``icount`` makes the guest's clock count instructions (TCG, one vCPU).

    ``reclaim``: how the host gets back what the guest freed; ``virtio_mem`` makes half of the memory unpluggable. ``clears_pages``: the guest's
    kernel clears every page that it allocates.
    """

    name: str
    accelerator: Literal["kvm", "tcg"]
    memory_mib: int
    cpus: int
    kernel: Path
    initrd: Path
    directory: Path
    disks: tuple[Disk, ...] = ()
    pmem: Pmem | None = None
    share: Share | None = None
    cpu_model: str | None = None
    icount: bool = False
    memory: Literal["memfd", "private", "private_merge"] = "memfd"
    reclaim: Literal["balloon", "reporting", "virtio_mem"] | None = None
    modules: tuple[str, ...] = ()
    root: Root = ROOT_DISK
    clears_pages: bool = False

    @property
    def qmp(self) -> Path:
        """Socket of the monitor protocol."""
        return self.directory / "qmp.sock"

    @property
    def runner(self) -> Path:
        """Socket behind the runner's port."""
        return self.directory / "runner.sock"

    @property
    def shell(self) -> Path:
        """Socket behind the console with a shell."""
        return self.directory / "shell.sock"

    @property
    def console(self) -> Path:
        """What the guest's kernel said."""
        return self.directory / "console.log"


def argv(spec: GuestSpec) -> list[str]:
    """The exact command line. Raises ValueError where the description contradicts itself."""
    _check(spec)
    command = [
        BINARY,
        "-name",
        f"guest=onecopy-{spec.name},process=onecopy-{spec.name}",
        "-nodefaults",
        "-no-user-config",
        "-display",
        "none",
    ]
    command += ["-no-reboot", *_accelerator(spec), "-smp", str(spec.cpus), *_memory(spec)]
    command += ["-kernel", str(spec.kernel), "-initrd", str(spec.initrd), "-append", cmdline(spec)]
    command += ["-chardev", f"file,id=console,path={spec.console}", "-serial", "chardev:console"]
    command += ["-qmp", f"unix:{spec.qmp},server=on,wait=off"]
    command += ["-device", "virtio-serial-pci,addr=0x02,max_ports=4"]
    command += ["-chardev", f"socket,id=runner,path={spec.runner},server=on,wait=off"]
    command += ["-device", f"virtserialport,chardev=runner,name={guest_init.RUNNER_PORT},nr=1"]
    command += ["-chardev", f"socket,id=shell,path={spec.shell},server=on,wait=off"]
    command += ["-device", f"virtconsole,chardev=shell,name={guest_init.SHELL_PORT},nr=2"]
    for disk in spec.disks:
        command += _disk(disk)
    if spec.pmem:
        shared = "share=on" if spec.pmem.is_shared else "share=off,merge=on"
        command += [
            "-object",
            f"memory-backend-file,id=p0,{shared},mem-path={spec.pmem.path},size={spec.pmem.size_bytes}",
        ]
        command += ["-device", "virtio-pmem-pci,memdev=p0,addr=0x08"]
    if spec.share:
        command += _share(spec.share)
    return command + _reclaim(spec)


def cmdline(spec: GuestSpec) -> str:
    """The kernel's command line."""
    root = f" root={spec.root.source} rootfstype={spec.root.fstype} rootflags={spec.root.options or 'rw'}"
    root += f" onecopy.root={spec.root.directory}" if spec.root.directory else ""
    modules = f" onecopy.modules={','.join(spec.modules)}" if spec.modules else ""
    # What is plugged must be movable, or a single page of the kernel's keeps a block of it.
    movable = " memhp_default_state=online_movable" if spec.reclaim == "virtio_mem" else ""
    return f"{_CMDLINE} init_on_alloc={spec.clears_pages:d}{root}{movable}{modules}"


def _check(spec: GuestSpec) -> None:
    if spec.icount and (spec.accelerator != "tcg" or spec.cpus != 1):
        raise ValueError("icount needs accelerator tcg and one vCPU")
    if spec.share and spec.memory != "memfd":
        raise ValueError(f"a vhost-user share needs shared guest memory, not {spec.memory}")
    if spec.reclaim == "virtio_mem" and spec.memory_mib % (2 * _VIRTIO_MEM_MIB):
        raise ValueError(
            f"virtio_mem needs guest memory in steps of {2 * _VIRTIO_MEM_MIB} MiB, not {spec.memory_mib} MiB"
        )
    addresses = [disk.address for disk in spec.disks]
    if addresses != sorted(set(addresses)):
        raise ValueError(f"disks need PCI addresses of their own, in the order of their names: {addresses}")
    for disk in spec.disks:
        if disk.aio == "native" and disk.cache != "none":
            raise ValueError(f"disk {disk.name}: aio=native needs cache=none")


def _accelerator(spec: GuestSpec) -> list[str]:
    if spec.accelerator == "kvm":
        return ["-accel", "kvm", "-cpu", spec.cpu_model or "host"]
    threads = "single" if spec.icount else "multi"
    command = ["-accel", f"tcg,thread={threads},tb-size={TB_MIB}", "-cpu", spec.cpu_model or "max"]
    # sleep=off would let the clock jump over idle time, and the guest do the housekeeping of hours meanwhile.
    return [*command, "-icount", "shift=0,sleep=on"] if spec.icount else command


def _memory(spec: GuestSpec) -> list[str]:
    mib = spec.memory_mib // 2 if spec.reclaim == "virtio_mem" else spec.memory_mib
    size = f"{mib}M"
    if spec.pmem or spec.reclaim == "virtio_mem":
        size += f",maxmem={MAXMEM_MIB}M,slots=4"
    return [
        "-object",
        _backend(spec, MEMORY, mib),
        "-M",
        f"q35,memory-backend={MEMORY},smm=off,graphics=off,vmport=off,hpet=off",
        "-m",
        size,
    ]


def _backend(spec: GuestSpec, name: str, mib: int) -> str:
    kinds = {
        "memfd": f"memory-backend-memfd,id={name},size={mib}M,share=on",
        "private": f"memory-backend-ram,id={name},size={mib}M",
        "private_merge": f"memory-backend-ram,id={name},size={mib}M,merge=on",
    }
    return kinds[spec.memory]


def _reclaim(spec: GuestSpec) -> list[str]:
    if spec.reclaim is None:
        return []
    if spec.reclaim != "virtio_mem":
        reporting = "on" if spec.reclaim == "reporting" else "off"
        return ["-device", f"virtio-balloon-pci,addr=0x0a,free-page-reporting={reporting}"]
    mib = spec.memory_mib // 2
    device = f"virtio-mem-pci,id={PLUGGED},memdev={PLUGGED}-memory,requested-size={mib}M,addr=0x0a"
    return ["-object", _backend(spec, f"{PLUGGED}-memory", mib), "-device", device]


def _disk(disk: Disk) -> list[str]:
    backend = f"if=none,id={disk.name},file={disk.path},format={disk.format},cache={disk.cache},aio={disk.aio}"
    backend += f",readonly={'on' if disk.is_readonly else 'off'}"
    if disk.discards and not disk.is_readonly:
        backend += ",discard=unmap"
    device = f"virtio-blk-pci,drive={disk.name},serial={disk.name},addr={disk.address:#04x},num-queues={disk.queues},queue-size={disk.queue_size}"
    if not disk.has_iothread:
        return ["-drive", backend, "-device", device]
    thread = f"io-{disk.name}"
    return ["-object", f"iothread,id={thread}", "-drive", backend, "-device", f"{device},iothread={thread}"]


def _share(share: Share) -> list[str]:
    if share.device == "vhost-user-fs":
        device = f"vhost-user-fs-pci,chardev=share,tag={share.tag},queue-size={share.queue_size},num-request-queues={share.queues},addr=0x09"
    else:
        # QEMU's own virtio-fs device has no DAX window; its generic one passes hostfsd's on.
        device = f"vhost-user-test-device-pci,chardev=share,virtio-id=26,num_vqs={share.queues + 1},vq_size={share.queue_size},config_size=40,addr=0x09"
    return ["-chardev", f"socket,id=share,path={share.socket}", "-device", device]


def qmp(path: Path, command: str, timeout_seconds: float = 5, /, **arguments: object) -> Any:
    """Ask a guest's monitor one thing and return its answer. Raises OSError (nobody there) and ValueError (QEMU refuses)."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(timeout_seconds)
        connection.connect(str(path))
        stream = connection.makefile("rwb")
        stream.readline()
        for question in ({"execute": "qmp_capabilities"}, {"execute": command, "arguments": arguments}):
            stream.write(json.dumps(question).encode() + b"\n")
            stream.flush()
            answer: dict[str, Any] = {"event": ""}
            while "event" in answer:
                line = stream.readline()
                if not line:
                    raise ConnectionResetError("QEMU hung up")
                answer = json.loads(line)
            if "error" in answer:
                raise ValueError(f"{question['execute']}: {answer['error'].get('desc', answer['error'])}")
        return answer["return"]
