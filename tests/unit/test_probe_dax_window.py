"""The probes about mapping: the program that reads in a guest, what they count around it, and what they refuse."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible.module_utils.onecopy import experiment, io_path, perf, qemu
from ansible.module_utils.onecopy import plan as planning
from ansible.module_utils.onecopy.probes import ProbeError, Scene, file_sizes, map_cost, reader, reread
from ansible.module_utils.onecopy.systems import SYSTEMS

MIB = 1 << 20
PROJECT = Path(__file__).resolve().parents[2]
TIMERS = "now at {} nsecs\ncpu: 0\n  .idle_sleeptime  : {} nsecs\n  .iowait_sleeptime: 0 nsecs\n"


def run_here(boot: object, argv: Sequence[str]) -> dict[str, Any]:
    done = subprocess.run(argv, stderr=subprocess.PIPE, check=True)
    return {"stderr": done.stderr.decode()}


def scene_of(boot: Any = None, accelerator: str = "tcg", **changes: Any) -> Scene:
    plan = {"accelerator": accelerator}
    scene = {"boot": boot, "context": SimpleNamespace(plan=plan), "options": {}, "run": run_here} | changes
    return cast(Scene, SimpleNamespace(**scene))


# -- the program


@pytest.mark.parametrize(
    ("pattern", "span", "expected"),
    [
        ("sequential", (0, 0), 3 * MIB + 5000 + 10),
        ("random", (0, 0), 3 * MIB + 4096),
        ("mmap", (0, 0), 3 * MIB + 5000 + 10),
        ("touch", (0, 4 * MIB), 2 + 1 + 1),
    ],
)
def test_every_pattern_reads_what_it_says(tmp_path: Path, pattern: str, span: tuple[int, int], expected: int) -> None:
    sizes = (3 * MIB, 5000, 10)
    for number, size in enumerate(sizes):
        (tmp_path / str(number)).write_bytes(b"x" * size)
    boot: Any = SimpleNamespace()
    paths = [str(tmp_path / str(number)) for number in range(len(sizes))]
    found = reader.read(scene_of(boot), boot, pattern, paths, span)
    assert found.read_bytes == expected
    assert found.seconds > 0
    assert found.instructions is None  # no icount: a nanosecond is no instruction
    if pattern == "mmap":
        assert found.faults > 0


def marks(*moments: tuple[int, int]) -> dict[str, Any]:
    return {"stderr": json.dumps([8192, [[TIMERS.format(*moment), 1.0, 5] for moment in moments]])}


def test_instructions_are_busy_time_without_that_of_looking() -> None:
    answer = marks((1000, 100), (1250, 150), (9000, 1900))  # busy 900, 1100, 7100: looking takes 200
    scene = scene_of(options={"icount": True}, run=lambda boot, argv: answer)
    assert reader.read(scene, scene.boot, "sequential", ["/f"]).instructions == pytest.approx(5800)
    several = {"stderr": answer["stderr"].replace("cpu: 0", "cpu: 0\\ncpu: 1")}
    scene = scene_of(options={"icount": True}, run=lambda boot, argv: several)
    assert reader.read(scene, scene.boot, "sequential", ["/f"]).instructions is None


def test_under_kvm_the_hardware_counts_beyond_the_start(monkeypatch: pytest.MonkeyPatch) -> None:
    counts = iter([100.0, 700.0])

    @contextlib.contextmanager
    def counted(pid: int) -> Iterator[list[float]]:
        yield [next(counts)]

    monkeypatch.setattr(perf, "guest_instructions", counted)
    asked: list[Sequence[str]] = []

    def run(boot: object, argv: Sequence[str]) -> dict[str, Any]:
        asked.append(argv[3:])
        return marks((0, 0), (0, 0), (0, 0))

    scene = scene_of(SimpleNamespace(qemu_pid=1), "kvm", run=run)
    assert reader.read(scene, scene.boot, "mmap", ["/f"]).instructions == 600
    assert asked == [["sequential", "0", "0"], ["mmap", "0", "0", "/f"]]


def test_words_of_a_program_that_broke_are_shown() -> None:
    scene = scene_of(run=lambda boot, argv: {"stderr": "Traceback: no such file"})
    with pytest.raises(ProbeError, match="no such file"):
        reader.read(scene, scene.boot, "sequential", ["/f"])


def test_what_crossed_is_told_by_layer(monkeypatch: pytest.MonkeyPatch) -> None:
    taken = iter([1, 4])

    def snapshot(guests: Any, daemons: Any) -> io_path.Counters:
        number = next(taken)
        return {
            "guest": {"read_bytes": 10 * number, "pgfault": 1},
            "qemu": {
                "minor_faults": number,
                "major_faults": 0,
                "cpu_seconds_main": number,
                "cpu_seconds_vcpu": 9 * number,
            },
            "fuse": {"read_requests": 2 * number, "errors": 7},
            "daemon": {"read_call_bytes": 100 * number, "cpu_seconds_worker": 0.5 * number},
        }

    monkeypatch.setattr(io_path, "snapshot", snapshot)
    waited = iter([0.25, 1.25])
    monkeypatch.setattr(io_path, "ask", lambda path: {"window": {"map_seconds": next(waited)}})
    runner = SimpleNamespace(call=lambda op, timeout: {})
    boot: Any = SimpleNamespace(qemu_pid=1, daemon_pid=2, stats=Path("/s"), runner=runner)
    assert reader.crossed(reader.snapshot(boot), boot) == {
        "read_requests": 6,
        "qemu_faults": 3,
        "service_seconds": 2.5,
        "daemon_read_bytes": 300,
        "block_bytes": 30,
    }


# -- re-reading


def reread_scene(monkeypatch: pytest.MonkeyPatch, system: str = "myfs", short: int = 0) -> tuple[Scene, list[Any]]:
    requests = iter([0, 9, 10, 10, 20, 22, 30, 31])  # first read 9; re-reads 0, 2 and 1
    states: list[Any] = []
    monkeypatch.setattr(reader, "snapshot", lambda boot: {"read_requests": next(requests)})
    monkeypatch.setattr(reader, "guest_used_bytes", lambda boot: 50 * MIB)
    monkeypatch.setattr(reader, "window", lambda boot: {"window_bytes": 64 * MIB, "ranges_live": 3})
    monkeypatch.setattr(
        reader, "read", lambda scene, boot, pattern, paths: reader.Reading(8192 - short if paths else 0, 0.5, 4, 4096.0)
    )
    runner = SimpleNamespace(call=lambda op, timeout, parts: {"a/large": {"resident_pages": 2}})
    boot = SimpleNamespace(data_roots={"a": "/data/a"}, runner=runner)
    scene = scene_of(
        boot,
        parameters={"pattern": "sequential", "rounds": 3},
        system=SYSTEMS[system],
        reach=lambda host, guest, workload: states.append((host, guest)),
    )
    scene.context.dataset = SimpleNamespace(files={"a/large": [("a/large/1", 8192)]})  # type: ignore[misc]
    return scene, states


def test_a_re_read_is_the_median_of_the_rounds(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, states = reread_scene(monkeypatch)
    found = reread.run(scene).metrics
    assert states == [("warm", "cold")]
    assert (found["first_read_requests"], found["reread_read_requests"]) == (9, 1)
    assert found["first_instructions_per_byte"] == found["reread_instructions_per_byte"] == 0.5
    assert (found["guest_cached_bytes"], found["window_bytes"]) == (8192, 64 * MIB)


def test_where_the_host_cannot_be_warm_it_is_cold(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, states = reread_scene(monkeypatch, "gfs_direct")
    reread.run(scene)
    assert states == [("cold", "cold")]


def test_a_reading_that_fell_short_counts_for_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    scene, _ = reread_scene(monkeypatch, short=5000)
    with pytest.raises(ProbeError, match="read 3192 bytes of 8192"):
        reread.run(scene)


def test_an_unknown_pattern_is_refused() -> None:
    assert "none of sequential" in str(reread.PROBE.unsuitable(SYSTEMS["gfs"], {"pattern": "backwards"}))
    assert reread.PROBE.unsuitable(SYSTEMS["gfs"], {"pattern": "mmap"}) is None


# -- sizes of files


def test_costs_are_per_file_and_the_files_are_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[tuple[int, ...]] = []
    counts = iter(range(0, 1000, 8))

    def read(scene: Scene, boot: Any, pattern: str, paths: Sequence[str]) -> reader.Reading:
        if not paths:
            return reader.Reading(0, 0.0, 0, None)
        made.append(tuple((tmp_path / Path(path).relative_to("/scratch")).stat().st_size for path in paths))
        return reader.Reading(sum(made[-1]), 0.1, 0, 400.0)

    monkeypatch.setattr(reader, "read", read)
    monkeypatch.setattr(reader, "snapshot", lambda boot: {"requests": next(counts), "qemu_faults": 1})
    monkeypatch.setattr(reader, "guest_used_bytes", lambda boot: MIB)
    monkeypatch.setattr(reader, "window", lambda boot: {"tail_pages": 2, "window_bytes": MIB})
    runner = SimpleNamespace(call=lambda op, timeout, **arguments: {"sizes": {"resident_pages": 6}})
    boot = SimpleNamespace(plan=SimpleNamespace(share_scratch=tmp_path), scratch="/scratch", runner=runner)
    found = file_sizes.run(scene_of(boot, parameters={"sizes_kib": [4, 64], "files": 2, "rounds": 1}))
    assert made == [(4000, 4000)] * 2 + [(65440, 65440)] * 2
    assert found.series["first_requests"] == [[4096, 4.0], [65536, 4.0]]
    assert found.series["reread_instructions"] == [[4096, 200.0], [65536, 200.0]]
    assert found.series["guest_cached_bytes"] == [[4096, 3 * 4096], [65536, 3 * 4096]]
    assert found.metrics["first_requests"] == 16
    assert found.metrics["second_copy_bytes"] == 2 * 2 * 4096
    assert list(tmp_path.iterdir()) == []


def test_an_image_has_no_threshold() -> None:
    assert "no threshold" in str(file_sizes.PROBE.unsuitable(SYSTEMS["gfs"], {}))
    assert file_sizes.PROBE.unsuitable(SYSTEMS["virtiofs_auto"], {}) is None


# -- many mappings


class Mapping:
    """A window whose every mapping takes a millisecond per range that is live."""

    def __init__(self, tmp_path: Path, ranges: int, lost: int = 0, copies: int = 1) -> None:
        self.copies = copies
        self.live = self.copied = 0
        self.seconds = 0.0
        self.loses = lost
        self.size = ranges * reader.RANGE_BYTES
        self.path = tmp_path / "sparse"

    def read(
        self, scene: Scene, boot: Any, pattern: str, paths: Sequence[str], span: tuple[int, int] = (0, 0)
    ) -> reader.Reading:
        if pattern == "sequential":
            self.copied += sum((self.path.parent / Path(path).relative_to("/scratch")).stat().st_size for path in paths)
            return reader.Reading(0, 0.1, 0, None)
        assert (pattern, paths) == ("touch", ["/scratch/sparse"])
        start, end = (offset // reader.RANGE_BYTES for offset in span)
        assert self.path.stat().st_size >= span[1]
        for _ in range(start, end):
            self.seconds += 0.001 * self.live
            self.live += 1
        self.live -= self.loses
        return reader.Reading(end - start, 0.5, 0, None)

    def snapshot(self, boot: Any) -> dict[str, float]:
        return {"read_bytes": self.copied * self.copies, "service_seconds": self.copied / MIB}

    def window(self, boot: Any) -> dict[str, Any]:
        live = {"maps_total": self.live, "ranges_live": self.live}
        return {"window_bytes": self.size, "map_seconds": self.seconds, **live}


def map_scene(machine: Mapping, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Scene:
    monkeypatch.setattr(reader, "read", machine.read)
    monkeypatch.setattr(reader, "window", machine.window)
    monkeypatch.setattr(reader, "snapshot", machine.snapshot)
    monkeypatch.setattr(reader, "guest_used_bytes", lambda boot: MIB)
    monkeypatch.setattr(io_path, "process_counters", lambda pid: {"cpu_seconds_main": 2.0})
    text = {"human-readable-text": "title\n" + "block\n" * 7}
    monkeypatch.setattr(qemu, "qmp", lambda path, command, timeout: text)
    plan = SimpleNamespace(share_scratch=tmp_path)
    boot = SimpleNamespace(plan=plan, scratch="/scratch", qmp=Path("/q"), qemu_pid=1)
    return scene_of(boot, parameters={"ranges": [50, 100, 500], "sampled": 10})


def test_a_mapping_costs_more_the_more_there_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Mapping(tmp_path, 200)
    found = map_cost.run(map_scene(machine, tmp_path, monkeypatch))
    assert found.metrics["map_at_50_seconds"] == pytest.approx(0.0445)
    assert found.metrics["map_at_100_seconds"] == pytest.approx(0.0945)
    assert found.metrics["regions_at_100"] == 7
    assert found.metrics["copy_seconds_per_byte"] == pytest.approx(1 / MIB)
    assert [step for step, _ in found.series["map_seconds_by_live_ranges"]] == [50, 100]  # 500 do not fit
    assert list(tmp_path.iterdir()) == []


def test_ranges_that_were_taken_back_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    scene = map_scene(Mapping(tmp_path, 200, lost=1), tmp_path, monkeypatch)
    with pytest.raises(ProbeError, match="9 maps for 10 ranges, 48 live where 50 were wanted"):
        map_cost.run(scene)
    assert list(tmp_path.iterdir()) == []


def test_where_small_files_are_mapped_there_is_nothing_to_compare_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ProbeError, match="0 bytes were copied: inode_dax_kib must be above 256"):
        map_cost.run(map_scene(Mapping(tmp_path, 200, copies=0), tmp_path, monkeypatch))
    assert list(tmp_path.iterdir()) == []


def test_a_window_that_is_too_small_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProbeError, match="16 ranges can be live"):
        map_cost.run(map_scene(Mapping(tmp_path, 20), tmp_path, monkeypatch))


# -- the experiment


def test_a_probe_is_put_to_the_labels_that_it_names() -> None:
    schema = json.loads((PROJECT / "reports/schema/experiment.schema.json").read_text())
    document = experiment.load(PROJECT / "experiments/dax_window.yml", schema)
    able = {name: {"supported": True} for name in ("qemu", "virtiofsd", "vhost_user_shmem")}
    plan = planning.make_plan(document, {"accelerator": "tcg", **able})
    asked = {(trial["workload"], trial["label"]) for trial in plan["trials"]}
    assert {label for probe, label in asked if probe == "map_cost"} == {"myfs_window_8192"}
    assert ("reread", "virtiofs_auto") in asked
    assert ("file_sizes", "virtiofs_auto") not in asked
    document["probes"][0]["only"] = ["myfs_windw_16"]
    with pytest.raises(experiment.ExperimentError, match=r"probes\[0\].only: unknown label 'myfs_windw_16': did you"):
        experiment.validate(document, schema, "x.yml")
