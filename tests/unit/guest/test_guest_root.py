"""What guests boot: archives, the exact mmdebstrap, and when it is made again."""

from __future__ import annotations

import ast
import gzip
import os
import shutil
import struct
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import cpio, guest_init, guest_root, store
from ansible.module_utils.onecopy.guest_root import RootSpec

Run = Callable[..., dict[str, Any]]


def test_the_exact_command() -> None:
    argv = guest_root.mmdebstrap_argv(RootSpec(), Path("/w/tree"), Path("/w/d"), "http://mirror.test/debian")
    assert argv == [
        *("mmdebstrap", "--mode=root", "--variant=essential", "--architectures=amd64", "--include=python3"),
        *("--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/man/*"),
        *("--dpkgopt=path-exclude=/usr/share/locale/*", "--dpkgopt=path-exclude=/usr/share/info/*"),
        '--customize-hook=cd "/w/d" && export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" && apt-get -q -o APT::Sandbox::User=root download busybox-static '
        '"$(apt-cache depends linux-image-cloud-amd64 | sed -n "s/^ *Depends: //p" | head -n 1)"',
        *("trixie", "/w/tree", "http://mirror.test/debian"),
    ]
    assert guest_root.mmdebstrap_argv(RootSpec(), Path("/t"), Path("/d"), "")[-1] == "/t"


def test_the_guests_kernel_is_judged_by_its_configuration() -> None:
    able = guest_root.kernel_capabilities("CONFIG_EROFS_FS=m\nCONFIG_FS_DAX=y\n")
    assert able == {"guest_erofs": {"supported": True, "reason": ""}}
    unable = guest_root.kernel_capabilities("# CONFIG_EROFS_FS is not set\nCONFIG_FS_DAX=y\n")["guest_erofs"]
    assert unable == {"supported": False, "reason": "the guests' kernel was built without CONFIG_EROFS_FS"}


def test_the_mirror_is_the_one_apt_uses(tmp_path: Path) -> None:
    (tmp_path / "sources.list").write_text("deb http://mirror.test/debian trixie main\n")
    assert guest_root.default_mirror("trixie", tmp_path) == "http://mirror.test/debian"
    assert guest_root.default_mirror("forky", tmp_path) == ""


@pytest.mark.skipif(shutil.which("cpio") is None, reason="cpio is not installed")
def test_a_real_cpio_reads_the_archive(tmp_path: Path) -> None:
    archive = cpio.pack(
        {"a/b/file": cpio.file(b"hello", 0o600), "link": cpio.symlink("a/b"), "empty": cpio.directory()}
    )
    subprocess.run(["cpio", "-id", "--quiet"], input=archive, cwd=tmp_path, check=True)
    assert (tmp_path / "a/b/file").read_bytes() == b"hello"
    assert (tmp_path / "link").readlink() == Path("a/b")
    assert (tmp_path / "empty").is_dir()


def test_the_archive_is_laid_out_as_the_kernel_wants_it() -> None:
    archive = cpio.pack({"f": cpio.file(b"abc")})
    assert archive.startswith(b"070701" + b"00000001" + b"000081A4")
    assert archive[110:112] == b"f\0"
    assert archive[112:116] == b"abc\0"
    assert b"TRAILER!!!" in archive
    assert len(archive) % 4 == 0
    assert archive == cpio.pack({"f": cpio.file(b"abc")})


def test_the_runner_is_shipped_whole_and_stands_alone() -> None:
    """Whatever a shipped file imports from the package is shipped too, and the rest is in the standard library."""
    files = guest_root.runner_files()
    shipped = {path.removeprefix("onecopy/").removesuffix(".py") for path in files}
    for path, source in files.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.ImportFrom) and node.level:
                names = {node.module} if node.module else {alias.name for alias in node.names}
                assert names <= shipped, path
            assert not (isinstance(node, ast.ImportFrom) and (node.module or "").startswith("ansible"))


