"""The path length: what it divides by what, whom it refuses, and how a guest and a host tell how much was executed."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import jsonschema
import pytest
import tiny
from ansible.module_utils.onecopy import experiment, perf, qemu, records, runner_kernel, slices
from ansible.module_utils.onecopy import plan as planning
from ansible.module_utils.onecopy.paths import HostPaths
from ansible.module_utils.onecopy.probes import path_length
from ansible.module_utils.onecopy.systems import SYSTEMS
from fake_testbed import FakeTestbed
from tiny import ABLE, RUN

PROJECT = Path(__file__).resolve().parents[2]
DATA = PROJECT / "tests/data"
SCHEMA = json.loads((PROJECT / "reports/schema/experiment.schema.json").read_text())
RECORD = jsonschema.Draft202012Validator(json.loads((PROJECT / "reports/schema/record.schema.json").read_text()))
LARGE, SMALL = 300_000, 3000
EXPERIMENT = tiny.experiment(
    systems=[{"system": "virtiofs_auto", "options": {"icount": True}}], probes=[{"probe": "path_length", "rounds": 2}]
)


def record_of(paths: HostPaths, accelerator: str = "tcg", answer: Any = None, **changes: Any) -> dict[str, Any]:
    document = experiment.validate(EXPERIMENT | changes, SCHEMA, "tiny.yml")
    plan = planning.make_plan(document, ABLE | {"accelerator": accelerator})
    tiny.lay_out(paths, LARGE, SMALL)
    paths.run(RUN).mkdir(parents=True)
    bed = FakeTestbed(paths.state, answer=answer or {})
    slices.run_slice(plan, RUN, "box1", paths, bed=bed, drop_host=lambda: None)
    (record,) = records.read(paths.run(RUN) / "results.jsonl").records
    RECORD.validate(record)
    return record


def test_busy_time_by_the_bytes_wanted(disk_path: Path) -> None:
    record = record_of(HostPaths(disk_path), answer={"busy_seconds": 0.000606})
    assert record["status"] == "ok", record
    assert record["probe"]["metrics"] == {
        "cold_instructions_per_byte": pytest.approx(2.0),
        "cold_spread_ratio": 0.0,
        "warm_instructions_per_byte": pytest.approx(2.0),
        "warm_spread_ratio": 0.0,
        "cold_by_warm_ratio": pytest.approx(1.0),
    }


def test_a_guest_that_cannot_tell_is_a_failed_trial(disk_path: Path) -> None:
    record = record_of(HostPaths(disk_path))
    assert (record["status"], record["message"][:15]) == ("failed", "the guest canno")


def test_without_icount_a_nanosecond_is_no_instruction(disk_path: Path) -> None:
    record = record_of(HostPaths(disk_path), answer={"busy_seconds": 1.0}, systems=["virtiofs_auto"])
    assert record["status"] == "failed"
    assert "options: {icount: true}" in record["message"]


def test_reading_too_little_counts_for_nothing(disk_path: Path) -> None:
    record = record_of(HostPaths(disk_path), answer={"busy_seconds": 1.0, "read_bytes": 10})
    assert record["status"] == "failed"
    assert "read 10 bytes where" in record["message"]


@pytest.mark.parametrize(
    ("system", "parameters", "reason"),
    [
        ("gfs", {}, None),
        ("gfs", {"workload": "find"}, "'find' is none"),
        ("gfs", {"workload": "cp"}, "'cp' is none"),
        ("gfs", {"workload": "grep"}, "'grep' is none"),
        ("gfs", {"workload": "catt"}, "'catt' is none"),
    ],
)
def test_whom_it_refuses(system: str, parameters: dict[str, Any], reason: str | None) -> None:
    found = path_length.unsuitable(SYSTEMS[system], path_length.PROBE.parameters | parameters)
    assert (found is None) if reason is None else reason in str(found)


def test_the_disk_is_slowed_down_meanwhile_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(qemu, "qmp", lambda path, command, **arguments: asked.append({"command": command, **arguments}))
    boot: Any = SimpleNamespace(qmp=Path("qmp.sock"))

    def fail() -> None:
        with path_length._throttled(boot, 1000):
            raise OSError("lost")

    with pytest.raises(OSError, match="lost"):
        fail()
    assert [(one["command"], one["device"], one["bps"]) for one in asked] == [
        ("block_set_io_throttle", "data", 1000),
        ("block_set_io_throttle", "data", 0),
    ]
    assert all(one["iops"] == one["bps_rd"] == 0 for one in asked)
    with path_length._throttled(boot, 0):
        assert len(asked) == 2


def test_the_guest_tells_its_busy_time_from_the_timers() -> None:
    text = (DATA / "timer-list-linux-6.12-one-cpu.txt").read_text()
    busy = runner_kernel.busy_seconds(text)
    assert busy is not None
    now = next(int(line.split()[2]) for line in text.splitlines() if line.startswith("now at"))
    assert 0 < busy < now / 1e9


def test_with_several_cpus_it_says_nothing() -> None:
    text = (DATA / "timer-list-linux-6.12-one-cpu.txt").read_text()
    assert runner_kernel.busy_seconds(text + "\ncpu: 1\n") is None
    assert runner_kernel.busy_seconds("") is None


def test_what_perf_says() -> None:
    assert perf.parse("# started\n\n123456,,instructions:G,1000,100.00,,\n") == 123456.0
    with pytest.raises(perf.PerfError, match="perf says <not supported>"):
        perf.parse("<not supported>,,instructions:G,0,100.00,,\n")
    with pytest.raises(perf.PerfError, match="it says Error: no such process"):
        perf.parse("\nError: no such process\n")
    with pytest.raises(perf.PerfError, match="it says nothing"):
        perf.parse("")


def test_without_perf_a_kvm_host_says_so(disk_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(perf.PerfError, match="perf cannot be started"), perf.guest_instructions(1):
        pass
