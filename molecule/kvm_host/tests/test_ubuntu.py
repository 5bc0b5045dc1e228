"""What an Ubuntu asks for beside the rest; the second host is a Debian that looks like one (files/dress_as_ubuntu.sh)."""

import json

import pytest


@pytest.fixture(autouse=True)
def on_ubuntu_alone(host):
    if host.backend.get_hostname() != "molecule2":
        pytest.skip("this host is no Ubuntu")


def test_its_table_was_read(host):
    assert host.system_info.distribution == "ubuntu"
    assert not host.file("/etc/apt/sources.list.d/onecopy.list").exists, "Ubuntu needs no suite beside its own"


def test_qemus_package_finds_ksm_switched_off(host):
    assert "KSM_ENABLED=0" in host.file("/etc/default/qemu-kvm").content_string.splitlines()


def test_the_first_boot_was_awaited(host):
    assert host.file("/run/waited-for-cloud-init").exists


def test_the_end_of_another_dpkg_was_awaited(host):
    assert host.file("/run/dpkg-was-taken").exists
    assert host.package("cpio").is_installed


@pytest.mark.parametrize("unit", ["snapd.service", "plocate-updatedb.timer"])
def test_what_only_ubuntu_runs_is_quiet(host, unit):
    assert not host.service(unit).is_running
    assert unit in json.loads(host.file("/var/lib/onecopy/paused_units.json").content_string)
