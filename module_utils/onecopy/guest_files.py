"""Image files that belong to one guest alone, made at its boot and gone with it; and the root image mounted for the `hfs` chroot."""

from __future__ import annotations

import os
from pathlib import Path
from pwd import struct_passwd
from typing import Final

from . import image
from .arrangement import Arrangement
from .commands import run
from .paths import HostPaths

_SCRATCH_MIB: Final = 512
_SCRATCH_INODES: Final = 16384
_OVERLAY_CLUSTER: Final = "64k"
_QEMU_IMG_SECONDS: Final = 30


def of(name: str, paths: HostPaths) -> list[Path]:
    """Every file that the guest ``name`` may have of its own."""
    own = [paths.own_image(name, kind) for kind in ("copy", "overlay")]
    return [paths.store / "scratch" / f"{name}.img", *own]


def owners(paths: HostPaths) -> set[str]:
    """Names of the guests whose files are there."""
    return {path.stem for place in ("scratch", "own") for path in (paths.store / place).glob("*.*")}


def make(plan: Arrangement, paths: HostPaths, user: struct_passwd) -> None:
    """Make what ``plan`` asks for, owned by ``user``. Raises NoSpaceError, CommandError, OSError."""
    if plan.scratch_image is not None:
        size = plan.spec.options.get("scratch_mib", _SCRATCH_MIB)
        image.make(image.ImageSpec("scratch", int(str(size)), _SCRATCH_INODES), plan.scratch_image, None)
        os.chown(plan.scratch_image, user.pw_uid, user.pw_gid)
    own = plan.own_image
    if own is None:
        return
    own.parent.mkdir(exist_ok=True)
    base = paths.image(plan.spec.dataset, plan.system.name)
    if plan.system.own_image == "copy":
        image.copy(base, own)
    else:
        options = f"backing_fmt=raw,cluster_size={_OVERLAY_CLUSTER}"
        run(
            ["qemu-img", "create", "-q", "-f", "qcow2", "-b", str(base), "-o", options, str(own)],
            timeout_seconds=_QEMU_IMG_SECONDS,
        )
    os.chown(own, user.pw_uid, user.pw_gid)


def mount_root(plan: Arrangement, paths: HostPaths) -> None:
    """Mount the guest's root image for the chroot, past the host's page cache of the image."""
    plan.root.mkdir()
    attach_argv = ["losetup", "--find", "--show", "--read-only", "--direct-io=on", str(paths.guest / "root.img")]
    device = run(attach_argv).strip()
    try:
        run(["mount", "-t", "ext4", "-o", "ro,noload,noatime", device, str(plan.root)])
    finally:
        # Still used by the mount, the device goes with it; otherwise now.
        run(["losetup", "-d", device])
