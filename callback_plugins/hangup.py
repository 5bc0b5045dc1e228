"""End in order when nobody reads any more."""

from __future__ import annotations

DOCUMENTATION = """
name: hangup
type: aggregate
short_description: End in order when nobody reads any more
description:
  - When the terminal goes away, or the program that reads the output, Ansible's own process would end without its workers, which are
    in sessions of their own, or wait for their results for ever. Now it is told to end, and tells them.
  - Does nothing about a hang-up that is ignored, as under C(nohup).
"""

import os
import select
import signal
import threading
from typing import Any

from ansible.plugins.callback import CallbackBase

_OUTPUT = 1
_ERRORS = 2


class CallbackModule(CallbackBase):
    """Watches the standard output from a thread of its own."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "hangup"
    CALLBACK_NEEDS_ENABLED = True

    def v2_playbook_on_start(self, playbook: Any) -> None:
        if signal.getsignal(signal.SIGHUP) is signal.SIG_DFL:
            signal.signal(signal.SIGHUP, lambda number, frame: _end())
        threading.Thread(target=_watch, daemon=True).start()


def _watch() -> None:
    poll = select.poll()
    poll.register(_OUTPUT, 0)
    poll.poll()
    # What is printed from here on must not fail: Ansible's thread that takes results would end.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, _OUTPUT)
    try:
        os.write(_ERRORS, b"nobody reads the output any more: ending; the same command goes on\n")
    except OSError:
        os.dup2(nowhere, _ERRORS)
    _end()


def _end() -> None:
    """As told by SIGTERM, which Ansible passes on to its workers."""
    os.kill(os.getpid(), signal.SIGTERM)
