"""An invented kit and its run: helpers for the tests of archives."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from ansible.module_utils.onecopy.analysis.rebuild import rebuilt_summary
from ansible.module_utils.onecopy.analysis.stored_run import load

PROJECT = Path(__file__).resolve().parents[3]
# Small, since every test of an archive judges the run anew.
SMALL: dict[str, Any] = {
    "repeats": 2,
    "systems": ["gfs", {"system": "gfs", "label": "gfs_again"}, "virtiofs_never"],
    "timed": ["cat"],
}
CLAIMS = (PROJECT / "experiments" / "claims.yml").read_bytes()


def git(repository: Path, *arguments: str) -> str:
    identity = ["-c", "user.name=test", "-c", "user.email=test@localhost", "-c", "commit.gpgsign=false"]
    return subprocess.run(
        ["git", *identity, "-C", str(repository), *arguments], check=True, capture_output=True, text=True
    ).stdout.strip()


def render(directory: Path) -> None:
    (directory / "summary.json").write_bytes(rebuilt_summary(load(directory), CLAIMS))
    (directory / "report.html").write_text("<!doctype html>")
    (directory / "report.md").write_text("# invented\n")


def change_manifest(directory: Path, **changes: Any) -> None:
    path = directory / "manifest.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
