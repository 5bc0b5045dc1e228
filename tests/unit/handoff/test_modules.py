"""The modules around it, called as Ansible calls them."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from invented_kit import PROJECT

Module = Callable[..., dict[str, Any]]


@pytest.fixture
def made(run_module: Module, run: Path, repository: Path) -> dict[str, Any]:
    return run_module("handoff", run="invented", reports_directory=str(run.parents[1]), repository=str(repository))


def verified(run_module: Module, path: str, directory: Path, **more: Any) -> dict[str, Any]:
    templates = PROJECT / "roles" / "report" / "templates"
    arguments = {"archive": path, "directory": str(directory), "templates": str(templates), **more}
    return run_module("handoff_verified", **arguments)


def test_handoff_then_verify_then_agree(run_module: Module, made: dict[str, Any], run: Path, tmp_path: Path) -> None:
    assert made["changed"]
    assert Path(made["path"]).parent == run.parent
    assert made["bytes"] == Path(made["path"]).stat().st_size
    there = verified(run_module, made["path"], tmp_path / "there", sha256=made["sha256"])
    assert there["changed"]
    assert there["same"]["summary.json"]
    assert there["files"] == made["files"]
    assert Path(there["experiment_file"]).is_file()
    assert there["run_id"] == run.name
    assert there["suite"] == "trixie"
    agreed = run_module("run_agreement", archived=there["run_directory"], repeated=str(run))
    assert agreed["counts"]["copies"]["disagrees"] == 0
    assert json.loads((run / "agreement.json").read_text())["schema"] == 1


@pytest.mark.parametrize("name", ["invented/{id}", "{id}", "{path}"])
def test_a_run_has_several_names(
    run_module: Module, made: dict[str, Any], run: Path, repository: Path, name: str
) -> None:
    named = name.format(id=run.name, path=run)
    again = run_module("handoff", run=named, reports_directory=str(run.parents[1]), repository=str(repository))
    assert not again["changed"]
    assert again["sha256"] == made["sha256"]


def test_check_mode_writes_nothing(run_module: Module, run: Path, repository: Path, made: dict[str, Any]) -> None:
    Path(made["path"]).unlink()
    would = run_module(
        "handoff", check_mode=True, run=run.name, reports_directory=str(run.parents[1]), repository=str(repository)
    )
    assert would["changed"]
    assert would["sha256"] == made["sha256"]
    assert not Path(made["path"]).exists()


def test_unknown_run_names_the_known_ones(run_module: Module, run: Path, repository: Path, tmp_path: Path) -> None:
    failed = run_module("handoff", run="nothing", reports_directory=str(run.parents[1]), repository=str(repository))
    assert failed["failed"]
    assert failed["msg"].endswith(f"there are, newest last, invented/{run.name}")
    empty = run_module("handoff", run="nothing", reports_directory=str(tmp_path / "none"), repository=str(repository))
    assert empty["msg"].endswith("there is none yet: ./onecopy run EXPERIMENT makes one")


def test_cut_short_archive_is_one_line_and_unpacks_nothing(
    run_module: Module, made: dict[str, Any], tmp_path: Path
) -> None:
    path = Path(made["path"])
    path.write_bytes(path.read_bytes()[:-5000])
    failed = verified(run_module, str(path), tmp_path / "there")
    assert failed["failed"]
    assert "cut short" in failed["msg"]
    assert "\n" not in failed["msg"]
    assert not (tmp_path / "there").exists()


def test_agreement_needs_a_rendered_report(run_module: Module, run: Path, tmp_path: Path) -> None:
    shutil.copytree(run, tmp_path / "other")
    (tmp_path / "other" / "summary.json").unlink()
    failed = run_module("run_agreement", archived=str(run), repeated=str(tmp_path / "other"))
    assert failed["failed"]
    assert failed["msg"].endswith("summary.json: is not there: render its report first (./onecopy report)")


def test_evidence_tells_what_this_machine_shows(run_module: Module, tmp_path: Path) -> None:
    manifest = tmp_path / "manifests" / "smoke.json"
    manifest.parent.mkdir()
    manifest.write_text(json.dumps({"files": [{"path": "a", "sha256": "0", "page_digests": ["1"]}]}))
    found = run_module("host_evidence_info", state_directory=str(tmp_path), dataset="smoke")
    assert set(found["files"]) | set(found["absent"]) == {
        "packages.txt",
        "kernel.config",
        "guest-kernel.config",
        "dataset.json",
    }
    assert found["absent"]["guest-kernel.config"].startswith("[Errno 2]")
    assert json.loads(found["files"]["dataset.json"])["manifest"] == {"files": [{"path": "a", "sha256": "0"}]}
    if shutil.which("dpkg-query"):
        assert any(line.startswith("dpkg ") for line in found["files"]["packages.txt"].splitlines())
