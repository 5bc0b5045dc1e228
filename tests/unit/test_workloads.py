"""Workloads: variables, what they must read, and that each of the table really reads it (on this machine, with its own utilities)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import workloads
from ansible.module_utils.onecopy.workloads import WORKLOADS, Places, Reads, bytes_missed, command_line, from_plan

LARGE, SMALL, SMALL_FILES = 5 << 20, 5000, 600

# A process of its own runs the pipeline, so that /proc/self/io counts its reaped children and nothing else.
_COUNT = """
import json, subprocess, sys
def rchar():
    return int(open("/proc/self/io").read().split()[1])
def wchar():
    return int(open("/proc/self/io").read().split()[3])
pipeline, before, written, source, children = json.loads(sys.argv[1]), rchar(), wchar(), None, []
for position, argv in enumerate(pipeline):
    last = position == len(pipeline) - 1
    child = subprocess.Popen(argv, stdin=source or subprocess.DEVNULL, stdout=subprocess.DEVNULL if last else subprocess.PIPE)
    if source:
        source.close()
    source = child.stdout
    children.append(child)
codes = [child.wait() for child in children]
print(json.dumps({"codes": codes, "read": rchar() - before, "written": wchar() - written}))
"""


@pytest.fixture(scope="module")
def places(tmp_path_factory: pytest.TempPathFactory) -> Places:
    top = tmp_path_factory.mktemp("data")
    for tree in ("a", "b"):
        (top / tree / "large").mkdir(parents=True)
        (top / tree / "small").mkdir()
        (top / tree / "large" / "0").write_bytes(bytes(range(251)) * (LARGE // 251))
        for number in range(SMALL_FILES):
            (top / tree / "small" / str(number)).write_text(f"line {number}\n" * (SMALL // 10))
    (top / "scratch").mkdir()
    sample = [str(top / "a/small" / str(number)) for number in range(500)]
    return Places(str(top / "a"), str(top / "b"), str(top / "scratch"), str(top / "a/large/0"), sample)


def size(*paths: str) -> int:
    files = [
        file
        for path in paths
        for file in ([Path(path)] if Path(path).is_file() else Path(path).rglob("*"))
        if file.is_file()
    ]
    return sum(file.stat().st_size for file in files)


@pytest.mark.parametrize("name", WORKLOADS)
def test_each_reads_what_it_declares(name: str, places: Places) -> None:
    workload = WORKLOADS[name]
    wanted = (
        workload.reads.bytes
        or {
            "all": size(places.data),
            "large": size(places.data + "/large"),
            "small": size(places.data + "/small"),
            "both": size(places.data, places.twin),
            "sample": size(*places.sample),
            "none": 0,
        }[workload.reads.part]
    )
    argv = [sys.executable, "-c", _COUNT, json.dumps(command_line(workload, places))]
    answer = json.loads(subprocess.run(argv, check=True, capture_output=True, text=True).stdout)
    assert answer["codes"] == list(workload.exit_codes or [0] * len(workload.pipeline))
    assert bytes_missed(workload.reads, wanted, answer["read"]) is None
    assert answer["written"] >= workload.written_bytes
    assert workload.written_bytes == 0 or workload.writes


def test_utility_that_reads_nothing_is_found_out(places: Places) -> None:
    assert bytes_missed(Reads("all"), 100 << 20, 3 << 20) == (
        "read 3145728 bytes where 104857600 to 109051904 were expected (104857600 bytes of the data set are wanted)"
    )


def test_reading_too_much_is_found_out() -> None:
    assert bytes_missed(Reads("none"), 0, 10 << 20) is not None
    assert bytes_missed(Reads("all"), 100 << 20, 200 << 20) is not None


def test_variables(places: Places) -> None:
    own = workloads.parse(
        "own",
        {"pipeline": [["dd", "if=$large_file", "of=$scratch/$$x"], ["cat", "$sample"]], "reads": {"part": "large"}},
    )
    pipeline = command_line(own, places)
    assert pipeline[0] == ["dd", f"if={places.large_file}", f"of={places.scratch}/$x"]
    assert pipeline[1] == ["cat", *places.sample]


@pytest.mark.parametrize("name", WORKLOADS)
def test_plan_form_and_back(name: str) -> None:
    assert from_plan(WORKLOADS[name].as_dict()) == WORKLOADS[name]


def test_a_dozen_at_least_and_copies_from_full_reads_alone() -> None:
    assert {
        "cat",
        "cp",
        "grep",
        "find",
        "tar",
        "sha256sum",
        "wc",
        "du",
        "diff",
        "gzip",
        "small_files",
        "random_read",
    } <= set(WORKLOADS)
    assert not any(WORKLOADS[name].reads.full for name in ("find", "du", "random_read", "small_files"))
