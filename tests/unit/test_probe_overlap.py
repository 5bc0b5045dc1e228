"""Sets of files that overlap, and what holds them, with guests and a host that are played."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ansible.module_utils.onecopy import dataset_frames, merged_places
from ansible.module_utils.onecopy.probes import Probed, ProbeError, Scene, merging, overlap

FILES = [f"a/large/{number}" for number in range(8)]
PAGES = 10


@pytest.mark.parametrize("guests", [2, 4])
@pytest.mark.parametrize("share", [0.0, 0.5, 1.0])
def test_sets_have_one_size_and_overlap_as_asked(guests: int, share: float) -> None:
    sets = overlap.file_sets(FILES, guests, share)
    assert {len(names) for names in sets} == {8 // guests}
    assert {len(set(names)) for names in sets} == {8 // guests}
    common = set.intersection(*map(set, sets))
    assert len(common) == share * 8 // guests
    assert all(set(one) & set(other) == common for one in sets for other in sets if one is not other)


@pytest.mark.parametrize(
    ("files", "share", "words"), [(3, 0.5, "take more"), (1, 0.0, "take more"), (8, 1.5, "from 0 to 1")]
)
def test_what_cannot_be_dealt_is_refused(files: int, share: float, words: str) -> None:
    with pytest.raises(ProbeError, match=words):
        overlap.file_sets(FILES[:files], 2, share)


class Guest:
    qemu_pid = 1

    def __init__(self, host: set[str], keeps: bool) -> None:
        self.host, self.keeps = host, keeps
        self.cached: set[str] = set()
        self.data_roots = {"a": "/data/a"}
        self.runner = self

    def call(self, op: str, timeout: float, **arguments: Any) -> dict[str, Any]:
        assert (op, arguments) == ("residency", {"parts": {"a/large": "/data/a/large"}})
        return {"a/large": {"resident_pages": PAGES * len(self.cached) if self.keeps else 0}}


def probe(
    monkeypatch: pytest.MonkeyPatch,
    share: float,
    *,
    host_keeps: bool = True,
    guest_keeps: bool = True,
    merges: bool = False,
) -> Probed:
    host: set[str] = set()
    guests = [Guest(host, guest_keeps) for _ in range(2)]

    def run(boot: Guest, argv: list[str]) -> None:
        assert argv[0] == "cat"
        boot.cached |= set(argv[1:])
        host.update(argv[1:])

    def read_pages(qemus: list[int], wanted: object) -> SimpleNamespace:
        assert (qemus, wanted) == ([1, 1], {name.removeprefix("a/") for name in FILES[: 4 if share else 8]})
        return SimpleNamespace(frames=lambda: None, places=lambda: set().union(*(guest.cached for guest in guests)))

    @contextmanager
    def fast_scanner(scene: object) -> Iterator[Any]:
        yield SimpleNamespace() if merges else None

    monkeypatch.setattr(overlap, "fast_scanner", fast_scanner)
    monkeypatch.setattr(overlap, "settings_note", lambda scanner: "settings: ksm_run 1")
    monkeypatch.setattr(overlap, "settle", lambda scanner: None)
    monkeypatch.setattr(merging, "ReadPages", read_pages)
    monkeypatch.setattr(merged_places, "distinct", lambda frames, places: PAGES * len(places))
    monkeypatch.setattr(dataset_frames, "wanted_pages", lambda manifest, files: files)
    scene = SimpleNamespace(
        boots=guests,
        parameters={"overlap": share},
        context=SimpleNamespace(
            dataset=SimpleNamespace(files={"a/large": [(name, PAGES * 4096) for name in FILES]}),
            paths=SimpleNamespace(dataset_manifest=lambda name: name),
            plan={"dataset": {"name": "invented"}},
        ),
        reach=lambda *states: None,
        run=run,
        data=SimpleNamespace(resident_pages=lambda parts: PAGES * len(host) if host_keeps else 0),
    )
    return overlap.run(cast(Scene, scene))


@pytest.mark.parametrize(("share", "ideal"), [(0.0, 1.0), (0.5, 0.75), (1.0, 0.5)])
def test_who_shares_follows_the_overlap_and_who_does_not_stays(
    monkeypatch: pytest.MonkeyPatch, share: float, ideal: float
) -> None:
    shared = probe(monkeypatch, share, guest_keeps=False).metrics
    assert shared["ideal_ratio"] == ideal
    assert shared["frames_per_read_ratio"] == ideal
    assert shared["copies_ratio"] == 1.0
    private = probe(monkeypatch, share, host_keeps=False).metrics
    assert private["frames_per_read_ratio"] == 1.0
    assert private["copies_ratio"] == 1.0 / ideal
    twice = probe(monkeypatch, share).metrics
    assert twice["frames_per_read_ratio"] == 1.0 + ideal


def test_merged_pages_count_once(monkeypatch: pytest.MonkeyPatch) -> None:
    merged = probe(monkeypatch, 1.0, host_keeps=False, merges=True).metrics
    assert merged["merged_pages"] == 4 * PAGES
    assert merged["copies_ratio"] == 1.0
