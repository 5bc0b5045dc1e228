"""QEMU's exact command lines, and what contradicts itself."""

from __future__ import annotations

import itertools
import json
import socket
import threading
from dataclasses import replace
from pathlib import Path
from typing import Literal

import pytest
from ansible.module_utils.onecopy import qemu
from ansible.module_utils.onecopy.qemu import Disk, GuestSpec, Pmem, Share

SPEC = GuestSpec(
    "trial", "tcg", 384, 1, Path("/g/vmlinux"), Path("/g/initrd"), Path("/r"), (Disk("root", Path("/g/root.img"), 3),)
)
DATA = Disk("data", Path("/d.img"), 5, "none", "native", has_iothread=True, queues=2)


def test_the_exact_command_of_a_bare_guest() -> None:
    argv = qemu.argv(SPEC)
    append = argv[argv.index("-append") + 1]
    assert [word for word in argv if word != append] == [
        *(
            "qemu-system-x86_64",
            "-name",
            "guest=onecopy-trial,process=onecopy-trial",
            "-nodefaults",
            "-no-user-config",
            "-display",
            "none",
        ),
        *("-no-reboot", "-accel", "tcg,thread=multi,tb-size=64", "-cpu", "max", "-smp", "1"),
        *("-object", "memory-backend-memfd,id=m0,size=384M,share=on"),
        *("-M", "q35,memory-backend=m0,smm=off,graphics=off,vmport=off,hpet=off", "-m", "384M"),
        *("-kernel", "/g/vmlinux", "-initrd", "/g/initrd", "-append"),
        *("-chardev", "file,id=console,path=/r/console.log", "-serial", "chardev:console"),
        *("-qmp", "unix:/r/qmp.sock,server=on,wait=off"),
        *("-device", "virtio-serial-pci,addr=0x02,max_ports=4"),
        *("-chardev", "socket,id=runner,path=/r/runner.sock,server=on,wait=off"),
        *("-device", "virtserialport,chardev=runner,name=org.onecopy.runner,nr=1"),
        *("-chardev", "socket,id=shell,path=/r/shell.sock,server=on,wait=off"),
        *("-device", "virtconsole,chardev=shell,name=org.onecopy.shell,nr=2"),
        *("-drive", "if=none,id=root,file=/g/root.img,format=raw,cache=none,aio=threads,readonly=on"),
        *("-device", "virtio-blk-pci,drive=root,serial=root,addr=0x03,num-queues=1,queue-size=256"),
    ]
    assert append.startswith("console=ttyS0 quiet panic=-1 ")


def test_no_guest_has_a_network_card() -> None:
    argv = qemu.argv(SPEC)
    assert "-nodefaults" in argv
    assert not {"-nic", "-net", "-netdev"} & set(argv)
    assert not [word for flag, word in itertools.pairwise(argv) if flag == "-device" and "net" in word]


def test_a_tuned_disk() -> None:
    argv = qemu.argv(replace(SPEC, disks=(*SPEC.disks, DATA)))
    assert argv[-6:] == [
        *("-object", "iothread,id=io-data"),
        *("-drive", "if=none,id=data,file=/d.img,format=raw,cache=none,aio=native,readonly=on"),
        *("-device", "virtio-blk-pci,drive=data,serial=data,addr=0x05,num-queues=2,queue-size=256,iothread=io-data"),
    ]


def test_a_disk_that_is_written_passes_discards_on() -> None:
    written = replace(DATA, is_readonly=False, discards=True)
    assert "if=none,id=data,file=/d.img,format=raw,cache=none,aio=native,readonly=off,discard=unmap" in qemu.argv(
        replace(SPEC, disks=(*SPEC.disks, written))
    )
    assert not [word for word in qemu.argv(replace(SPEC, disks=(*SPEC.disks, DATA))) if "discard" in word]


def test_pmem_maps_the_image_and_keeps_memory_below_4_gib() -> None:
    argv = qemu.argv(replace(SPEC, pmem=Pmem(Path("/d.img"), 88080384), modules=("libnvdimm", "nd_pmem")))
    assert argv[-4:] == [
        "-object",
        "memory-backend-file,id=p0,share=on,mem-path=/d.img,size=88080384",
        "-device",
        "virtio-pmem-pci,memdev=p0,addr=0x08",
    ]
    assert argv[argv.index("-m") + 1] == "384M,maxmem=3584M,slots=4"
    assert argv[argv.index("-append") + 1].endswith(" onecopy.modules=libnvdimm,nd_pmem")


def test_private_pmem_can_be_merged() -> None:
    assert "memory-backend-file,id=p0,share=off,merge=on,mem-path=/d,size=4" in qemu.argv(
        replace(SPEC, pmem=Pmem(Path("/d"), 4, is_shared=False))
    )


