"""What a boot's options change on the host, and that it comes back: on a tree made like /sys."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.onecopy import device_limit, experiment, host_options, host_settings, runner_kernel
from ansible.module_utils.onecopy.knobs import KnobError


@pytest.fixture
def read_ahead(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The store's readahead, a file of this test's own."""
    path = tmp_path / "read_ahead_kb"
    path.write_text("128\n")
    monkeypatch.setattr(host_settings, "files", lambda name, store, root=Path("/"): [(path, {})])
    return path


@pytest.fixture
def limits(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    done: list[str] = []
    monkeypatch.setattr(device_limit, "limit", lambda store, profile: done.append(profile))
    monkeypatch.setattr(device_limit, "lift", lambda: done.append("lifted"))
    return done


def test_readahead_is_set_and_comes_back(tmp_path: Path, read_ahead: Path, limits: list[str]) -> None:
    remembered = tmp_path / "knobs"
    host_options.apply({"read_ahead_kb": 1024}, tmp_path, remembered)
    assert read_ahead.read_text() == "1024"
    # A second boot after one that was killed must not take its value for the host's own.
    host_options.apply({"read_ahead_kb": 0}, tmp_path, remembered)
    host_options.undo(tmp_path, remembered)
    assert read_ahead.read_text() == "128"
    host_options.undo(tmp_path, remembered)
    assert limits == ["lifted", "lifted"]


def test_what_the_run_has_set_stays(tmp_path: Path, read_ahead: Path, limits: list[str]) -> None:
    remembered = tmp_path / "knobs"
    host_settings.apply({"read_ahead_kb": 0}, remembered, tmp_path)
    host_options.apply({}, tmp_path, remembered)
    host_options.undo(tmp_path, remembered)
    assert read_ahead.read_text() == "0"


def test_a_boot_without_options_changes_nothing(tmp_path: Path, read_ahead: Path, limits: list[str]) -> None:
    host_options.apply({"queues": 2}, tmp_path, tmp_path / "knobs")
    assert read_ahead.read_text() == "128\n"
    assert not limits
    assert not (tmp_path / "knobs").exists()


def test_the_class_of_the_device_is_limited(tmp_path: Path, limits: list[str]) -> None:
    host_options.apply({"device": "hdd"}, tmp_path, tmp_path / "knobs")
    assert limits == ["hdd"]


def test_a_store_that_cannot_be_set_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host_settings, "files", lambda *args, **more: [(tmp_path / "none", {})])
    with pytest.raises(KnobError, match="cannot be read"):
        host_options.apply({"read_ahead_kb": 0}, tmp_path, tmp_path / "knobs")


def test_the_guests_readahead_is_set_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runner_kernel, "_bdi", lambda target: str(tmp_path / "guest"))
    (tmp_path / "guest").write_text("128\n")
    runner_kernel.set_read_ahead("/data", 0)
    assert runner_kernel._read_ahead("/data") == {"read_ahead_kb": 0}


def test_every_readahead_is_a_label_of_its_own_on_every_device() -> None:
    given = {"systems": ["gfs"], "device": ["as_is", "hdd"], "read_ahead_kb": ["as_is", 0]}
    assert experiment.labelled_systems(given) == [
        {"system": "gfs", "label": "gfs", "options": {}},
        {"system": "gfs", "label": "gfs_hdd", "options": {"device": "hdd"}},
        {"system": "gfs", "label": "gfs_ra0", "options": {"read_ahead_kb": 0}},
        {"system": "gfs", "label": "gfs_hdd_ra0", "options": {"device": "hdd", "read_ahead_kb": 0}},
    ]
