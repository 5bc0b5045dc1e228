"""Bounds and advice."""

from __future__ import annotations

import pytest
from ansible.module_utils.onecopy import audit_judge
from ansible.module_utils.onecopy.audit_judge import Memory, Source, judge_guest, judge_host, judge_source

MIB = 1 << 20
IMAGE = Source("image", "/a.img", 100 * MIB)
SHARE = Source("share", "virtiofsd /d", 100 * MIB)


def guest(
    *sources: Source, backed: int | None = 512 * MIB, cached: int | None = None, reporting: bool = True
) -> audit_judge.Verdict:
    return judge_guest(Memory(1024 * MIB, backed, cached, balloon=True, free_page_reporting=reporting), sources)


@pytest.mark.parametrize(
    ("source", "duplicated", "remedy"),
    [
        (IMAGE, 100 * MIB, "image_direct"),
        (Source("image", "a", 0), 0, "none"),
        (Source("image", "a", None), None, "none"),
        (Source("image", "a", 5, direct=True), 5, "drop_leftover"),
        (Source("image", "a", 5, guests=3), 5, "base_dax"),
        (Source("pmem", "a", 5), 5, "pmem_dax_mount"),
        (SHARE, 100 * MIB, "share_no_guest_cache"),
        (Source("share", "s", 5, guest_caches=False), 0, "none"),
        (Source("share", "s", 0), 0, "none"),
        (Source("share", "s", 9, dax=True, mapped=4), 0, "none"),
        (Source("share", "s", 9, dax=True, mapped=4, outside_dax=3), 3, "share_all_dax"),
        (Source("share", "s", 9, dax=True), 9, "share_all_dax"),
        (Source("share", "s", 3, dax=True, outside_dax=3), 3, "share_all_dax"),
    ],
)
def test_each_source(source: Source, duplicated: int | None, remedy: str) -> None:
    finding = judge_source(source)
    assert (finding.duplicated, finding.remedy) == (duplicated, remedy)


def test_bound_is_the_sum_over_the_sources() -> None:
    verdict = guest(IMAGE, SHARE)
    assert (verdict.duplicated_at_most, verdict.limited_by, verdict.complete) == (200 * MIB, "host_cache", True)


def test_guest_cannot_hold_more_than_its_backed_memory() -> None:
    verdict = guest(IMAGE, backed=30 * MIB)
    assert (verdict.duplicated_at_most, verdict.limited_by, verdict.saves_at_most) == (
        30 * MIB,
        "guest_memory",
        30 * MIB,
    )


def test_guest_cannot_hold_more_than_its_page_cache() -> None:
    verdict = guest(IMAGE, cached=20 * MIB)
    assert (verdict.duplicated_at_most, verdict.limited_by) == (20 * MIB, "guest_cache")


def test_unknown_backing_falls_back_to_all_memory() -> None:
    assert guest(Source("image", "a", 5000 * MIB), backed=None).duplicated_at_most == 1024 * MIB


def test_unknown_source_makes_the_bound_the_limit_and_says_so() -> None:
    verdict = guest(IMAGE, Source("share", "s", None))
    assert (verdict.duplicated_at_most, verdict.complete, verdict.limited_by) == (512 * MIB, False, "guest_memory")
    assert verdict.setting == "image_direct"


def test_largest_source_decides() -> None:
    verdict = guest(Source("image", "small", 20 * MIB), Source("share", "large", 90 * MIB))
    assert (verdict.setting, verdict.subject, verdict.saves_at_most) == ("share_no_guest_cache", "large", 90 * MIB)


def test_little_is_not_worth_a_setting() -> None:
    verdict = guest(Source("image", "a", MIB))
    assert (verdict.setting, verdict.duplicated_at_most) == ("none", MIB)


def test_memory_that_never_comes_back_is_the_next_advice() -> None:
    assert guest(reporting=False, backed=900 * MIB).setting == "free_page_reporting"
    assert guest(reporting=False, backed=100 * MIB).setting == "none"


def test_host_takes_the_setting_that_ends_most() -> None:
    base = Source("image", "base", 60 * MIB, guests=2)
    host = judge_host([guest(base), guest(base), guest(IMAGE)])
    assert (host.duplicated_at_most, host.setting, host.saves_at_most) == (220 * MIB, "base_dax", 120 * MIB)


def test_host_without_guests() -> None:
    host = judge_host([])
    assert (host.duplicated_at_most, host.setting, host.complete) == (0, "none", True)


def test_ksm_with_shared_memory_is_noted() -> None:
    state = {"guests": 2, "thp": None, "shmem_thp": None}
    assert len(audit_judge.host_notes(ksm_running=True, pages_sharing=0, shared_memory_guests=1, **state)) == 2
    assert audit_judge.host_notes(ksm_running=False, pages_sharing=0, shared_memory_guests=1, **state) == []
