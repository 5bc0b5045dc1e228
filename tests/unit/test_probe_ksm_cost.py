"""What merging costs and misses, with a scanner that is played: a page is merged when it has lived for ten seconds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible.module_utils.onecopy import dataset_frames, ksm
from ansible.module_utils.onecopy.probes import Probed, ProbeError, Scene, ksm_cost, merging, why_unsuitable
from ansible.module_utils.onecopy.systems import SYSTEMS

LARGE, SMALL = 100, 50
PARAMETERS = {"pages_to_scan": 100, "sleep_millisecs": 20, "smart_scan": True, "aged": False}
PARAMETERS |= {"lives": [1, 30], "limit_seconds": 60.0}


@dataclass
class Machine:
    """Guests and KSM. Reading a page takes no time; scanning visits ten pages a second."""

    guests: int = 1
    scan_seconds: float = 10.0
    now: float = 0.0
    reads: list[tuple[float, int]] = field(default_factory=list)
    settings_seen: list[Mapping[str, Any]] = field(default_factory=list)
    scrubbed: int = 0
    plateau: bool = True
    dropped: int = 0  # pages that the guests lost again before they were looked for
    wanted: list[list[str]] = field(default_factory=list)

    def call(self, op: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        if op == "drop":
            self.reads.clear()
        return {"MemFree": 100 << 20}

    def read(self, boot: object, part: str, tree: str = "a") -> None:
        self.reads.append((self.now, LARGE if part else LARGE + SMALL))

    def run(self, boot: object, argv: list[str]) -> None:
        self.scrubbed += argv[0] == "dd" and "count=68" in argv

    def set(self, **settings: Any) -> None:
        self.settings_seen.append(settings)

    def unmerge(self) -> None:
        pass

    def settings(self) -> dict[str, str]:
        return {"pages_to_scan": "100"}

    def frames(self) -> int:
        """Stands for the frames behind all pages: how many of the pages that were read are merged."""
        return sum(pages for at, pages in self.reads if self.now - at >= self.scan_seconds)

    def places(self) -> list[range]:
        return [range(sum(pages for _, pages in self.reads) - self.dropped)]

    def wanted_pages(self, manifest: str, parts: list[str]) -> set[bytes]:
        self.wanted.append(list(parts))
        return set()

    def sample(self) -> ksm.Sample:
        merged = self.frames()
        # Two places of each page: one frame stays, one is saved. Seven were merged before.
        return ksm.Sample(self.now, merged // 2, 7 + merged // 2, 0, 0, 3, 0, int(10 * self.now), self.now / 100)

    def watch(self, limit_seconds: float) -> tuple[list[ksm.Sample], int | None]:
        if not self.reads:
            return [self.sample()], 0
        samples = []
        for _ in range(5):
            self.now += 4
            samples.append(self.sample())
        return samples, 2 if self.plateau else None

    @contextmanager
    def scanning(self, scene: Scene, settings: Mapping[str, Any]) -> Iterator[Machine]:
        self.settings_seen.append(settings)
        yield self


def probe(machine: Machine, monkeypatch: pytest.MonkeyPatch, memory: str = "merge=on", **parameters: Any) -> Probed:
    def sleep(seconds: float) -> None:
        machine.now += seconds

    monkeypatch.setattr(ksm_cost, "time", SimpleNamespace(monotonic=lambda: machine.now, sleep=sleep))
    monkeypatch.setattr(ksm_cost, "scanning", machine.scanning)
    monkeypatch.setattr(merging, "ReadPages", lambda qemus, wanted: machine)
    monkeypatch.setattr(ksm_cost, "merged", lambda frames, places: frames)
    monkeypatch.setattr(dataset_frames, "wanted_pages", machine.wanted_pages)
    files = {"a/large": [("a/large/one", LARGE * 4096)], "a/small": [("a/small/many", SMALL * 4096)]}
    boots = [
        SimpleNamespace(runner=machine, qemu_pid=1, command_lines={"qemu": [f"memory-backend-ram,{memory}"]})
        for _ in range(machine.guests)
    ]
    scene = SimpleNamespace(
        boot=boots[0],
        boots=boots,
        parameters=PARAMETERS | parameters,
        read=machine.read,
        run=machine.run,
        context=SimpleNamespace(
            dataset=SimpleNamespace(files=files, pages=lambda parts: LARGE + SMALL, large_file=lambda: "a/large/one"),
            paths=SimpleNamespace(dataset_manifest=lambda name: name),
            plan={"dataset": {"name": "invented"}},
        ),
    )
    return ksm_cost.run(cast(Scene, scene))


@pytest.mark.parametrize(("scan_seconds", "ratios"), [(200.0, [0, 0, 0, 0]), (10.0, [0, 0, 1, 1])])
def test_all_lives_are_seen_in_one_observation(
    monkeypatch: pytest.MonkeyPatch, scan_seconds: float, ratios: list[int]
) -> None:
    machine = Machine(guests=2, scan_seconds=scan_seconds)
    found = probe(machine, monkeypatch, lives=[120, 1, 30, 5])
    lives = (1, 5, 30, 120)
    assert [found.metrics[f"merged_after_{life}s_ratio"] for life in lives] == ratios
    assert found.series["merged_by_life_ratio"] == [list(point) for point in zip(lives, ratios, strict=True)]
    whole_set = found.series["saved_bytes"][-1][0]
    assert machine.now == whole_set + 120
    assert machine.wanted == [["large", "small"], ["large/one"]]


def test_pages_that_a_guest_dropped_meanwhile_end_it(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProbeError, match="the guests cache 296 of the 300 pages that they read: give them more memory"):
        probe(Machine(guests=2, dropped=4), monkeypatch)


def test_without_lives_no_file_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(guests=2)
    found = probe(machine, monkeypatch, lives=[])
    assert "merged_by_life_ratio" not in found.series
    assert machine.scrubbed == 2


@pytest.mark.parametrize("guests", [1, 2])
def test_every_place_is_merged_and_short_lives_are_missed(guests: int, monkeypatch: pytest.MonkeyPatch) -> None:
    machine = Machine(guests)
    found = probe(machine, monkeypatch)
    pages = LARGE + SMALL
    assert found.metrics["merged_ratio"] == 1.0
    assert found.metrics["saved_bytes"] == pages * 4096
    assert found.metrics["baseline_merged_bytes"] == 7 * 4096
    assert found.metrics["zero_saved_bytes"] == 0
    assert found.metrics["plateau_seconds"] == 12.0
    assert found.metrics["ksmd_cpu_seconds"] == pytest.approx(0.12)
    assert found.metrics["scanned_per_saved_ratio"] == pytest.approx(120 / pages)
    assert found.metrics["merged_after_1s_ratio"] == 0
    assert found.metrics["merged_after_30s_ratio"] == 1.0
    assert found.series["merged_by_life_ratio"] == [[1.0, 0.0], [30.0, 1.0]]
    assert found.series["saved_bytes"][0] == [4.0, 0]
    assert machine.scrubbed == 2 * guests, "freed pages are overwritten before each part"


@pytest.mark.parametrize(
    ("aged", "smart", "between"),
    [(False, True, []), (True, True, [{"smart_scan": 1}]), (True, False, [])],
)
def test_the_tested_setting_is_the_last_one_before_the_read(
    aged: bool, smart: bool, between: list[Mapping[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    machine = Machine()
    probe(machine, monkeypatch, aged=aged, smart_scan=smart)
    tested = {"smart_scan": int(smart), "pages_to_scan": 100, "sleep_millisecs": 20}
    first, *others = machine.settings_seen
    assert first == tested
    assert others == 2 * [merging.FAST, *between, tested]


def test_a_plateau_that_was_not_reached_is_absent_and_said(monkeypatch: pytest.MonkeyPatch) -> None:
    found = probe(Machine(plateau=False), monkeypatch)
    assert "plateau_seconds" not in found.metrics
    assert found.notes.startswith("no plateau within 60 s; settings: pages_to_scan 100")


def test_memory_that_cannot_be_merged_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ProbeError, match="private_merge"):
        probe(Machine(), monkeypatch, memory="size=1")


@pytest.mark.parametrize("system", ["virtiofs_auto", "myfs", "gfs_pmem_dax"])
def test_systems_without_private_memory_are_left_out_with_the_reason(system: str) -> None:
    reason = why_unsuitable(ksm_cost.PROBE, SYSTEMS[system], {})
    assert reason is not None
    assert reason.startswith("KSM merges private memory alone")
    assert why_unsuitable(ksm_cost.PROBE, SYSTEMS["gfs_direct"], {}) is None
