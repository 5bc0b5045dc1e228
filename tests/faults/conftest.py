"""What the fault suite shares, and the table of faults and outcomes at the end."""

from __future__ import annotations

import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

UNIT = Path(__file__).resolve().parents[1] / "unit"
sys.path.append(str(UNIT))

import fakes
from ansible.module_utils.onecopy import host_data
from ansible.module_utils.onecopy.paths import HostPaths
from lab import Lab
from points import POINTS, SEED, Told


@dataclass
class Row:
    """One fault: how often it was tried, what came of it, and how many finished records there were when it struck."""

    points: int = 0
    failed: int = 0
    kept: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)

    def cells(self) -> tuple[str, str]:
        """Points and outcome, as the table shows them."""
        texts = [
            text if count == self.points else f"{text} ({count} times)" for text, count in self.outcomes.most_common()
        ]
        if self.kept:
            texts.append(f"finished records kept: {self.kept}")
        if self.failed:
            texts.insert(0, f"FAILED at {self.failed} of {self.points}")
        return str(self.points), "; ".join(texts)


_rows: dict[str, Row] = {}


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "fault(name): what is tried, a line of the table")
    config.addinivalue_line("markers", "long: takes minutes; not tried at one point each")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    apart = [item for item in items if _is_left_out(item)]
    if apart:
        config.hook.pytest_deselected(items=apart)
        items[:] = [item for item in items if item not in apart]
    for item in items:
        mark = item.get_closest_marker("fault")
        if mark is not None:
            item.user_properties.append(("fault", mark.args[0]))


def _is_left_out(item: pytest.Item) -> bool:
    needs_guests = "lab" in getattr(item, "fixturenames", ())
    return needs_guests and (POINTS == 0 or (POINTS == 1 and item.get_closest_marker("long") is not None))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    found = dict(report.user_properties)
    if "fault" not in found or (report.when != "call" and report.passed):
        return
    row = _rows.setdefault(str(found["fault"]), Row())
    row.points += report.when != "teardown"
    row.failed += report.failed
    if report.when == "call" and report.passed:
        row.outcomes[str(found["outcome"])] += 1
        row.kept += int(str(found.get("kept", 0)))


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    if not _rows:
        return
    terminalreporter.section(f"faults and what came of them (seed {SEED})")
    terminalreporter.line("| fault | points | outcome |")
    terminalreporter.line("|---|---|---|")
    for name, row in _rows.items():
        terminalreporter.line(f"| {name} | {' | '.join(row.cells())} |")


@pytest.fixture
def told(request: pytest.FixtureRequest) -> Iterator[Told]:
    """Called once by a test, with what came of the fault: the table's words; ``kept`` counts the records that were finished by then."""
    said: list[str] = []

    def tell(outcome: str, kept: int = 0) -> None:
        said.append(outcome)
        request.node.user_properties += [("outcome", outcome), ("kept", kept)]

    yield tell
    assert len(said) == 1 or request.session.testsfailed, "a fault without an outcome"


@pytest.fixture
def host(disk_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostPaths:
    """A KVM host without guests (fakes.py), whose counts are not taken again when others on this machine drop its page cache."""
    monkeypatch.setattr(host_data.ShareData, "reclaimed_pages", lambda self, parts: 0)
    paths = HostPaths(disk_path)
    fakes.lay_out(paths)
    return paths


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The box, started, prepared, and stopped at the end."""
    made = Lab()
    try:
        made.start()
        yield made
    finally:
        made.stop()


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 8 MiB; Disk fills it."""
    place = tmp_path / "disk"
    place.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8M", "onecopy-small", place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)
