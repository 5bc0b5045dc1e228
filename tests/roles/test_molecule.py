"""Every role in its molecule scenario: check, converge, idempotence, testinfra; and tests that fail when the host is broken."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
LAYERS = PROJECT / ".onecopy/box"
SCENARIOS = sorted(path.parent.name for path in (PROJECT / "molecule").glob("*/molecule.yml"))
_STAGE = re.compile(r"➜ (\w+): Executing$")
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")

Molecule = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module", autouse=True)
def fresh_layers() -> None:
    """Layers are made from the roles as they are now."""
    for layer in LAYERS.glob("onecopy-layer-*"):
        shutil.rmtree(layer)


@pytest.fixture
def molecule(capsys: pytest.CaptureFixture[str]) -> Molecule:
    """Runs molecule, telling every stage as it begins; keeps the output in a log."""

    def run(action: str, scenario: str, *options: str) -> subprocess.CompletedProcess[str]:
        argv = ["molecule", action, "-s", scenario, *options]
        log = PROJECT / f".onecopy/log/molecule-{scenario}-{action}.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        begin = time.monotonic()
        lines = []
        environment = {key: value for key, value in os.environ.items() if key != "ANSIBLE_CONFIG"}
        with subprocess.Popen(
            argv, cwd=PROJECT, env=environment, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT
        ) as process:
            assert process.stdout is not None
            with log.open("w") as kept:
                for line in process.stdout:
                    kept.write(line)
                    lines.append(line)
                    told = _told(_COLOUR.sub("", line))
                    if told:
                        with capsys.disabled():
                            print(f"\n  {scenario} {time.monotonic() - begin:4.0f} s: {told}", end="", flush=True)
        return subprocess.CompletedProcess(argv, process.wait(), "".join(lines))

    return run


def _told(line: str) -> str | None:
    stage = _STAGE.search(line.rstrip())
    if stage:
        return stage[1]
    return line.strip(" │\n") if "... " in line and line.rstrip().endswith(" s") else None


@pytest.fixture(scope="module", params=SCENARIOS)
def scenario(request: pytest.FixtureRequest) -> Iterator[str]:
    yield request.param
    subprocess.run(["molecule", "destroy", "-s", request.param], cwd=PROJECT, capture_output=True, check=True)


def _end(done: subprocess.CompletedProcess[str]) -> str:
    return _COLOUR.sub("", done.stdout[-6000:])


def test_role(scenario: str, molecule: Molecule) -> None:
    done = molecule("test", scenario)
    assert done.returncode == 0, _end(done)


def test_its_tests_can_fail(scenario: str, molecule: Molecule) -> None:
    """The negative control: the scenario's break.yml breaks what the role has made, and the verifier must see it."""
    broken = molecule("side-effect", scenario)
    assert broken.returncode == 0, _end(broken)
    assert "Missing playbook" not in broken.stdout, f"molecule/{scenario}/break.yml is missing"
    verified = molecule("verify", scenario)
    assert verified.returncode != 0, f"{scenario}: the tests passed on a broken host"
    assert re.search(r"\d+ failed|\d+ error", _COLOUR.sub("", verified.stdout)), _end(verified)