def test_the_initramfs_has_what_its_scripts_call() -> None:
    entries = guest_root.runner_entries(guest_root.runner_files())
    assert {"init", "onecopy/init", "onecopy/runner/main.py", "onecopy/runner/onecopy/runner.py"} <= set(entries)
    assert entries["init"].mode & 0o111
    assert "/onecopy /run/onecopy" in guest_init.INITRAMFS
    assert "/run/onecopy/runner/main.py" in guest_init.INIT


@pytest.mark.parametrize("script", [guest_init.INITRAMFS, guest_init.INIT])
def test_the_scripts_are_shell(script: str) -> None:
    assert subprocess.run(["sh", "-n"], input=script, text=True, check=False).returncode == 0


def test_inputs_decide() -> None:
    digest = guest_root.inputs_digest(RootSpec())
    assert digest == guest_root.inputs_digest(RootSpec())
    for change in (
        {"suite": "forky"},
        {"packages": ("python3", "fio")},
        {"size_mib": 512},
        {"mirror": "http://mirror.test"},
    ):
        assert digest != guest_root.inputs_digest(replace(RootSpec(), **change))  # type: ignore[arg-type]


def test_only_the_initramfs_is_packed_when_the_runner_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "initrd.base").write_bytes(b"BASE")
    (tmp_path / "config").write_text("CONFIG_EROFS_FS=m\nCONFIG_FS_DAX=y\n")
    assert guest_root.pack_runner(tmp_path)["capabilities"]["guest_erofs"]["supported"]
    assert guest_root.is_runner_current(tmp_path)
    assert (tmp_path / "initrd").read_bytes().startswith(b"BASE070701")
    assert (tmp_path / "runner/main.py").exists()
    changed = {**guest_root.runner_files(), "main.py": b"pass\n"}
    monkeypatch.setattr(guest_root, "runner_files", lambda: changed)
    assert not guest_root.is_runner_current(tmp_path)
    guest_root.pack_runner(tmp_path)
    assert (tmp_path / "runner/main.py").read_bytes() == b"pass\n"


def test_the_elf_kernel_is_found_in_a_bzimage() -> None:
    payload = gzip.compress(b"\x7fELF kernel")
    image = bytearray(2 * 512) + b"head" + payload + b"size"
    image[0x1F1] = 1
    image[0x202:0x206] = b"HdrS"
    struct.pack_into("<II", image, 0x248, 4, len(payload) + 4)
    assert guest_root.kernel_payload(bytes(image)) == payload
    with pytest.raises(ValueError, match="not a bzImage"):
        guest_root.kernel_payload(b"\0" * 4096)


def test_what_the_build_wrote_takes_the_newest_packaged_time(tmp_path: Path) -> None:
    """Compiled modules stay valid, since no packaged file is touched; and two builds at other moments end with the same times."""
    began = 2_000_000_000.0
    for name, moment in (("old.py", 1_500_000_000), ("newest.py", 1_600_000_000), ("made/ld.so.cache", began + 5)):
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
        os.utime(path, (moment, moment))
    (tmp_path / "tree/link").symlink_to("nowhere")
    for path in (tmp_path / "tree/link", tmp_path / "tree/made", tmp_path / "tree"):
        os.utime(path, (began + 9, began + 9), follow_symlinks=False)
    assert guest_root.settle_times(tmp_path / "tree", began) == 1_600_000_000
    times = {path.name: path.lstat().st_mtime for path in (tmp_path / "tree").rglob("*")}
    assert times == dict.fromkeys(("newest.py", "ld.so.cache", "made", "link"), 1_600_000_000) | {
        "old.py": 1_500_000_000
    }
    assert (tmp_path / "tree").stat().st_mtime == 1_600_000_000


def test_a_tree_that_is_younger_than_its_packages_tells_of_the_clock(tmp_path: Path) -> None:
    with pytest.raises(OSError, match="clock"):
        guest_root.settle_times(tmp_path, 1.0)


