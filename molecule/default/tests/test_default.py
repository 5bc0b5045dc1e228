"""Two boxes on one machine: each is a whole host, both know that they share the machine."""

from pathlib import Path

BOOT_ID = "/proc/sys/kernel/random/boot_id"


def test_the_system_runs(host):
    assert host.check_output("systemctl is-system-running --wait") == "running"


def test_hosts_are_apart(host):
    name = host.backend.get_hostname()
    assert host.file("/etc/onecopy-test").content_string.strip() == name
    assert host.check_output("hostname") == f"onecopy-{name}"


def test_equal_boot_id_means_same_machine(host):
    assert host.check_output(f"cat {BOOT_ID}") == Path(BOOT_ID).read_text().strip()


def test_ssh_is_only_on_loopback(host):
    listening = host.socket.get_listening_sockets()
    for port in (22211, 22212):
        assert [socket for socket in listening if socket.endswith(f":{port}")] == [f"tcp://127.0.0.1:{port}"]


def test_device_nodes_are_its_own(host):
    machine = [Path(node).stat().st_mode for node in ("/dev/fuse", "/dev/loop-control")]
    assert host.file("/dev/fuse").mode == 0o666
    assert host.file("/dev/loop0").group == "disk"
    assert host.file("/dev/kvm").group == "kvm"
    host.check_output("chmod 0600 /dev/loop-control")
    assert [Path(node).stat().st_mode for node in ("/dev/fuse", "/dev/loop-control")] == machine


def test_the_machine_directory_is_shared(host):
    marker = Path("/run/onecopy-machine/molecule-test")
    marker.write_text("here")
    try:
        assert host.file(str(marker)).content_string == "here"
    finally:
        marker.unlink()
