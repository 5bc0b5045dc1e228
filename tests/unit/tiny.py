"""A tiny experiment on a host that can run it, and the data that its workloads read: what most tests of trials need around what they test."""

from __future__ import annotations

from typing import Any

from ansible.module_utils.onecopy.paths import HostPaths

RUN = "20260101T000000Z"
ABLE = {"accelerator": "tcg", "qemu": {"supported": True}, "virtiofsd": {"supported": True}}
_EXPERIMENT: dict[str, Any] = {
    "name": "tiny",
    "description": "for tests",
    "seed": 1,
    "repeats": 1,
    "guest": {"memory_mib": 256, "cpus": 1},
    "dataset": {"name": "tiny", "large_mib": 1, "large_files": 1, "small_mib": 1, "small_files": 5, "seed": 1},
    "host_cache": ["cold"],
    "guest_cache": ["cold"],
    "timeout_seconds": 20,
}


def experiment(**keys: Any) -> dict[str, Any]:
    """The experiment with these keys; it has no ``systems`` of its own, and neither trials nor probes."""
    return _EXPERIMENT | keys


def lay_out(paths: HostPaths, large_bytes: int = 5000, small_bytes: int = 5000) -> None:
    """The share of its data set: one file in every part."""
    for tree in "ab":
        for part, size in (("large", large_bytes), ("small", small_bytes)):
            directory = paths.share("tiny") / "data" / tree / part
            directory.mkdir(parents=True)
            (directory / "file").write_bytes(b"x" * size)
    (paths.share("tiny") / "scratch").mkdir()