def test_other_packages_than_the_pinned_ones_are_named(
    run_module: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert guest_root.find_unlike(["a 1", "b 2"], ["b 2", "a 1"]) is None
    manifest = {"packages": ["a 1", "b 3"]}
    monkeypatch.setattr(guest_root, "read_manifest", lambda guest: manifest)
    arguments = {"check_mode": True, "state_directory": str(tmp_path)}
    assert "failed" not in run_module("guest_root", pinned_packages=["a 1", "b 3"], **arguments)
    failed = run_module("guest_root", pinned_packages=["a 1", "b 2"], **arguments)
    assert "1 of 2 packages cannot be had as wanted: b 3 instead of b 2" in failed["msg"]
    assert "guest_image_pinned_packages" in failed["msg"]
    assert "set guest_image_mirror to an archive that keeps old versions" in failed["msg"]


def test_the_module_foretells_a_build(run_module: Run, tmp_path: Path) -> None:
    result = run_module("guest_root", check_mode=True, state_directory=str(tmp_path))
    assert result["changed"]
    assert result["rebuilt"] == ["root", "runner"]
    assert not list(tmp_path.iterdir())


def test_images_need_a_data_set_and_known_systems(run_module: Run, tmp_path: Path) -> None:
    wrong = run_module("data_images", dataset="x", systems=["gsf"], state_directory=str(tmp_path))
    assert wrong["msg"].startswith("unknown system 'gsf': known: hfs, gfs")
    missing = run_module("data_images", dataset="x", systems=["gfs"], state_directory=str(tmp_path))
    assert "make the data set (role dataset) first" in missing["msg"]
    foretold = run_module(
        "data_images", check_mode=True, dataset="x", systems=["hfs", "gfs", "gfs_direct"], state_directory=str(tmp_path)
    )
    assert foretold["made"] == ["gfs", "gfs_direct"]


def test_the_exact_command_of_the_store() -> None:
    assert store.mkfs_argv(Path("/s")) == [
        *("mke2fs", "-q", "-F", "-t", "ext4", "-b", "4096", "-m", "0", "-i", "32768", "-L", "onecopy-store"),
        *("-E", "lazy_itable_init=0,lazy_journal_init=0", "/s"),
    ]


@pytest.mark.skipif(
    shutil.which("mke2fs") is None or shutil.which("blkid") is None, reason="e2fsprogs or blkid is not installed"
)
def test_the_store_is_made_once(run_module: Run, tmp_path: Path) -> None:
    path = tmp_path / "store.ext4"
    assert run_module("ext4_store", check_mode=True, path=str(path), size_mib=32)["changed"]
    assert not path.exists()
    assert run_module("ext4_store", path=str(path), size_mib=32)["changed"]
    before = path.stat().st_mtime_ns
    assert not run_module("ext4_store", path=str(path), size_mib=64)["changed"]
    assert path.stat().st_mtime_ns == before


def test_a_store_that_cannot_be_filled_is_refused(run_module: Run, tmp_path: Path) -> None:
    result = run_module("ext4_store", path=str(tmp_path / "store.ext4"), size_mib=1 << 30)
    assert result["failed"]
    assert "MiB are free" in result["msg"]
    assert not list(tmp_path.iterdir())


def test_a_device_is_never_overwritten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(store.RefusedError, match="not a block device"):
        store.make_device(tmp_path / "none", is_allowed=True)
    monkeypatch.setattr(store.stat, "S_ISBLK", lambda mode: True)
    monkeypatch.setattr(store, "run", lambda argv: pytest.fail(f"ran {argv}"))
    device = tmp_path / "disk"
    device.touch()
    monkeypatch.setattr(store, "_blkid", lambda target: {"TYPE": "xfs"})
    with pytest.raises(store.RefusedError, match="holds xfs already"):
        store.make_device(device, is_allowed=True)
    monkeypatch.setattr(store, "_blkid", lambda target: {})
    with pytest.raises(store.RefusedError, match="host_share_format: true"):
        store.make_device(device, is_allowed=False)
