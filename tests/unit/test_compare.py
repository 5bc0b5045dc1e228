"""An experiment from a user's own data and command."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.onecopy import compare, guest_root, measure, workloads
from ansible.module_utils.onecopy.experiment import ExperimentError, for_accelerator
from ansible.module_utils.onecopy.host_data import DataSet
from ansible.module_utils.onecopy.own_tree import OwnTreeError, Survey
from ansible.module_utils.onecopy.plan import make_plan
from ansible.module_utils.onecopy.systems import SYSTEMS
from ansible.module_utils.onecopy.workloads import Places, Reads, Workload

PROJECT = Path(__file__).resolve().parents[2]
SCHEMA = json.loads((PROJECT / "reports/schema/experiment.schema.json").read_text())
SURVEY = Survey(large_bytes=100 << 20, large_files=2, small_bytes=0, small_files=0, others=0)
CAPABILITIES = {
    "accelerator": "kvm",
    **{need: {"supported": True} for need in ("qemu", "virtiofsd", "virtio_pmem", "vhost_user_shmem")},
}
Run = Callable[..., dict[str, Any]]


def made(*command: str, systems: tuple[str, ...] = ()) -> dict[str, Any]:
    return compare.make(Path("/srv/data"), SURVEY, "a" * 64, command, systems, SCHEMA)


def test_every_system_and_an_aa_pair_with_room_for_the_data_in_the_guest() -> None:
    document = made("cat", "x")
    labels = [entry if isinstance(entry, str) else entry["label"] for entry in document["systems"]]
    assert set(labels) == {*compare.SYSTEMS, "gfs_again"}
    assert document["guest"]["memory_mib"] == 128 + 512
    assert for_accelerator(document, "tcg")["repeats"] == 1
    assert made("cat", systems=("myfs", "hfs"))["systems"] == ["myfs", "hfs"]


def test_no_system_is_left_out_without_a_word(run_module: Run, tmp_path: Path) -> None:
    assert sorted((*compare.SYSTEMS, *compare.FOR_MANY_GUESTS)) == sorted(SYSTEMS)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("text")
    wanted = {
        "data": str(tmp_path / "data"),
        "command": ["cat", "file"],
        "path": str(tmp_path / "experiment.yml"),
        "archives": str(tmp_path / "own"),
        "schema": str(PROJECT / "reports/schema/experiment.schema.json"),
    }
    said = [line for line in run_module("compare_experiment", **wanted)["lines"] if line.startswith("left out")]
    assert len(said) == 1
    assert all(name in said[0] for name in compare.FOR_MANY_GUESTS)
    named = run_module("compare_experiment", **wanted, systems=["gfs_ksm"])["lines"]
    assert not [line for line in named if line.startswith("left out")]


def test_the_command_stays_as_it_was_written_but_for_its_places() -> None:
    words = ("awk", "{print $1}", "{data}/x", "--tmp={scratch}", "$sample", "$$", "${data}")
    document = made(*words)
    workload = workloads.parse("command", document["workloads"]["command"])
    places = Places("/data/a", "/data/b", "/scratch", "/data/a/tree/f", ["not", "these"])
    assert workloads.command_line(workload, places) == [
        ["awk", "{print $1}", "/data/a/tree/x", "--tmp=/scratch", "$sample", "$$", "$/data/a/tree"]
    ]
    assert workloads.working_directory(workload, places) == "/data/a/tree"
    assert workload.writes
    again = workloads.from_plan(json.loads(json.dumps(workload.as_dict())))
    assert again == workload


def test_nothing_is_asserted_of_what_a_command_reads() -> None:
    assert workloads.bytes_missed(Reads("some"), 1 << 30, 0) is None
    assert workloads.bytes_missed(Reads("some"), 1, 1 << 30) is None
    assert workloads.bytes_missed(Reads("all"), 1 << 30, 0)


def test_copies_are_counted_after_a_cold_start_alone() -> None:
    plan = make_plan(made("cat"), CAPABILITIES)
    counted = {(trial["host_cache"], trial["guest_cache"]) for trial in plan["trials"] if trial["kind"] == "residency"}
    assert counted == {("cold", "cold"), ("cold", "none")}
    timed = {(trial["host_cache"], trial["guest_cache"]) for trial in plan["trials"] if trial["kind"] == "timed"}
    assert {("warm", "cold"), ("warm", "warm")} < timed
    assert any("does not tell what the command read" in entry["reason"] for entry in plan["excluded"])


class _Data:
    def __init__(self, resident: dict[str, int]) -> None:
        self.resident = resident

    def resident_pages(self, parts: tuple[str, ...]) -> int:
        return sum(self.resident.get(part, 0) for part in parts)

    def overhead_pages(self) -> int:
        return 0

    def reclaimed_pages(self, parts: tuple[str, ...]) -> int:
        return 0


@pytest.mark.parametrize(
    ("host", "guest", "expected"),
    [
        ({"a/large": 10}, {"a/large": 10}, {"all": (10, 20), "large": (10, 20)}),
        ({"a/large": 12}, {"a/large": 10}, {"all": (12, 22), "large": (12, 22)}),
        ({"a/large": 10, "a/small": 4}, {"a/small": 4}, {"all": (14, 18), "large": (10, 10), "small": (4, 8)}),
        ({}, {}, {}),
    ],
)
def test_pages_of_a_command_of_ones_own(
    host: dict[str, int], guest: dict[str, int], expected: dict[str, tuple[int, int]]
) -> None:
    """What one party holds is what was read, at least; a part that nobody read has no copies."""
    workload = Workload((("x",),), Reads("some"))
    dataset = DataSet({part: [("f", 4096 * 100)] for part in ("a/large", "a/small", "b/large", "b/small")})
    held = {part: {"resident_pages": guest.get(part, 0)} for part in ("a/large", "a/small")}
    counted = measure.copies(workload, dataset, _Data(host), held)["copies"]  # type: ignore[arg-type]
    found = {name: (row["accessed_pages"], row["host_pages"] + row["guest_pages"]) for name, row in counted.items()}
    assert found == expected


@pytest.mark.parametrize(
    ("change", "error", "says"),
    [
        ({"command": ()}, OwnTreeError, "Give a command after --"),
        ({"systems": ("gsf",)}, ExperimentError, "unknown system 'gsf': did you mean 'gfs'"),
        ({"systems": ("gfs", "gfs")}, ExperimentError, "label 'gfs' is taken"),
    ],
)
def test_mistakes_are_one_line(change: dict[str, Any], error: type[Exception], says: str) -> None:
    arguments = {"command": ("cat",), "systems": (), **change}
    with pytest.raises(error, match=says) as caught:
        compare.make(Path("/d"), SURVEY, "a" * 64, arguments["command"], arguments["systems"], SCHEMA)
    assert "\n" not in str(caught.value)


def test_a_data_set_without_files_is_still_refused_where_it_is_made_from_numbers() -> None:
    document = yaml.safe_load((PROJECT / "experiments/smoke.yml").read_text())
    document["dataset"]["small_files"] = 0
    with pytest.raises(ExperimentError, match=r"dataset.small_files: 0 is too small: at least 1"):
        compare.experiment.validate(document, SCHEMA, "smoke")


def test_a_program_that_guests_lack_is_named_with_the_cure(tmp_path: Path) -> None:
    root, tree = tmp_path / "root", tmp_path / "tree"
    for path in (root / "usr/bin/cat", tree / "run.sh", tree / "text"):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch(0o755 if path.name != "text" else 0o644)
    (root / "usr/bin/awk").symlink_to("/etc/alternatives/awk")

    def missing(program: str) -> str | None:
        return guest_root.find_missing_program(program, root, tree, "trixie", ["python3"])

    assert [missing(name) for name in ("cat", "awk", "/usr/bin/cat", "./run.sh")] == [None] * 4
    for name in ("rg", "/usr/bin/rg", "./text", "./none"):
        said = missing(name) or ""
        assert f"{name!r} is not in the guest image (Debian trixie: essential packages, and python3)" in said
        assert "--packages" in said


def test_the_module_writes_once_and_refuses_before_it_packs(run_module: Run, tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data/file").write_text("text")
    wanted = {
        "data": str(tmp_path / "data"),
        "command": ["cat", "{data}/file"],
        "path": str(tmp_path / "reports/experiment.yml"),
        "archives": str(tmp_path / "own"),
        "schema": str(PROJECT / "reports/schema/experiment.schema.json"),
    }
    refused = run_module("compare_experiment", **{**wanted, "systems": ["gsf"]})
    assert refused["msg"].startswith("compare: systems[0]: unknown system 'gsf'")
    assert not (tmp_path / "own").exists()
    first = run_module("compare_experiment", **wanted)
    assert first["changed"]
    assert first["lines"][0] == f"cat '{{data}}/file' on 1 files of {tmp_path / 'data'}"
    assert not run_module("compare_experiment", **wanted)["changed"]
    assert yaml.safe_load((tmp_path / "reports/experiment.yml").read_text())["dataset"]["small_files"] == 1
