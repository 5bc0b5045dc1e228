"""An invented run of an invented kit in a git repository of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import yaml
from invented_kit import CLAIMS, SMALL, git, render

sys.path.append(str(Path(__file__).resolve().parents[1] / "analysis"))

import invented


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """A git checkout with what an archive needs of the kit."""
    root = tmp_path / "kit"
    contents = {
        "onecopy": b"#!/bin/sh\n",
        "playbooks/experiment.yml": b"---\n",
        "experiments/claims.yml": CLAIMS,
        "experiments/invented.yml": yaml.safe_dump(invented.experiment(**SMALL)).encode(),
    }
    for name, data in contents.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    git(root, "init", "--quiet")
    git(root, "add", ".")
    git(root, "commit", "--quiet", "--message", "Invent a kit")
    return root


@pytest.fixture
def run(tmp_path: Path, repository: Path) -> Path:
    """The directory of a rendered run that was made at the repository's revision."""
    plan = invented.plan(**SMALL)
    manifest = invented.manifest(
        controller={"git_revision": git(repository, "rev-parse", "HEAD"), "git_dirty": False},
        hosts={invented.HOST: {"guest": {"suite": "trixie"}}},
    )
    directory: Path = invented.store(
        tmp_path / "reports" / "invented" / invented.RUN_ID, plan, invented.records(plan), manifest
    )
    evidence = directory / "hosts" / invented.HOST
    evidence.mkdir(parents=True)
    (evidence / "packages.txt").write_text("qemu-system-x86 1:11.1.3\n")
    render(directory)
    return directory
