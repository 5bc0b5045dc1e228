"""The audit's modules: arguments, check mode, the files that are written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.onecopy import audit_judge
from ansible.module_utils.onecopy.analysis import audit_document
from ansible.module_utils.onecopy.analysis.document import Table

PROJECT = Path(__file__).resolve().parents[3]
TEMPLATES = PROJECT / "roles/report/templates"
Run = Callable[..., dict[str, Any]]
MIB = 1 << 20


@pytest.fixture
def audit() -> dict[str, Any]:
    """An invented audit of one guest with one cached image and one share."""
    verdict = {
        "duplicated_at_most_bytes": 40 * MIB, "limited_by": "host_cache", "complete": True, "setting": "image_direct", "short": "cache=none",
        "try_this": "cache=none for this image", "subject": "/images/<a>.img", "reason": "both cache it", "gives_up": "host reads",
        "saves_at_most_bytes": 32 * MIB, "evidence": ["gfs", "gfs_direct"],
    }  # fmt: skip
    guest = {
        "pid": 7, "name": "web|1", "manager": "libvirt", "accelerator": "tcg", "memory": {"total_bytes": 512 * MIB, "backed_bytes": 256 * MIB, "shared": True,
                   "backends": ["memory-backend-memfd"], "ksm_merged_bytes": 3 * MIB},
        "balloon": {"present": True, "free_page_reporting": False}, "guest_cache": {"why_not": "no statistics"},
        "images": [{"path": "/images/<a>.img", "role": "disk", "cache": "writeback", "direct": False, "read_only": False, "guests": 1,
                    "host_cached_bytes": 32 * MIB, "size_bytes": 64 * MIB}],
        "shares": [{"device": "vhost-user-fs-pci", "daemon": "virtiofsd", "directory": "/srv", "cache": "auto", "host_cached_bytes": 8 * MIB,
                    "tree": {"names_not_cached": 3}, "known_to_guest": {"host_cached_bytes": 8 * MIB}, "dax_mapped_bytes": 0}],
        "verdict": verdict, "remarks": [],
    }  # fmt: skip
    host_verdict = {
        "duplicated_at_most_bytes": 40 * MIB, "complete": True, "setting": "image_direct", "short": "cache=none", "try_this": "cache=none",
        "reason": "it concerns 1 of 1", "saves_at_most_bytes": 32 * MIB, "notes": ["KSM runs and merges nothing"],
    }  # fmt: skip
    return {
        "schema": 1, "host": {"name": "kvm1", "kernel": "6.12", "memory": {"total_bytes": 1024 * MIB}, "ksm": {"run": 1}, "thp": {"enabled": "never"}},
        "guests": [guest], "daemons_without_guest": [], "images_host_cached_bytes": 32 * MIB, "shares_host_cached_bytes": 8 * MIB,
        "verdict": host_verdict, "remarks": [],
    }  # fmt: skip


COLD = {"part": "all", "guests": 1, "host_cache": "cold", "guest_cache": "cold"}
SUMMARY = {
    "run_id": "r1",
    "copies": [
        COLD | {"label": "gfs", "copies": 2.0},
        COLD | {"label": "gfs_direct", "copies": 1.0},
        COLD | {"label": "gfs_direct", "copies": 9.0, "part": "large"},
        COLD | {"label": "gfs_direct", "copies": 3.0, "guests": 4},
    ],
}
DENSITY = {
    "run_id": "r2",
    "copies": [],
    "density": [
        {"label": "myfs", "metric": "physical_copies_ratio", "per_guest": 0.29},
        {"label": "myfs", "metric": "held_bytes", "per_guest": 9e8},
        {"label": "myfs_every_file", "metric": "physical_copies_ratio", "per_guest": 0.101},
    ],
}


def test_report_is_written_once(run_module: Run, audit: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    arguments = {
        "audits": [audit],
        "directory": str(tmp_path / "out"),
        "templates": str(TEMPLATES),
        "summaries": [str(tmp_path / "summary.json"), str(tmp_path / "none.json")],
    }
    first = run_module("audit_report", **arguments)
    assert first["changed"]
    assert [Path(name).name for name in first["files"]] == ["audit.html", "audit.json", "audit.md"]
    assert json.loads((tmp_path / "out/audit.json").read_text()) == [audit]
    page = (tmp_path / "out/audit.html").read_text()
    assert "copies 2.00 → 1.00" in page
    assert "&lt;a&gt;.img" in page
    assert "http" not in page.replace("http://www.w3.org", "")
    assert "web\\|1" in (tmp_path / "out/audit.md").read_text()
    assert not run_module("audit_report", **arguments)["changed"]


def test_report_in_check_mode_writes_nothing(run_module: Run, audit: dict[str, Any], tmp_path: Path) -> None:
    found = run_module(
        "audit_report", check_mode=True, audits=[audit], directory=str(tmp_path / "out"), templates=str(TEMPLATES)
    )
    assert found["changed"]
    assert not (tmp_path / "out").exists()


def test_report_that_cannot_be_written_is_one_line(run_module: Run, audit: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    found = run_module("audit_report", audits=[audit], directory=str(tmp_path / "file/out"), templates=str(TEMPLATES))
    assert found["failed"]
    assert "cannot be written" in found["msg"]


def test_table_has_a_line_per_guest_and_host(audit: dict[str, Any]) -> None:
    lines = audit_document.terminal_table([audit]).splitlines()
    assert len(lines) == 5
    found = lines[3].split()
    assert found[:7] == ["kvm1", "web|1", "libvirt", "shared", "no", "256.0", "3.0"]
    assert found[7:] == ["32.0", "8.0", "n/a", "40.0", "cache=none:", "<a>.img"]
    assert lines[4].split() == ["kvm1", "all", "1", "256.0", "3.0", "32.0", "8.0", "40.0", "cache=none"]
    audit["guests"][0] |= {"balloon": {"present": False, "free_page_reporting": False}, "memory": {}}
    assert "libvirt  n/a     no balloon" in audit_document.terminal_table([audit])
    audit["guests"] = []
    assert audit_document.terminal_table([audit]).splitlines()[3].split()[:5] == ["kvm1", "all", "0", "0.0", "0.0"]


def test_the_page_has_what_is_known_of_a_guests_memory(audit: dict[str, Any]) -> None:
    (section,) = [one for one in audit_document.document([audit]).sections if one.name == "memory"]
    (table,) = section.blocks
    assert isinstance(table, Table)
    found = {column.title: cell.text for column, cell in zip(table.columns, table.rows[0], strict=True)}
    assert found["manager"] == "libvirt"
    assert (found["memory"], found["backed"], found["merged by KSM"]) == ("512.0", "256.0", "3.0")
    assert (found["sharing"], found["free page reporting"]) == ("shared", "no")
    assert found["backends"] == "memory-backend-memfd"


def test_an_effect_that_was_not_measured_is_not_quoted() -> None:
    both = [SUMMARY, DENSITY]
    assert (
        audit_document.measured_effect(both, "gfs", "gfs_direct")
        == "copies 2.00 → 1.00, gfs against gfs_direct in run r1"
    )
    assert (
        audit_document.measured_effect(both, "myfs", "myfs_every_file")
        == "copies per further guest 0.29 → 0.10, myfs against myfs_every_file in run r2"
    )
    # Two runs do not make one comparison.
    assert audit_document.measured_effect(both, "gfs", "myfs") is None
    assert audit_document.measured_effect([], "gfs", "gfs_direct") is None


@pytest.mark.parametrize("setting", ["image_direct", "drop_leftover", "free_page_reporting"])
def test_an_advice_without_a_measured_effect_says_so(audit: dict[str, Any], setting: str) -> None:
    chosen = audit_judge.SETTINGS[setting]
    verdict = audit["guests"][0]["verdict"] | {"setting": setting}
    verdict.pop("evidence")
    if chosen.evidence:
        verdict["evidence"] = list(chosen.evidence)
    audit["guests"][0]["verdict"] = verdict
    said = "not measured by this kit's examples"
    pages = [str(audit_document.document([audit], summaries)) for summaries in ([], [SUMMARY, DENSITY])]
    assert [said in page for page in pages] == [True, setting != "image_direct"]


def test_the_examples_label_what_differs_in_one_setting_alone() -> None:
    labels = set()
    for name in ("smoke", "density"):
        experiment = yaml.safe_load((PROJECT / "experiments" / f"{name}.yml").read_text())
        labels |= {one if isinstance(one, str) else one["label"] for one in experiment["systems"]}
    evidence = {key: setting.evidence for key, setting in audit_judge.SETTINGS.items() if setting.evidence}
    assert {label for pair in evidence.values() for label in pair} <= labels
    assert evidence["share_all_dax"] == ("myfs", "myfs_every_file")
    assert "drop_leftover" not in evidence


@pytest.mark.parametrize(
    ("arguments", "message"), [({"seconds": 0}, "greater than 0"), ({"share_walk": "some"}, "share_walk")]
)
def test_bad_arguments(run_module: Run, arguments: dict[str, Any], message: str) -> None:
    found = run_module("audit_info", **arguments)
    assert found["failed"]
    assert message in found["msg"]


@pytest.mark.parametrize("check_mode", [False, True])
def test_audit_of_this_machine(run_module: Run, check_mode: bool) -> None:
    found = run_module("audit_info", check_mode=check_mode)
    if os.geteuid():
        assert "as root" in found["msg"]
    else:
        assert not found["changed"]
        assert found["audit"]["schema"] == 1
