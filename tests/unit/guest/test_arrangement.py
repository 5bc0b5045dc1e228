"""What one boot of each system consists of."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from ansible.module_utils.onecopy import arrangement, console_log, qemu, testbed, units
from ansible.module_utils.onecopy.arrangement import BootSpec, Mount
from ansible.module_utils.onecopy.paths import HostPaths
from ansible.module_utils.onecopy.runner_client import RunnerLost
from ansible.module_utils.onecopy.systems import SYSTEMS

PATHS = HostPaths(Path("/state"))


def spec(system: str, **options: object) -> BootSpec:
    return BootSpec(system, system, "smoke", "tcg", 384, 1, options=options)


@pytest.mark.parametrize("system", SYSTEMS)
def test_every_system_has_an_arrangement(system: str) -> None:
    plan = arrangement.arrange(spec(system), PATHS)
    assert (plan.guest is None) == (system == "hfs")
    if plan.guest:
        assert qemu.argv(plan.guest)
        assert plan.unit == "onecopy-guest@trial.service"
        assert [mount.target for mount in plan.data_mounts][-1] == "/data"
        assert "ro" in plan.data_mounts[-1].options.split(",")
        assert plan.scratch_mounts[-1].target == "/scratch"
    else:
        assert plan.unit == "onecopy-hfs-runner@trial.service"


def test_images_keep_scratch_and_data_on_disks_of_the_same_kind() -> None:
    for system, cache, aio in (("gfs", "writeback", "threads"), ("gfs_direct", "none", "native")):
        guest = arrangement.arrange(spec(system), PATHS).guest
        assert guest
        root, scratch, data = guest.disks
        assert (root.name, root.cache, root.is_readonly) == ("root", "none", True)
        assert (scratch.name, scratch.cache, scratch.aio, scratch.is_readonly) == ("scratch", cache, aio, False)
        assert (data.name, data.cache, data.aio, data.is_readonly) == ("data", cache, aio, True)
        assert data.path == Path(f"/state/store/images/smoke/{system}.img")


def test_an_overlay_is_a_mounted_image_and_its_base_is_known() -> None:
    plan = arrangement.arrange(spec("gfs_shared_base"), PATHS)
    assert plan.mounted_images == {
        "/data": Path("/state/store/own/trial.qcow2"),
        "/scratch": Path("/state/store/scratch/trial.img"),
    }
    assert plan.own_image == plan.mounted_images["/data"]
    assert plan.base_image == Path("/state/store/images/smoke/gfs_shared_base.img")
    assert arrangement.arrange(spec("gfs_private"), PATHS).base_image is None


def test_tuning_reaches_the_data_disk() -> None:
    guest = arrangement.arrange(spec("gfs_direct", aio="io_uring", iothread=True, queues=2, queue_size=64), PATHS).guest
    assert guest
    data = guest.disks[-1]
    assert (data.aio, data.has_iothread, data.queues, data.queue_size) == ("io_uring", True, 2, 64)


@pytest.mark.parametrize(("reclaim", "module"), [("reporting", "virtio_balloon"), ("virtio_mem", "virtio_mem")])
def test_what_gives_memory_back_brings_its_module(reclaim: str, module: str) -> None:
    guest = arrangement.arrange(spec("gfs", reclaim=reclaim), PATHS).guest
    assert guest
    assert (guest.reclaim, guest.modules) == (reclaim, (module,))


def test_pmem_is_mounted_with_dax_and_brings_its_modules() -> None:
    plan = arrangement.arrange(spec("gfs_pmem_dax"), PATHS)
    assert plan.guest
    assert plan.guest.modules == ("libnvdimm", "nd_btt", "nd_pmem", "nd_virtio", "virtio_pmem")
    assert plan.data_mounts == (Mount("/dev/pmem0", "/data", "ext4", "ro,noload,noatime,dax=always"),)


def test_shares_are_bound_read_only() -> None:
    plan = arrangement.arrange(spec("virtiofs_auto"), PATHS)
    assert plan.daemon_unit == "onecopy-virtiofsd@trial.service"
    assert plan.scratch_image is None
    assert plan.data_mounts == (
        Mount("onecopy", "/share", "virtiofs", ""),
        Mount("/share/data", "/data", "", "bind"),
        Mount("", "/data", "", "remount,bind,ro,noatime"),
    )


def test_myfs_is_served_by_hostfsd() -> None:
    plan = arrangement.arrange(spec("myfs", window_mib=1024, inode_dax_kib=64, dax_always=True), PATHS)
    assert plan.daemon_unit == "onecopy-hostfsd@trial.service"
    assert plan.data_mounts[0].options == "dax=always"
    argv = arrangement.daemon_argv(plan, PATHS)
    assert argv[1] == "/state/hostfsd.pyz"
    assert argv[argv.index("--window") + 1] == "1024M"
    assert argv[argv.index("--inode-dax") + 1] == "64K"


@pytest.mark.parametrize(
    ("system", "root", "scratch"),
    [
        ("gfs", "root=/dev/vdb rootfstype=ext4 rootflags=ro,noload,noatime onecopy.root=a/tree", "/dev/vda"),
        (
            "gfs_pmem_dax",
            "root=/dev/pmem0 rootfstype=ext4 rootflags=ro,noload,noatime,dax=always onecopy.root=a/tree",
            "/dev/vda",
        ),
        ("virtiofs_auto", "root=onecopy rootfstype=virtiofs rootflags=rw onecopy.root=data/a/tree", None),
        ("myfs", "root=onecopy rootfstype=virtiofs rootflags=rw onecopy.root=data/a/tree", None),
    ],
)
def test_a_guest_boots_from_the_data_on_the_path_under_test(system: str, root: str, scratch: str | None) -> None:
    plan = arrangement.arrange(spec(system, root="data"), PATHS)
    assert plan.guest
    assert root in qemu.cmdline(plan.guest)
    assert "root" not in [disk.name for disk in plan.guest.disks], "the usual root is not even there"
    if scratch:
        assert plan.scratch_mounts[0].source == scratch
    ordinary = arrangement.arrange(spec(system), PATHS).guest
    assert ordinary
    assert "root=/dev/vda rootfstype=ext4 rootflags=ro,noload,noatime" in qemu.cmdline(ordinary)
    assert "onecopy.root" not in qemu.cmdline(ordinary)


def test_an_emulated_guest_clears_pages_where_the_data_may_hold_programs(tmp_path: Path) -> None:
    """TCG does not see what a daemon writes, and would go on with what it has translated of the page before."""
    paths = HostPaths(tmp_path)

    def clears(accelerator: str = "tcg") -> bool:
        guest = arrangement.arrange(replace(spec("virtiofs_auto"), accelerator=accelerator), paths).guest
        assert guest
        return "init_on_alloc=1" in qemu.cmdline(guest)

    assert not clears()
    (paths.share("smoke") / "data/a/tree").mkdir(parents=True)
    assert clears()
    assert not clears("kvm")


def test_mapping_everything_reaches_the_root_too() -> None:
    guest = arrangement.arrange(spec("myfs", root="data", dax_always=True), PATHS).guest
    assert guest
    assert "rootflags=dax=always " in qemu.cmdline(guest)


def test_hfs_sees_data_at_the_same_places() -> None:
    plan = arrangement.arrange(spec("hfs"), PATHS)
    assert arrangement.hfs_service(plan) == [
        "RootDirectory=/run/onecopy/guests/trial/root",
        "BindReadOnlyPaths=/state/store/shares/smoke/data:/data",
        "BindPaths=/state/store/shares/smoke/scratch:/scratch",
        "BindPaths=/run/onecopy/guests/trial:/run/onecopy",
    ]


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        (spec("gsf"), "unknown system 'gsf': known: hfs, gfs"),
        (spec("gfs", oi="native"), "unknown option 'oi'"),
        (spec("gfs", queues="two"), "queues must be a whole number"),
        (spec("gfs", queues=True), "queues must be a whole number"),
        (spec("gfs", root="disk"), "option root: only a guest's can be the data set"),
        (spec("hfs", root="data"), "option root: only a guest's can be the data set"),
    ],
)
def test_wrong_specs_are_refused(wrong: BootSpec, words: str) -> None:
    with pytest.raises(ValueError, match=words):
        arrangement.arrange(wrong, PATHS)


def test_a_boot_says_which_role_is_missing(tmp_path: Path) -> None:
    with pytest.raises(testbed.BootError, match=r"guest/root.img is missing: apply role guest_image") as caught:
        testbed.boot(spec("gfs"), HostPaths(tmp_path))
    assert caught.value.reason == "internal"


@pytest.mark.parametrize("wrong", [spec("gfs", aio="native"), replace(spec("gfs", icount=True), cpus=2)])
def test_a_boot_refuses_a_contradiction_before_it_touches_anything(tmp_path: Path, wrong: BootSpec) -> None:
    with pytest.raises(testbed.BootError, match="needs"):
        testbed.boot(wrong, HostPaths(tmp_path))
    assert not list(tmp_path.iterdir())


def test_nothing_is_attached_where_nothing_runs(tmp_path: Path) -> None:
    assert testbed.attach(replace(spec("gfs"), name="no-such-guest"), HostPaths(tmp_path)) is None


def test_the_console_tells_why_a_kernel_died(tmp_path: Path) -> None:
    console = tmp_path / "console.log"
    assert console_log.telling_line(console) == ""
    console.write_text("Booting from ROM..\n")
    assert console_log.telling_line(console) == "console: Booting from ROM.."
    console.write_text("[ 1.0] Kernel panic - not syncing: VFS\n[ 1.1] Kernel Offset: disabled\n\n")
    assert console_log.telling_line(console) == "console: [ 1.0] Kernel panic - not syncing: VFS"


@pytest.mark.parametrize(("looks", "reason"), [(3, "guest_died"), (1000, "guest_not_ready")])
def test_a_guest_that_ends_a_moment_after_its_connection_has_died(
    monkeypatch: pytest.MonkeyPatch, looks: int, reason: str
) -> None:
    slept: list[float] = []
    states = iter(
        [*[units.State("active", "success", 7, 0)] * looks, *[units.State("inactive", "success", None, 0)] * 9]
    )
    monkeypatch.setattr(testbed.units, "state", lambda unit: next(states))
    monkeypatch.setattr(testbed.units, "last_words", lambda unit: "")
    monkeypatch.setattr(testbed, "time", SimpleNamespace(sleep=slept.append))
    found, _ = testbed._why_lost(RunnerLost("hello: the other end hung up"), arrangement.arrange(spec("gfs"), PATHS))
    assert found == reason
    assert sum(slept) < 3


@pytest.mark.parametrize(
    ("daemon", "guest", "reason"),
    [
        (units.State("failed", "signal", None, 9, stopped_at=5), units.State("active", "success", 7, 0), "daemon_died"),
        # systemd has ended the guest for it
        (units.State("failed", "signal", None, 9, 5), units.State("inactive", "success", None, 0, 6), "daemon_died"),
        (units.State("inactive", "success", None, 0, 9), units.State("failed", "signal", None, 9, 8), "guest_died"),
        (units.State("active", "success", 7, 0), units.State("failed", "exit-code", None, 1, 8), "guest_died"),
    ],
)
def test_who_died_first_is_told_with_what_comes_next(
    monkeypatch: pytest.MonkeyPatch, daemon: units.State, guest: units.State, reason: str
) -> None:
    plan = arrangement.arrange(spec("myfs"), PATHS)
    states = {plan.daemon_unit: daemon, plan.unit: guest}
    monkeypatch.setattr(testbed.units, "state", states.__getitem__)
    monkeypatch.setattr(testbed.units, "last_words", lambda unit: f"farewell of {unit}")
    found, message = testbed._diagnose(plan)
    assert found == reason
    if reason == "daemon_died":
        assert message.startswith(
            "onecopy-hostfsd@trial.service: signal, status 9; last words: farewell of onecopy-hostfsd@"
        )
        assert "A run boots both again" in message
        assert "when the role is applied again" in message
    else:
        assert message.startswith("onecopy-guest@trial.service: ")
