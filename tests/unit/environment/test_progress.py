"""The heartbeat of long tasks."""

from __future__ import annotations

import importlib.util
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

PLUGIN = Path(__file__).resolve().parents[3] / "callback_plugins/progress.py"


@pytest.fixture
def callback(monkeypatch: pytest.MonkeyPatch) -> Any:
    spec = importlib.util.spec_from_file_location("progress", PLUGIN)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    callback = module.CallbackModule()
    monkeypatch.setattr(callback, "get_option", lambda name: 1.0)
    return callback


def test_a_long_task_says_that_it_is_alive(callback: Any, capfd: pytest.CaptureFixture[str]) -> None:
    callback.v2_playbook_on_start(None)
    callback.v2_playbook_on_task_start(SimpleNamespace(get_name=lambda: "Build"), False)
    time.sleep(3.3)
    callback.v2_playbook_on_stats(None)
    lines = capfd.readouterr().out.splitlines()
    assert 2 <= len(lines) <= 3
    assert lines[0].startswith("... Build: ")
    time.sleep(1.5)
    assert capfd.readouterr().out == ""


def test_short_tasks_are_not_talked_about(callback: Any, capfd: pytest.CaptureFixture[str]) -> None:
    callback.v2_playbook_on_start(None)
    for name in ("one", "two", "three", "four"):
        callback.v2_playbook_on_task_start(SimpleNamespace(get_name=lambda name=name: name), False)
        time.sleep(0.5)
    callback.v2_playbook_on_stats(None)
    assert capfd.readouterr().out == ""
