"""Loop devices are machine-wide: find those whose backing file lies below a directory, and let them go."""

from __future__ import annotations

import errno
import fcntl
import os
import struct
from pathlib import Path

LOOP_CLR_FD = 0x4C01
LOOP_GET_STATUS64 = 0x4C05
_STATUS64_BYTES = 232


def parse_status(status: bytes) -> tuple[int, int]:
    """Return device and inode number of the backing file from a ``struct loop_info64``."""
    device, inode = struct.unpack_from("=QQ", status)
    return device, inode


def is_backed_below(root: Path, shown: str, device: int, inode: int) -> bool:
    """Tell whether the backing file, shown as a path of its own mount namespace, is the file of that path below ``root``."""
    try:
        found = os.stat(root / shown.removesuffix(" (deleted)").lstrip("/"))
    except OSError:
        return False
    return (found.st_ino, _kernel_device(found.st_dev)) == (inode, device)


def _kernel_device(number: int) -> int:
    # The kernel reports huge_encode_dev(): the same layout as stat's for the small numbers block devices have.
    return (os.minor(number) & 0xFF) | (os.major(number) << 8) | ((os.minor(number) & ~0xFF) << 12)


def backed_below(root: Path, sysfs: Path = Path("/sys/block")) -> list[Path]:
    """Return the nodes of loop devices whose backing file lies below ``root``."""
    found = []
    for entry in sorted(sysfs.glob("loop*/loop/backing_file")):
        node = Path("/dev") / entry.parent.parent.name
        try:
            shown = entry.read_text().rstrip("\n")
            with open(node, "rb") as device:
                status = fcntl.ioctl(device, LOOP_GET_STATUS64, bytes(_STATUS64_BYTES))
        except OSError:
            continue
        if is_backed_below(root, shown, *parse_status(status)):
            found.append(node)
    return found


def detach_below(root: Path) -> list[str]:
    """Detach every loop device backed by a file below ``root``; return their names."""
    detached = []
    for node in backed_below(root):
        with open(node, "rb") as device:
            try:
                fcntl.ioctl(device, LOOP_CLR_FD, 0)
            except OSError as error:
                if error.errno != errno.ENXIO:
                    raise
        detached.append(str(node))
    return detached
