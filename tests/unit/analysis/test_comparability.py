"""Runs are compared only when nothing but what is under test differs."""

from __future__ import annotations

import copy
from typing import Any

import invented
import pytest
from ansible.module_utils.onecopy.analysis import comparability


def changed(path: str, value: Any) -> dict[str, Any]:
    document = copy.deepcopy(invented.manifest())
    *steps, last = path.split("/")
    place: Any = document
    for step in steps:
        place = place[step]
    place[last] = value
    return document


def test_a_run_may_be_compared_with_itself() -> None:
    assert comparability.require_comparable(invented.manifest(), invented.manifest()) == []


HOST = f"hosts/{invented.HOST}"


@pytest.mark.parametrize(
    ("path", "value", "what"),
    [
        ("accelerator", "kvm", "accelerator: tcg against kvm"),
        ("controller/git_revision", "1" * 40, "kit revision"),
        ("controller/git_dirty", True, "uncommitted changes: False against True"),
        (f"{HOST}/cpu_model", "Another CPU", "CPU: Invented CPU at 1 GHz against Another CPU"),
        (f"{HOST}/kernel", "7.2.0", "kernel"),
        (f"{HOST}/versions/qemu", "QEMU 12", "QEMU"),
        (f"{HOST}/guest/root_sha256", "b" * 64, "guest image"),
        (f"{HOST}/guest", {}, "guest kernel: 6.12.0-invented against not recorded"),
    ],
)
def test_what_differs_is_refused_by_name(path: str, value: Any, what: str) -> None:
    with pytest.raises(comparability.NotComparableError, match=what) as caught:
        comparability.require_comparable(invented.manifest(), changed(path, value))
    assert "\n" not in str(caught.value)


def test_who_wants_it_anyway_is_told_on_top() -> None:
    warnings = comparability.require_comparable(invented.manifest(), changed("accelerator", "kvm"), anyway=True)
    assert warnings == ["not comparable, compared all the same: accelerator: tcg against kvm"]


def test_one_host_may_have_another_name() -> None:
    other = invented.manifest()
    other["hosts"] = {"elsewhere": other["hosts"][invented.HOST]}
    assert comparability.differences(invented.manifest(), other) == []


def test_several_hosts_are_compared_by_name() -> None:
    other = invented.manifest()
    other["hosts"] = {invented.HOST: other["hosts"][invented.HOST], "second": {"kernel": "7.2.0"}}
    assert [str(found) for found in comparability.differences(invented.manifest(), other)] == [
        "kernel of second: not recorded against 7.2.0"
    ]
