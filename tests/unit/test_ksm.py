"""KSM: its counters here and elsewhere, and when merging is done. Nothing is switched on."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import ksm
from hypothesis import given
from hypothesis import strategies as st

COUNTERS = {
    "pages_shared": 10,
    "pages_sharing": 90,
    "pages_unshared": 5,
    "pages_volatile": 1,
    "full_scans": 3,
    "ksm_zero_pages": 7,
    "pages_scanned": 5000,
}


def _directory(path: Path, counters: dict[str, int]) -> Path:
    for name, value in counters.items():
        (path / name).write_text(f"{value}\n")
    return path


def _series(sharing: Sequence[int], scans: Sequence[int]) -> list[ksm.Sample]:
    return [
        ksm.Sample(float(second), 1, pages, 0, 0, 0, scan, None, None)
        for second, (pages, scan) in enumerate(zip(sharing, scans, strict=True))
    ]


def test_all_counters_are_read(tmp_path: Path) -> None:
    (tmp_path / "77").mkdir()
    (tmp_path / "77" / "schedstat").write_text("4500000000 1 2\n")
    taken = ksm.sample(1.5, _directory(tmp_path, COUNTERS), tmp_path / "77")
    assert taken == ksm.Sample(1.5, 10, 90, 5, 1, 7, 3, 5000, 4.5)
    assert taken.saved_bytes == 97 * 4096


def test_an_older_kernel_lacks_some(tmp_path: Path) -> None:
    older = {
        name: COUNTERS[name]
        for name in ("pages_shared", "pages_sharing", "pages_unshared", "pages_volatile", "full_scans")
    }
    taken = ksm.sample(0, _directory(tmp_path, older))
    assert (taken.zero_pages, taken.pages_scanned, taken.cpu_seconds) == (0, None, None)


def test_a_kernel_without_ksm_says_so(tmp_path: Path) -> None:
    with pytest.raises(ksm.KsmAbsentError, match="has no KSM"):
        ksm.sample(0, tmp_path)


@pytest.mark.skipif(not ksm.DIRECTORY.exists(), reason="this kernel has no KSM")
def test_this_kernel_answers() -> None:
    taken = ksm.sample(0)
    assert taken.pages_sharing >= 0
    assert ksm.process_merged_pages(os.getpid()) == 0


def test_ksmd_is_found_by_its_name(tmp_path: Path) -> None:
    for pid, name in (("1", "init"), ("40", "ksmd"), ("41", "ksmd-like")):
        (tmp_path / pid).mkdir()
        (tmp_path / pid / "comm").write_text(f"{name}\n")
    (tmp_path / "self").mkdir()
    boxed = tmp_path / "bound"
    assert ksm.find_ksmd(tmp_path, boxed) == tmp_path / "40"
    (tmp_path / "40" / "comm").unlink()
    assert ksm.find_ksmd(tmp_path, boxed) is None
    boxed.mkdir()
    (boxed / "comm").write_text("ksmd\n")
    assert ksm.find_ksmd(tmp_path, boxed) == boxed


@pytest.mark.parametrize(
    ("text", "expected"),
    [("ksm_rmap_items 5\nksm_merging_pages 12\n", 12), ("ksm_rmap_items 5\nksm_merge_any: no\n", None)],
)
def test_merged_pages_of_a_process(tmp_path: Path, text: str, expected: int | None) -> None:
    (tmp_path / "5").mkdir()
    (tmp_path / "5" / "ksm_stat").write_text(text)
    assert ksm.process_merged_pages(5, tmp_path) == expected


@pytest.mark.parametrize(
    ("sharing", "scans", "expected"),
    [
        ([], [], None),
        ([0, 500, 900, 1000, 1000, 1000, 1000], [0, 1, 2, 3, 4, 5, 6], 3),
        ([0, 500, 900, 1000, 1000, 1000], [0, 1, 2, 3, 4, 5], None),  # one whole scan since, and the rest of one
        ([500, 500], [7, 9], None),  # many pages were visited once: what is to be merged comes at the next scan
        ([0, 500, 995, 1000, 1001, 1004], [0, 1, 2, 3, 4, 5], 2),  # within one per cent
        ([1000, 1000, 1000, 1000], [4, 4, 4, 4], None),  # time alone proves nothing
        ([0, 0, 0, 0], [0, 1, 2, 3], 0),  # nothing to merge
        ([0, 1000, 1000, 1000, 400], [0, 1, 2, 3, 4], None),  # unshared again
        ([100, 300, 500, 700, 900], [1, 2, 3, 4, 5], None),
    ],
)
def test_merging_is_done_when_whole_scans_change_nothing(
    sharing: list[int], scans: list[int], expected: int | None
) -> None:
    assert ksm.plateau(_series(sharing, scans), is_smart=False) == expected


@pytest.mark.parametrize(("scans", "expected"), [(18, None), (19, 1)])
def test_a_page_that_is_passed_by_may_wait_eight_scans_twice(scans: int, expected: int | None) -> None:
    assert ksm.plateau(_series([0, 900, 900], [3, 4, 4 + scans]), is_smart=True) == expected


@given(st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 9)), min_size=1, max_size=40), st.booleans())
def test_a_plateau_is_flat_and_long_enough(steps: list[tuple[int, int]], is_smart: bool) -> None:
    passed = 0
    counts = []
    for _, more in steps:
        passed += more
        counts.append(passed)
    samples = _series([pages for pages, _ in steps], counts)
    start = ksm.plateau(samples, is_smart)
    if start is not None:
        last = samples[-1]
        assert last.full_scans - samples[start].full_scans >= (19 if is_smart else 3)
        allowed = max(1, 0.01 * last.pages_sharing)
        assert all(abs(one.pages_sharing - last.pages_sharing) <= allowed for one in samples[start:])
        assert start == 0 or abs(samples[start - 1].pages_sharing - last.pages_sharing) > allowed


def test_the_cost_is_a_difference_with_zero_pages_apart() -> None:
    baseline = ksm.Sample(10, 5, 20, 0, 0, 3, 1, 100, 0.5)
    reached = ksm.Sample(40, 9, 120, 0, 0, 13, 4, 900, 2.0)
    assert ksm.cost(baseline, reached) == ksm.Cost(30, 3, 110 * 4096, 10, 800, 1.5)
    assert ksm.cost(baseline._replace(cpu_seconds=None), reached).cpu_seconds is None
