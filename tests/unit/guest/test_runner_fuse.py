"""Counting FUSE requests: what is written to tracefs and read from it. That the kernel counts right is for the end-to-end test to see."""

from pathlib import Path

import pytest
from ansible.module_utils.onecopy import runner_fuse

# As Linux 6.12 tells it.
HISTOGRAM = """# event histogram
#
# trigger info: hist:keys=opcode:vals=hitcount:sort=hitcount:size=128 [active]
#

{ opcode:         48 } hitcount:          1
{ opcode:         15 } hitcount:         12
{ opcode:          1 } hitcount:       1004

Totals:
    Hits: 1017
    Entries: 3
    Dropped: 0
"""


@pytest.fixture
def event(tmp_path: Path) -> Path:
    directory = tmp_path / "events/fuse/fuse_request_send"
    directory.mkdir(parents=True)
    (directory / "trigger").write_text("")
    (directory / "hist").write_text(HISTOGRAM)
    return directory


def test_requests_are_counted_between_start_and_stop(tmp_path: Path, event: Path) -> None:
    counter = runner_fuse.RequestCounter(str(tmp_path))
    assert counter.counts() is None
    counter.start()
    assert (event / "trigger").read_text() == "hist:keys=opcode:size=128"
    assert counter.counts() == {"1": 1004, "15": 12, "48": 1}
    counter.start()  # what was counted stays
    (event / "trigger").write_text("")
    counter.stop()
    assert (event / "trigger").read_text() == "!hist:keys=opcode:size=128"
    assert counter.counts() is None


def test_a_kernel_without_the_event_counts_nothing(tmp_path: Path) -> None:
    (tmp_path / "events").mkdir()
    counter = runner_fuse.RequestCounter(str(tmp_path))
    counter.start()
    assert counter.counts() is None
    counter.stop()


def test_a_kernel_without_tracefs_counts_nothing(tmp_path: Path) -> None:
    counter = runner_fuse.RequestCounter(str(tmp_path / "none"))
    counter.start()
    assert counter.counts() is None
