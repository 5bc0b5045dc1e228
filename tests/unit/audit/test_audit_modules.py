"""The audit's modules: arguments, check mode, the files that are written."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy.analysis import audit_document

TEMPLATES = Path(__file__).resolve().parents[3] / "roles/report/templates"
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
        "pid": 7, "name": "web|1", "manager": "plain", "accelerator": "tcg", "memory": {"total_bytes": 512 * MIB, "backed_bytes": 256 * MIB},
        "balloon": {"present": False, "free_page_reporting": False}, "guest_cache": {"why_not": "no balloon device"},
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


SUMMARY = {
    "run_id": "r1",
    "copies": [
        {"system": "gfs", "part": "all", "guests": 1, "host_cache": "cold", "guest_cache": "cold", "copies": 2.0},
        {
            "system": "gfs_direct",
            "part": "all",
            "guests": 1,
            "host_cache": "cold",
            "guest_cache": "cold",
            "copies": 1.0,
        },
        {
            "system": "gfs_direct",
            "part": "large",
            "guests": 1,
            "host_cache": "cold",
            "guest_cache": "cold",
            "copies": 9.0,
        },
    ],
}


def test_report_is_written_once(run_module: Run, audit: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "summary.json").write_text(json.dumps(SUMMARY))
    arguments = {
        "audits": [audit],
        "directory": str(tmp_path / "out"),
        "templates": str(TEMPLATES),
        "summary": str(tmp_path / "summary.json"),
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
    assert lines[3].split() == ["kvm1", "web|1", "256.0", "32.0", "8.0", "n/a", "40.0", "cache=none:", "<a>.img"]
    assert lines[4].split()[:2] == ["kvm1", "all"]


def test_an_effect_that_was_not_measured_is_not_quoted() -> None:
    assert (
        audit_document.measured_effect(SUMMARY, "gfs", "gfs_direct")
        == "copies 2.00 → 1.00, gfs against gfs_direct in run r1"
    )
    assert audit_document.measured_effect(SUMMARY, "gfs", "myfs") is None
    assert audit_document.measured_effect(None, "gfs", "gfs_direct") is None


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
