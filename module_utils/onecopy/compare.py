"""An experiment from a user's own data and command: the same question to every system, answered in the same report."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from . import experiment
from .cachestat import OWN_TREE
from .own_tree import OwnTreeError, Survey

NAME: Final = "compare"
WORKLOAD: Final = "command"
SYSTEMS: Final = (
    *("hfs", "gfs", "gfs_direct", "virtiofs_never", "virtiofs_auto", "virtiofs_always"),
    *("gfs_pmem_dax", "gfs_pmem_erofs", "myfs"),
)
# What sets them apart takes several guests, and a comparison has one: alone it has an image like everybody else's.
FOR_MANY_GUESTS: Final = ("gfs_private", "gfs_shared_base", "gfs_ksm", "gfs_pmem_cow")
# Beside the data in its cache: kernel, runner, and room for the command itself.
_GUEST_MIB: Final = 512
_MIB: Final = 1 << 20


def make(
    directory: Path,
    survey: Survey,
    sha256: str,
    command: Sequence[str],
    systems: Sequence[str],
    schema: Mapping[str, Any],
) -> dict[str, Any]:
    """The experiment. ``{data}`` in a word of ``command`` becomes the data's directory, where it runs in any case; ``{scratch}`` a place to write.

    Raises ExperimentError, OwnTreeError.
    """
    if not command:
        raise OwnTreeError("compare what? Give a command after --: ./onecopy compare --data DIR -- COMMAND …")
    labelled: list[Any] = list(systems or SYSTEMS)
    if "gfs" in labelled:
        labelled.insert(labelled.index("gfs") + 1, {"system": "gfs", "label": "gfs_again"})
    document = {
        "name": NAME,
        "description": f"{shlex.join(command)} on {survey.large_files + survey.small_files} files of {directory}",
        "seed": 2011,
        "repeats": 5,
        "guest": {"memory_mib": -(-survey.total_bytes // (64 * _MIB)) * 64 + _GUEST_MIB, "cpus": 1},
        "dataset": {
            "name": NAME,
            "from": str(directory),
            "sha256": sha256,
            "large_mib": -(-survey.large_bytes // _MIB),
            "large_files": survey.large_files,
            "small_mib": -(-survey.small_bytes // _MIB),
            "small_files": survey.small_files,
            "seed": 0,
        },
        "systems": labelled,
        "host_cache": ["cold", "warm"],
        "guest_cache": ["cold", "warm"],
        "workloads": {
            WORKLOAD: {
                "pipeline": [[_word(word) for word in command]],
                "reads": {"part": "some"},
                "writes": any("{scratch}" in word for word in command),
                "cwd": f"$data/{OWN_TREE}",
            }
        },
        "residency": [WORKLOAD],
        "timed": [WORKLOAD],
        "timeout_seconds": 3600,
        # Emulated, times are no claims: once is enough for what is counted.
        "tcg": {"repeats": 1, "guest_cache": ["cold"]},
    }
    return experiment.validate(document, schema, NAME)


def write(document: Mapping[str, Any], path: Path) -> bool:
    """Write the experiment; returns whether the file was another one before. A run keeps a copy of its own."""
    text = yaml.safe_dump(dict(document), sort_keys=False, allow_unicode=True, width=140)
    text = f"# Written by ./onecopy compare; ./onecopy run takes it, too.\n{text}"
    if path.is_file() and path.read_text(encoding="utf-8") == text:
        return False
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return True


def _word(word: str) -> str:
    return word.replace("$", "$$").replace("{data}", f"$data/{OWN_TREE}").replace("{scratch}", "$scratch")
