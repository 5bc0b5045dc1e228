"""A KVM host of the kit: programs, user, quiet timers, and an accelerator that was tried."""

import json

CAPABILITIES = "/var/lib/onecopy/capabilities.json"


def test_the_qemu_is_one_that_can_do_myfs(host):
    assert host.package("qemu-system-x86").version.startswith("1:11.")
    capabilities = json.loads(host.file(CAPABILITIES).content_string)
    assert capabilities["vhost_user_shmem"] == {"supported": True, "reason": ""}


def test_capabilities_name_every_need(host):
    capabilities = json.loads(host.file(CAPABILITIES).content_string)
    assert {name for name, value in capabilities.items() if isinstance(value, dict)} == {
        "qemu",
        "virtiofsd",
        "virtio_pmem",
        "vhost_user_shmem",
    }
    assert capabilities["virtiofsd"]["supported"]
    assert "--cache" in capabilities["virtiofsd"]["options"]


def test_the_accelerator_was_tried(host):
    capabilities = json.loads(host.file(CAPABILITIES).content_string)
    assert capabilities["accelerator"] in {"kvm", "tcg"}
    assert capabilities["accelerator_reason"]
    assert host.run("pgrep -x qemu-system-x86").rc == 1


def test_guests_run_as_a_user_of_their_own(host):
    user = host.user("onecopy")
    assert user.shell == "/usr/sbin/nologin"
    assert "kvm" in user.groups


def test_directories_and_slice(host):
    for path in ("/var/lib/onecopy", "/run/onecopy"):
        assert host.file(path).is_directory
        assert host.file(path).mode == 0o755
    assert host.check_output("systemctl show --property=LoadState --value onecopy.slice") == "loaded"


def test_nothing_disturbs(host):
    for timer in ("apt-daily.timer", "apt-daily-upgrade.timer", "fstrim.timer"):
        assert not host.service(timer).is_running, timer
    assert "apt-daily.timer" in json.loads(host.file("/var/lib/onecopy/paused_units.json").content_string)
