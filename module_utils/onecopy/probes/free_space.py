"""What the host gets back on its disk when a guest deletes a file: free space inside an image is space that the host cannot see."""

from __future__ import annotations

import posixpath
from pathlib import Path
from typing import Final

from .. import storage_ledger
from ..runner_client import RunnerError
from ..testbed import Boot
from .scene import Probe, Probed, Scene

_MIB: Final = 1 << 20
_CALL_SECONDS: Final = 60.0


def run(scene: Scene) -> Probed:
    """Write a file to the guest's scratch and delete it, then trim.

    ``grown_bytes`` is what the host allocated for the file; ``kept_ratio``: what of it the host still holds when the guest has it free again;
    ``kept_after_trim_ratio``: the same after fstrim, where the guest has a file system of its own. Raises ProbeError, OSError.
    """
    boot, written = scene.boot, int(scene.parameters["write_mib"]) * _MIB
    path = posixpath.join(boot.scratch, "blob")
    before = _allocated(boot)
    scene.run(boot, ["dd", "if=/dev/zero", f"of={path}", f"bs={_MIB}", f"count={written // _MIB}", "conv=fsync"])
    filled, free = _allocated(boot), _free(boot)
    scene.run(boot, ["rm", path])
    freed = _free(boot) - free
    grown, kept = filled - before, _allocated(boot) - before
    metrics: dict[str, float] = {
        "written_bytes": written,
        "grown_bytes": grown,
        "guest_freed_bytes": freed,
        "kept_bytes": kept,
        "kept_ratio": kept / written,
    }
    if boot.scratch in boot.plan.mounted_images:
        try:
            metrics["trimmed_bytes"] = boot.runner.call("fstrim", _CALL_SECONDS, target=boot.scratch)["bytes"]
        except RunnerError:
            metrics["trimmed_bytes"] = 0  # a disk that takes no discards
        metrics["kept_after_trim_ratio"] = (_allocated(boot) - before) / written
    return Probed(metrics)


def _allocated(boot: Boot) -> int:
    """Bytes on the host's disk that are this guest's scratch."""
    # Blocks are allocated when data are written out, and freed with the guest's journal.
    boot.runner.call("drop", _CALL_SECONDS, what=1)
    image = boot.plan.mounted_images.get(boot.scratch)
    return image.stat().st_blocks * 512 if image else _tree(boot.plan.share_scratch)


def _tree(directory: Path) -> int:
    return storage_ledger.share(str(directory))["allocated_bytes"]


def _free(boot: Boot) -> int:
    boot.runner.call("drop", _CALL_SECONDS, what=1)
    return int(boot.runner.call("statfs", _CALL_SECONDS, target=boot.scratch)["free_bytes"])


PROBE: Final = Probe("free_space", run, {"write_mib": 32}, seconds=10.0)
