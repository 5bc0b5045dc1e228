"""What comes back of a deleted file, on a guest that is played by files of this machine."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible.module_utils.onecopy.probes import ProbeError, Scene, free_space
from ansible.module_utils.onecopy.runner_client import RunnerError

MIB = 1 << 20


class Guest:
    """A guest whose scratch is a directory here; with ``image`` a file grows for it, and shrinks by discards alone."""

    def __init__(self, scratch: Path, image: Path | None, discards: bool | None = None) -> None:
        self.scratch = str(scratch)
        self.runner = self
        mounted = {self.scratch: image} if image else {}
        self.plan = SimpleNamespace(mounted_images=mounted, share_scratch=scratch)
        self.image, self.discards = image, discards

    def call(self, op: str, timeout_seconds: float, **arguments: Any) -> dict[str, int]:
        written = sum(path.stat().st_size for path in Path(self.scratch).iterdir())
        if op == "drop" and self.image and written:
            self.image.write_bytes(b"x" * written)
            os.sync()
        if op == "fstrim":
            assert self.image
            if self.discards is None:
                raise RunnerError("internal", "Operation not supported")
            if self.discards:
                os.truncate(self.image, 0)
            return {"bytes": 4 * MIB}
        return {"free_bytes": 64 * MIB - written}

    def run(self, boot: object, argv: list[str]) -> None:
        subprocess.run(argv, check=True, stderr=subprocess.DEVNULL)


def probe(guest: Guest) -> dict[str, float]:
    scene = SimpleNamespace(boot=guest, run=guest.run, parameters={"write_mib": 4})
    return dict(free_space.run(cast(Scene, scene)).metrics)


@pytest.fixture
def scratch(disk_path: Path) -> Path:
    (disk_path / "scratch").mkdir()
    return disk_path / "scratch"


@pytest.mark.parametrize(("discards", "trimmed", "kept"), [(None, 0, 1.0), (False, 4 * MIB, 1.0), (True, 4 * MIB, 0.0)])
def test_an_image_keeps_what_its_guest_deleted_until_it_is_told(
    disk_path: Path, scratch: Path, discards: bool | None, trimmed: int, kept: float
) -> None:
    (disk_path / "image").touch()
    found = probe(Guest(scratch, disk_path / "image", discards))
    assert found == {
        "written_bytes": 4 * MIB,
        "grown_bytes": 4 * MIB,
        "guest_freed_bytes": 4 * MIB,
        "kept_bytes": 4 * MIB,
        "kept_ratio": 1.0,
        "trimmed_bytes": trimmed,
        "kept_after_trim_ratio": kept,
    }


def test_a_share_gives_the_space_back_at_once(scratch: Path) -> None:
    found = probe(Guest(scratch, None))
    assert (found["grown_bytes"], found["kept_ratio"]) == (4 * MIB, 0.0)
    assert "kept_after_trim_ratio" not in found


def test_a_guest_that_cannot_write_fails_the_probe(scratch: Path) -> None:
    guest = Guest(scratch, None)

    def fail(boot: object, argv: list[str]) -> None:
        raise ProbeError("dd: no space")

    guest.run = fail  # type: ignore[method-assign]
    with pytest.raises(ProbeError):
        probe(guest)
