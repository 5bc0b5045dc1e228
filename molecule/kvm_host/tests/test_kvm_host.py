"""A KVM host of the kit: programs, user, quiet timers, and an accelerator that was tried."""

import base64
import json
from pathlib import Path

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
        "device_limit",
        "erofs",
    }
    assert capabilities["erofs"] == {"supported": True, "reason": ""}
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


def probe_on(host, expression):
    """Run code of the probe itself on the host; return what it prints."""
    source = (Path(__file__).resolve().parents[3] / "module_utils/onecopy/kvm_probe.py").read_text()
    rom = "Path('/tmp/probe.rom')"
    code = f"{source}\n{rom}.write_bytes({expression})\n"
    code += f"argv = as_user(qemu_argv('qemu-system-x86_64', {rom}, None, 'tcg'), 'onecopy')\n"
    code += "print(judge(observe(argv, None, 5.0), None).reason)\n"
    host.check_output(f"echo {base64.b64encode(code.encode()).decode()} | base64 -d >/tmp/probe.py")
    return host.check_output("python3 /tmp/probe.py")


def test_the_payload_of_the_probe_runs_to_its_end_on_a_cpu_that_works(host):
    assert probe_on(host, "payload()") == "works"


def test_a_guest_that_hangs_is_ended_at_the_deadline(host):
    assert probe_on(host, "payload()[:0xfff0] + bytes([0xeb, 0xfe]) * 8") == "timed_out"
    assert host.run("pgrep -x qemu-system-x86").rc == 1
