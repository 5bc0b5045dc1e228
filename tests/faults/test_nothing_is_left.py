"""The suite's own control: what is left behind is seen."""

from __future__ import annotations

import pytest
from lab import KSM, Lab


def test_what_is_left_is_seen(lab: Lab) -> None:
    before = lab.snapshot()
    assert lab.different(before) == {}
    node = ""
    lab.inside("systemd-run", "--quiet", "--unit=onecopy-left", "sleep", "600")
    lab.inside("mount", "-t", "tmpfs", "onecopy-left", "/mnt")
    try:
        lab.inside("truncate", "--size=1M", "/mnt/image", "/var/tmp/image")
        node = lab.inside("losetup", "--find", "--show", "/var/tmp/image").strip()
        assert set(lab.different(before)) == {"programs", "units", "mounts", "loop devices"}
    finally:
        if node:
            lab.inside("losetup", "--detach", node)
        lab.inside("umount", "/mnt")
        lab.inside("systemctl", "stop", "onecopy-left")
        lab.inside("rm", "-f", "/var/tmp/image")
    lab.expect_quiet(before)


@pytest.mark.skipif(not KSM.exists(), reason="this kernel has no KSM")
def test_a_setting_that_is_not_back_is_seen(lab: Lab) -> None:
    before = lab.snapshot()
    KSM.write_text("0")
    try:
        assert set(lab.different(before)) == {"settings"}
    finally:
        KSM.write_text("1")
