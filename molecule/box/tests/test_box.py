"""What role box has made on this machine."""

from pathlib import Path

import pytest
import testinfra

STATE = Path(__file__).resolve().parents[3] / ".onecopy"


@pytest.fixture
def box():
    options = f"-o UserKnownHostsFile={STATE}/ssh/known_hosts -o BatchMode=yes"
    return testinfra.get_host(
        "ssh://root@127.0.0.1:22214", ssh_identity_file=f"{STATE}/ssh/id_ed25519", ssh_extra_args=options
    )


def test_the_key_is_private(host):
    assert host.file(f"{STATE}/ssh/id_ed25519").mode == 0o600
    assert host.file(f"{STATE}/ssh").mode == 0o700


def test_the_box_is_reached_with_the_host_key_that_was_noted(box):
    assert box.check_output("hostname") == "onecopy-molecule-box"


def test_it_is_a_whole_debian(box):
    assert box.check_output("systemctl is-system-running --wait") == "running"
    assert box.file("/etc/os-release").contains("VERSION_CODENAME=trixie")


def test_password_logins_are_refused(box):
    assert "passwordauthentication no" in box.check_output("sshd -T")


def test_it_has_a_cgroup_of_its_own(host):
    groups = host.check_output("find /sys/fs/cgroup -type d -name 'onecopy-molecule-box*'").split()
    assert groups
    pids = {
        pid
        for group in groups
        for pid in host.check_output(f"find {group} -name cgroup.procs -exec cat {{}} +").split()
    }
    assert pids
