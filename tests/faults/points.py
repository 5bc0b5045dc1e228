"""How many points, which ones, and what tests say of them."""

from __future__ import annotations

import os
import random
from collections.abc import Callable
from pathlib import Path

# Points of each fault that needs guests, which are not tried at 0; the others take a fraction of a second each.
POINTS = int(os.environ.get("ONECOPY_FAULT_POINTS", "0"))
CHEAP = max(POINTS, 5)
SEED = int(os.environ.get("ONECOPY_FAULT_SEED", "2011"))

Told = Callable[..., None]


def draw(*names: object) -> random.Random:
    """The random numbers of one point: the same names and seed give the same ones."""
    return random.Random("/".join(str(name) for name in (SEED, *names)))


def fill(disk: Path, spare_bytes: int) -> None:
    """Leave ``spare_bytes`` of a small disk, in whole pages; 0 or more."""
    status = os.statvfs(disk)
    with open(disk / "filler", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, status.f_bavail * status.f_frsize - spare_bytes // 4096 * 4096)


def make_room(disk: Path) -> None:
    """Undo ``fill``."""
    (disk / "filler").unlink()