@pytest.mark.parametrize(
    ("share", "device"),
    [
        (
            Share(Path("/s"), "onecopy"),
            "vhost-user-fs-pci,chardev=share,tag=onecopy,queue-size=128,num-request-queues=1,addr=0x09",
        ),
        (
            Share(Path("/s"), "onecopy", "vhost-user-test-device", queues=2),
            "vhost-user-test-device-pci,chardev=share,virtio-id=26,num_vqs=3,vq_size=128,config_size=40,addr=0x09",
        ),
    ],
)
def test_shares(share: Share, device: str) -> None:
    assert qemu.argv(replace(SPEC, share=share))[-4:] == ["-chardev", "socket,id=share,path=/s", "-device", device]


@pytest.mark.parametrize("reclaim", ["balloon", "reporting"])
def test_a_balloon_reports_free_pages_where_it_shall(reclaim: Literal["balloon", "reporting"]) -> None:
    reporting = "on" if reclaim == "reporting" else "off"
    argv = qemu.argv(replace(SPEC, reclaim=reclaim))
    assert argv[-2:] == ["-device", f"virtio-balloon-pci,addr=0x0a,free-page-reporting={reporting}"]


def test_virtio_mem_makes_half_of_the_memory_unpluggable_and_movable() -> None:
    argv = qemu.argv(replace(SPEC, memory_mib=512, reclaim="virtio_mem", modules=("virtio_mem",)))
    assert "memory-backend-memfd,id=m0,size=256M,share=on" in argv
    assert argv[argv.index("-m") + 1] == "256M,maxmem=3584M,slots=4"
    assert argv[-4:] == [
        *("-object", "memory-backend-memfd,id=plugged-memory,size=256M,share=on"),
        *("-device", "virtio-mem-pci,id=plugged,memdev=plugged-memory,requested-size=256M,addr=0x0a"),
    ]
    append = argv[argv.index("-append") + 1]
    assert append.endswith(" memhp_default_state=online_movable onecopy.modules=virtio_mem")


def test_kvm_and_instruction_counting() -> None:
    kvm = qemu.argv(replace(SPEC, accelerator="kvm"))
    assert kvm[kvm.index("-accel") + 1 : kvm.index("-accel") + 4] == ["kvm", "-cpu", "host"]
    counted = qemu.argv(replace(SPEC, icount=True, cpu_model="max,-erms,-fsrm"))
    assert counted[counted.index("-accel") + 1] == "tcg,thread=single,tb-size=64"
    assert counted[counted.index("-icount") + 1] == "shift=0,sleep=on"
    assert counted[counted.index("-cpu") + 1] == "max,-erms,-fsrm"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"icount": True, "cpus": 2}, "icount needs"),
        ({"icount": True, "accelerator": "kvm"}, "icount needs"),
        ({"share": Share(Path("/s"), "t"), "memory": "private"}, "shared guest memory"),
        ({"memory_mib": 384, "reclaim": "virtio_mem"}, "steps of 256 MiB"),
        ({"disks": (DATA, SPEC.disks[0])}, "PCI addresses"),
        ({"disks": (DATA, DATA)}, "PCI addresses"),
        ({"disks": (replace(DATA, cache="writeback"),)}, "aio=native needs cache=none"),
    ],
)
def test_contradictions_are_refused(change: dict[str, object], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        qemu.argv(replace(SPEC, **change))  # type: ignore[arg-type]


def _monitor(path: Path, answers: list[dict[str, object]]) -> threading.Thread:
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(1)

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rwb") as stream:
            stream.write(b'{"QMP": {}}\n')
            stream.flush()
            for answer in answers:
                stream.readline()
                stream.write(b'{"event": "RESUME"}\n' + json.dumps(answer).encode() + b"\n")
                stream.flush()
        listener.close()

    thread = threading.Thread(target=serve)
    thread.start()
    return thread


def test_the_monitor_is_asked_past_its_events(tmp_path: Path) -> None:
    thread = _monitor(tmp_path / "qmp", [{"return": {}}, {"return": {"status": "running"}}])
    assert qemu.qmp(tmp_path / "qmp", "query-status") == {"status": "running"}
    thread.join()


def test_what_the_monitor_refuses_is_an_error(tmp_path: Path) -> None:
    thread = _monitor(tmp_path / "qmp", [{"return": {}}, {"error": {"desc": "no such command"}}])
    with pytest.raises(ValueError, match="no such command"):
        qemu.qmp(tmp_path / "qmp", "nonsense")
    thread.join()
