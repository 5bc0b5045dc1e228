"""The store is mounted, keeps no second copy, survives a restart; shares can be served by hand."""

import pytest

STORE = "/var/lib/onecopy/store"


def direct_io(host):
    device = host.mount_point(STORE).device
    return host.file(f"/sys/block/{device.removeprefix('/dev/')}/loop/dio").content_string.strip()


def test_the_store_is_an_ext4_without_access_times(host):
    mount = host.mount_point(STORE)
    assert mount.exists
    assert mount.filesystem == "ext4"
    assert "noatime" in mount.options


def test_the_loop_device_bypasses_the_page_cache(host):
    assert direct_io(host) == "1"


def test_nothing_initialises_the_store_lazily(host):
    features = host.check_output(f"dumpe2fs -h {STORE}.ext4 2>/dev/null")
    assert "Block size:               4096" in features
    assert "onecopy-store" in features


def test_a_restart_mounts_the_same_store_again(host):
    assert host.service("onecopy-store.service").is_enabled
    if direct_io(host) != "1":
        pytest.fail("direct I/O is off before the restart")
    host.check_output(f"touch {STORE}/mark")
    host.check_output("systemctl stop onecopy-store.service")
    assert not host.mount_point(STORE).exists
    host.check_output("systemctl start onecopy-store.service")
    assert host.file(f"{STORE}/mark").exists
    assert direct_io(host) == "1"


@pytest.mark.parametrize("daemon", ["virtiofsd", "hostfsd"])
def test_a_share_is_served_by_a_sandboxed_unit_and_stops_cleanly(host, daemon):
    unit = f"onecopy-{daemon}@hand.service"
    host.check_output(f"mkdir -p {STORE}/shares/hand/data; rm -f /run/onecopy/shares/hand.sock")
    host.check_output(f"systemctl start {unit}")
    try:
        host.check_output(
            "for i in $(seq 50); do [ -S /run/onecopy/shares/hand.sock ] && exit 0; sleep 0.1; done; exit 1"
        )
        assert host.service(unit).is_running
        assert "--cache never" in host.check_output(f"systemctl cat {unit}")
        # The daemon itself sees the share and nothing else.
        pid = host.check_output(f"systemctl show -P MainPID {unit}")
        host.check_output(
            f"for i in $(seq 50); do for p in {pid} $(pgrep -P {pid}); do"
            ' [ "$(ls /proc/$p/root/)" = data ] && exit 0; done; sleep 0.1; done; exit 1'
        )
    finally:
        host.check_output(f"systemctl stop {unit}")
    assert host.check_output(f"systemctl is-failed {unit} || true") == "inactive"
