"""Command lines captured from running QEMUs (the Proxmox one is written by its documented form) and edge cases."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from ansible.module_utils.onecopy import audit_cmdline
from ansible.module_utils.onecopy.audit_cmdline import Disk
from ansible.module_utils.onecopy.audit_options import key_values, options_of, size_bytes

Argv = Callable[[str], list[str]]


def disk(*argv: str) -> Disk:
    found = audit_cmdline.parse(["qemu-system-x86_64", *argv]).disks
    assert len(found) == 1
    return found[0]


def test_libvirt_chain_spells_out_every_layer(argv: Argv) -> None:
    guest = audit_cmdline.parse(argv("libvirt_11.3.0_qemu_11.1.3"))
    assert (guest.manager, guest.name, guest.accelerator, guest.memory_bytes) == ("libvirt", "web1", "tcg", 128 << 20)
    assert [(one.path, one.cache, one.read_only, one.backing, one.format, one.device) for one in guest.disks] == [
        ("/var/lib/libvirt/images/a.qcow2", "none", False, False, "qcow2", "virtio-disk0"),
        ("/var/lib/libvirt/images/base.raw", "none", True, True, "raw", "virtio-disk0"),
        ("/var/lib/libvirt/images/base.raw", "writeback", True, False, "raw", "virtio-disk1"),
    ]
    assert guest.shares[0].socket == "/var/lib/libvirt/qemu/domain-1-web1/fs0-fs.sock"
    assert guest.balloon is not None
    assert guest.balloon.free_page_reporting
    assert guest.guest_agent
    assert [monitor.socket for monitor in guest.monitors] == [None]
    assert [(one.kind, one.size, one.shared) for one in guest.backends] == [("memory-backend-memfd", 128 << 20, True)]


def test_proxmox_disks_monitor_and_agent(argv: Argv) -> None:
    guest = audit_cmdline.parse(argv("proxmox_8_documented_form"))
    assert (guest.manager, guest.name, guest.memory_bytes) == ("proxmox", "files", 2 << 30)
    assert [(one.path, one.cache, one.direct, one.protocol) for one in guest.disks] == [
        ("/dev/pve/vm-100-disk-0", "none", True, None),
        ("/var/lib/vz/images/100/vm-100-disk-1.qcow2", "writeback", False, None),
        (None, "none", True, "rbd"),
    ]
    assert [(one.socket, one.waits) for one in guest.monitors] == [("/var/run/qemu-server/100.qmp", False)]
    assert guest.pid_file == "/var/run/qemu-server/100.pid"
    assert guest.guest_agent


def test_plain_guests(argv: Argv) -> None:
    cached = audit_cmdline.parse(argv("plain_cached_qemu_11.1.3"))
    assert cached.manager == "plain"
    assert (cached.disks[0].cache, cached.disks[0].direct) == ("writeback", False)
    assert [(one.socket, one.waits) for one in cached.monitors] == [("/lab/run/a.qmp", False)]
    assert cached.balloon is not None
    assert not cached.balloon.free_page_reporting
    assert audit_cmdline.parse(argv("plain_direct_qemu_11.1.3")).disks[0].direct
    assert audit_cmdline.parse(argv("plain_over1_qemu_11.1.3")).disks[0].path == "over1.qcow2"
    share = audit_cmdline.parse(argv("plain_fs-namespace_qemu_11.1.3")).shares[0]
    assert (share.socket, share.tag) == ("/lab/run/namespace.sock", "data")
    pmem = audit_cmdline.parse(argv("plain_pmem_qemu_11.1.3"))
    assert [(one.path, one.shared) for one in pmem.pmem] == [("/lab/f.img", True)]
    assert pmem.memory_bytes == 128 << 20


@pytest.mark.parametrize(
    ("text", "cache", "direct"),
    [
        ("file=a", "writeback", False),
        ("file=a,cache=none", "none", True),
        ("file=a,cache=off", "none", True),
        ("file=a,cache=directsync", "directsync", True),
        ("file=a,cache=writethrough", "writethrough", False),
        ("file=a,cache.direct=on", "none", True),
        ("file=a,cache=none,cache.direct=off", "writeback", False),
        ("file=a,snapshot=on", "unsafe", False),
        ("driver=qcow2,file.driver=file,file.filename=a", "writeback", False),
    ],
)
def test_cache_modes_of_drive(text: str, cache: str, direct: bool) -> None:
    one = disk("-drive", text)
    assert (one.path, one.cache, one.direct) == ("a", cache, direct)


def test_doubled_commas_are_one() -> None:
    assert disk("-drive", "format=raw,file=/x,,y.img").path == "/x,y.img"


def test_nested_blockdev_inherits_the_cache_of_the_layer_above() -> None:
    nested = '{"driver":"throttle","node-name":"d","cache":{"direct":true},"file":{"driver":"raw","file":{"driver":"host_device","filename":"/dev/x"}}}'
    one = disk("-blockdev", nested, "-device", "scsi-hd,drive=d,id=scsi0")
    assert (one.path, one.direct, one.device) == ("/dev/x", True, "scsi0")


def test_a_layer_of_its_own_overrides_the_one_above() -> None:
    one = disk(
        "-blockdev", "driver=qcow2,node-name=q,cache.direct=on,file.driver=file,file.filename=a,file.cache.direct=off"
    )
    assert (one.path, one.direct, one.format) == ("a", False, "qcow2")


@pytest.mark.parametrize(
    "argv",
    [["-drive", "if=pflash,file=a"], ["-machine", "q35,pflash0=f", "-blockdev", "driver=file,node-name=f,filename=a"]],
)
def test_firmware_is_told_apart(argv: list[str]) -> None:
    assert disk(*argv).firmware


def test_network_disk_has_no_path() -> None:
    assert disk("-blockdev", "driver=nbd,node-name=n,server.type=unix,server.path=/s").protocol == "nbd"


def test_test_device_is_a_share_only_as_virtio_fs() -> None:
    def shares(virtio_id: int) -> int:
        argv = [
            "q",
            "-chardev",
            "socket,id=c,path=/s",
            "-device",
            f"vhost-user-test-device-pci,virtio-id={virtio_id},chardev=c",
        ]
        return len(audit_cmdline.parse(argv).shares)

    assert (shares(26), shares(27)) == (1, 0)


def test_monitor_that_waits_and_monitor_that_connects() -> None:
    guest = audit_cmdline.parse(["q", "-qmp", "unix:/a,server=on", "-qmp", "unix:/b,server,nowait", "-qmp", "unix:/c"])
    assert [(one.socket, one.waits) for one in guest.monitors] == [("/a", True), ("/b", False)]


def test_what_cannot_be_read_is_a_remark() -> None:
    assert audit_cmdline.parse(["q", "-device", "{broken"]).remarks
    assert audit_cmdline.parse(["q", "-m", "much"]).remarks
    assert audit_cmdline.parse(["q", "-readconfig", "f"]).remarks


def test_capability_probe_is_no_guest() -> None:
    assert audit_cmdline.is_probe(["q", "-S", "-nodefaults", "-machine", "none,accel=kvm:tcg"])
    assert not audit_cmdline.is_probe(["q", "-machine", "q35"])


@pytest.mark.parametrize(
    ("text", "unit", "size"),
    [
        ("512", "M", 512 << 20),
        ("512", "B", 512),
        ("4G", "M", 4 << 30),
        ("1.5G", "M", 3 << 29),
        ("131072k", "M", 128 << 20),
        ("0x100", "B", 256),
    ],
)
def test_sizes(text: str, unit: str, size: int) -> None:
    assert size_bytes(text, unit) == size


def test_options_with_and_without_values() -> None:
    assert list(options_of(["q", "-S", "-m", "1G", "--nodefaults", "-daemonize", "a.img"])) == [
        ("S", ""), ("m", "1G"), ("nodefaults", ""), ("daemonize", ""), ("hda", "a.img"),
    ]  # fmt: skip
    assert key_values('{"a":{"b":true,"c":[1]}}') == {"a.b": "on", "a.c.0": "1"}
