"""Guests with images of their own, and guests that map one image privately."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.onecopy import arrangement, guest_files, qemu
from ansible.module_utils.onecopy.arrangement import BootSpec
from ansible.module_utils.onecopy.host_data import ImageData, ImagesData, host_data
from ansible.module_utils.onecopy.paths import HostPaths
from ansible.module_utils.onecopy.systems import SYSTEMS


def spec(system: str, name: str = "t1-2") -> BootSpec:
    return BootSpec(system, system, "tiny", "tcg", 256, 1, name=name, is_one_of_many=True)


def argv(system: str, paths: HostPaths) -> str:
    plan = arrangement.arrange(spec(system), paths)
    assert plan.guest is not None
    return " ".join(qemu.argv(plan.guest))


def test_every_guest_has_its_own_image_and_scratch(tmp_path: Path) -> None:
    paths = HostPaths(tmp_path)
    plan = arrangement.arrange(spec("gfs_private"), paths)
    assert plan.files == [tmp_path / "store/scratch/t1-2.img", tmp_path / "store/own/t1-2.raw"]
    assert set(plan.files) < set(guest_files.of("t1-2", paths))
    assert f"file={tmp_path}/store/own/t1-2.raw,format=raw,cache=writeback" in argv("gfs_private", paths)
    assert f"file={tmp_path}/store/own/t1-2.qcow2,format=qcow2,cache=writeback" in argv("gfs_shared_base", paths)
    assert arrangement.arrange(spec("gfs_direct"), paths).own_image is None


def test_ksm_gets_memory_that_it_can_merge_and_no_host_cache(tmp_path: Path) -> None:
    line = argv("gfs_ksm", HostPaths(tmp_path))
    assert "memory-backend-ram,id=m0,size=256M,merge=on" in line
    assert "t1-2.raw,format=raw,cache=none,aio=native" in line


def test_a_private_mapping_is_copied_on_write_and_mergeable(tmp_path: Path) -> None:
    assert "memory-backend-file,id=p0,share=off,merge=on" in argv("gfs_pmem_cow", HostPaths(tmp_path))
    assert "memory-backend-file,id=p0,share=on" in argv("gfs_pmem_dax", HostPaths(tmp_path))


def test_erofs_is_mapped_as_ext4_is_and_has_no_journal(tmp_path: Path) -> None:
    plan = arrangement.arrange(spec("gfs_pmem_erofs"), HostPaths(tmp_path))
    assert plan.data_mounts == (arrangement.Mount("/dev/pmem0", "/data", "erofs", "ro,noatime,dax=always"),)
    assert plan.guest is not None
    assert plan.guest.modules[-2:] == ("libcrc32c", "erofs")
    assert plan.guest.pmem is not None
    assert plan.guest.pmem.is_shared


def test_guests_of_one_share_have_a_scratch_each(tmp_path: Path) -> None:
    plan = arrangement.arrange(spec("virtiofs_auto"), HostPaths(tmp_path))
    assert plan.share_scratch == tmp_path / "store/shares/tiny/scratch/t1-2"
    assert plan.scratch_mounts[0].source == "/share/scratch/t1-2"
    alone = arrangement.arrange(BootSpec("virtiofs_auto", "virtiofs_auto", "tiny", "tcg", 256, 1), HostPaths(tmp_path))
    assert (alone.share_scratch, alone.scratch_mounts[0].source) == (
        tmp_path / "store/shares/tiny/scratch",
        "/share/scratch",
    )


def test_leftovers_are_known_by_their_files(tmp_path: Path) -> None:
    paths = HostPaths(tmp_path)
    for name in ("scratch/a.img", "own/b-1.raw", "own/b-2.qcow2"):
        (paths.store / name).parent.mkdir(parents=True, exist_ok=True)
        (paths.store / name).touch()
    assert guest_files.owners(paths) == {"a", "b-1", "b-2"}


@pytest.fixture
def images(disk_path: Path) -> HostPaths:
    paths = HostPaths(disk_path)
    paths.image_manifest("tiny").parent.mkdir(parents=True)
    ranges = {"a/large": [[0, 8 * 4096]], "a/small": [[10 * 4096, 4096]], "b/large": [], "b/small": []}
    names = ("gfs", "gfs_private", "gfs_shared_base")
    paths.image_manifest("tiny").write_text(
        "{" + ", ".join(f'"{name}": {{"ranges": {ranges}}}'.replace("'", '"') for name in names) + "}"
    )
    own = [paths.own_image("t1-1", "copy"), paths.own_image("t1-2", "copy"), paths.own_image("t1-1", "overlay")]
    for path in (*(paths.image("tiny", name) for name in names), *own):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"x" * 16 * 4096)
    return paths


def test_private_images_are_counted_together_and_the_common_one_once(images: HostPaths) -> None:
    private = host_data(SYSTEMS["gfs_private"], "tiny", images, ["t1-1", "t1-2"])
    private.prefetch()
    assert private.resident_pages(("a/large", "a/small")) == 18
    assert private.residency().pages == 32
    base = host_data(SYSTEMS["gfs_shared_base"], "tiny", images, ["t1-1"])
    base.prefetch()
    assert base.resident_pages(("a/large",)) == 8
    assert isinstance(base, ImagesData)
    assert base.overhead_pages() == 7 + 16  # the overlay holds nothing but what its guest wrote, and its own tables
    assert isinstance(host_data(SYSTEMS["gfs"], "tiny", images, ["t1-1"]), ImageData)
    private.evict([])
    assert private.residency().resident_pages == 0
