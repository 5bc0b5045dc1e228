"""What the fault suite shares, and the table of faults and outcomes at the end."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import threading
import time
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


class Voice:
    """Says at once what goes on, past pytest's capture."""

    SILENT_SECONDS = 20.0

    def __init__(self) -> None:
        self.terminal = sys.stdout
        self._began = self._last = time.monotonic()
        self._over = threading.Event()

    def say(self, text: str) -> None:
        """One line, with the minutes and seconds since the suite began."""
        self._last = time.monotonic()
        minutes, seconds = divmod(int(self._last - self._began), 60)
        print(f"\n  {minutes:3}:{seconds:02}  {text}", end="", file=self.terminal, flush=True)

    @contextlib.contextmanager
    def heard(self) -> Iterator[None]:
        """Within it, a silence is broken by the name of the test that takes so long."""
        self._over.clear()
        thread = threading.Thread(target=self._break_silence, daemon=True)
        thread.start()
        try:
            yield
        finally:
            self._over.set()
            thread.join()

    def _break_silence(self) -> None:
        while not self._over.wait(1.0):
            if time.monotonic() - self._last >= self.SILENT_SECONDS:
                test = os.environ.get("PYTEST_CURRENT_TEST", "").rpartition("::")[2]
                self.say(f"… {test}")


_rows: dict[str, Row] = {}
_voice = Voice()


def pytest_configure(config: pytest.Config) -> None:
    with config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled():
        _voice.terminal = os.fdopen(os.dup(sys.stdout.fileno()), "w")
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
    names = [text for name, text in report.user_properties if name == "fault"]
    if not names or report.skipped or (report.when != "call" and report.passed):
        return
    row = _rows.setdefault(str(names[0]), Row())
    row.failed += report.failed
    if report.when == "setup":
        row.points += 1
    elif report.when == "call":
        struck = [str(text) for name, text in report.user_properties if name == "outcome"]
        # The point at which it failed has no outcome.
        row.points += len(struck) + report.failed
        row.outcomes.update(struck)
        row.kept += sum(int(str(count)) for name, count in report.user_properties if name == "kept")


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
    """Called by a test once for each point that struck, with what came of it: the table's words; ``kept`` counts the records that were finished
    by then. What needs guests takes long: then it is said at once, too."""
    said: list[str] = []
    (fault,) = request.node.get_closest_marker("fault").args

    def tell(outcome: str, kept: int = 0) -> None:
        said.append(outcome)
        request.node.user_properties += [("outcome", outcome), ("kept", kept)]
        if "lab" in request.fixturenames:
            _voice.say(f"{fault}: {outcome}; finished records: {kept}")

    yield tell
    assert said or request.session.testsfailed, "a fault without an outcome"


@pytest.fixture
def host(disk_path: Path, monkeypatch: pytest.MonkeyPatch) -> HostPaths:
    """A KVM host without guests (fakes.py), whose counts are not taken again when others on this machine drop its page cache."""
    monkeypatch.setattr(host_data.ShareData, "reclaimed_pages", lambda self, parts: 0)
    paths = HostPaths(disk_path)
    fakes.lay_out(paths)
    return paths


@pytest.fixture(scope="session")
def lab() -> Iterator[Lab]:
    """The box, started, prepared, and stopped at the end. Nobody waits for it in silence."""
    made = Lab()
    # Ended by timeout or CI, it stops the box too, as by Ctrl-C.
    before = signal.signal(signal.SIGTERM, signal.default_int_handler)
    with _voice.heard():
        try:
            _voice.say("starts and prepares the box")
            made.start()
            yield made
        finally:
            made.stop()
            signal.signal(signal.SIGTERM, before)


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
