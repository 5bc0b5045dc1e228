"""No silent minute: say every few seconds which task is still at work."""

from __future__ import annotations

DOCUMENTATION = """
name: progress
type: aggregate
short_description: Say every few seconds which task is still at work
description:
  - Prints a line while a task takes longer than O(interval_seconds), and again after each further interval.
options:
  interval_seconds:
    description: Seconds between two lines.
    type: float
    default: 15
    env:
      - name: ONECOPY_PROGRESS_SECONDS
"""

import os
import threading
import time
from typing import Any

from ansible.plugins.callback import CallbackBase


class CallbackModule(CallbackBase):
    """Watches the running task from a thread of its own."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "progress"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._task: tuple[str, float] | None = None
        self._ended = threading.Event()

    def v2_playbook_on_start(self, playbook: Any) -> None:
        threading.Thread(target=self._watch, args=(float(self.get_option("interval_seconds")),), daemon=True).start()

    def v2_playbook_on_task_start(self, task: Any, is_conditional: bool) -> None:
        self._task = (task.get_name(), time.monotonic())

    def v2_playbook_on_handler_task_start(self, task: Any) -> None:
        self._task = (task.get_name(), time.monotonic())

    def v2_playbook_on_stats(self, stats: Any) -> None:
        self._ended.set()

    def _watch(self, interval: float) -> None:
        said = 0.0
        while not self._ended.wait(1):
            if self._task is None:
                continue
            name, begin = self._task
            now = time.monotonic()
            if now - max(begin, said) >= interval:
                said = now
                # Not through Ansible's display: its lock must not be held when a worker is forked.
                os.write(1, f"... {name}: {now - begin:.0f} s\n".encode())
