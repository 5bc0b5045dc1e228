"""Pausing units: what is active is found, remembered before it is stopped, and started again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import paused_units
from ansible.module_utils.onecopy.commands import CommandError

DATA = Path(__file__).resolve().parents[2] / "data/environment"


@pytest.fixture
def systemctl(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """Answers ``show`` as systemd 257 did; keeps what else it was asked."""
    asked: list[list[str]] = []

    def run(argv: list[str]) -> str:
        if argv[1] == "show":
            return (DATA / "systemctl-show-257.txt").read_text()
        asked.append(argv)
        return ""

    monkeypatch.setattr(paused_units, "run", run)
    return asked


def test_active_units_are_paused_and_the_same_are_restored(tmp_path: Path, systemctl: list[list[str]]) -> None:
    record = tmp_path / "state/paused.json"
    names = ["apt-daily.timer", "snapd.service", "fstrim.timer", "no-such.timer"]
    assert paused_units.pause(names, record, check_mode=True) == ["apt-daily.timer", "fstrim.timer"]
    assert (systemctl, record.exists()) == ([], False)
    paused_units.pause(names, record)
    assert json.loads(record.read_text()) == ["apt-daily.timer", "fstrim.timer"]
    assert paused_units.restore(record, check_mode=True) == ["apt-daily.timer", "fstrim.timer"]
    assert paused_units.restore(record) == ["apt-daily.timer", "fstrim.timer"]
    assert paused_units.restore(record) == []
    units = ["apt-daily.timer", "fstrim.timer"]
    assert systemctl == [["systemctl", "stop", *units], ["systemctl", "start", *units]]


def test_what_an_earlier_call_paused_is_not_forgotten(tmp_path: Path, systemctl: list[list[str]]) -> None:
    record = tmp_path / "paused.json"
    record.write_text('["man-db.timer"]')
    paused_units.pause(["apt-daily.timer"], record)
    assert json.loads(record.read_text()) == ["apt-daily.timer", "fstrim.timer", "man-db.timer"]


def test_units_that_could_not_be_stopped_are_remembered(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(argv: list[str]) -> str:
        if argv[1] == "stop":
            raise CommandError("systemctl stop: rc 1")
        return (DATA / "systemctl-show-257.txt").read_text()

    monkeypatch.setattr(paused_units, "run", run)
    with pytest.raises(CommandError):
        paused_units.pause(["apt-daily.timer"], tmp_path / "paused.json")
    assert (tmp_path / "paused.json").exists()
