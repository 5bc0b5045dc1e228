"""The kit's own ext4, in a sparse file or on a device that was given for it."""

from __future__ import annotations

import os
import stat
import subprocess
from pathlib import Path

from . import image
from .commands import run

# Few large files and some thousand small ones: an inode each 32 KiB is plenty, and keeps the tables small.
_INODE_BYTES = 32768
LABEL = "onecopy-store"


class RefusedError(Exception):
    """Something would have been destroyed; one line with the cure."""


def mkfs_argv(target: Path) -> list[str]:
    """The exact command. No lazy initialisation: the kernel would write to the store in the middle of a measurement."""
    extended = "lazy_itable_init=0,lazy_journal_init=0"
    argv = ["mke2fs", "-q", "-F", "-t", "ext4", "-b", str(image.BLOCK_BYTES), "-m", "0", "-i", str(_INODE_BYTES)]
    return [*argv, "-L", LABEL, "-E", extended, str(target)]


def is_made(target: Path) -> bool:
    """Whether a file system of ours is on the file or device."""
    return target.exists() and _blkid(target).get("LABEL") == LABEL


def make_file(path: Path, size_mib: int) -> None:
    """Make the sparse file with its file system; a broken-off run leaves nothing under its name. Raises NoSpaceError, CommandError."""
    # Sparse: the room is needed when data come, but a store that can never be filled is a trap.
    image.require_space(path.parent, size_mib << 20)
    partial = path.with_name(f"{path.name}.partial")
    partial.unlink(missing_ok=True)
    with open(partial, "wb") as file:
        file.truncate(size_mib << 20)
    run(mkfs_argv(partial))
    image.sync(partial)
    partial.rename(path)


def make_device(device: Path, is_allowed: bool) -> None:
    """Make the file system on a device. Raises RefusedError unless that ``is_allowed``, and always when something is on it already."""
    if not device.exists() or not stat.S_ISBLK(os.stat(device).st_mode):
        raise RefusedError(f"{device} is not a block device")
    found = _blkid(device)
    if found:
        what = found.get("TYPE") or found.get("PTTYPE") or "data"
        raise RefusedError(f"{device} holds {what} already: empty it yourself (wipefs), the kit never overwrites")
    if not is_allowed:
        raise RefusedError(f"{device} has no file system: say host_share_format: true to let the kit make one on it")
    run(mkfs_argv(device))


def _blkid(target: Path) -> dict[str, str]:
    # rc 2: nothing recognised, which is an answer.
    done = subprocess.run(["blkid", "-p", "-o", "export", str(target)], capture_output=True, text=True, check=False)
    if done.returncode not in (0, 2):
        raise RefusedError(f"blkid {target}: rc {done.returncode}: {done.stderr.strip()}")
    return dict(
        line.split("=", 1) for line in done.stdout.splitlines() if "=" in line and not line.startswith("DEVNAME")
    )
