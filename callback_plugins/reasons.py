"""The last lines of a play that failed: one for each host and reason, without having to look for it."""

from __future__ import annotations

DOCUMENTATION = """
name: reasons
type: aggregate
short_description: Say at the end, in one line, why a host failed
description:
  - Prints C(onecopy) with the host and the message of the task that failed, or could not reach it, as the last lines on standard error.
"""

import shlex
import sys
from collections.abc import Mapping
from typing import Any

from ansible.plugins.callback import CallbackBase

_LONGEST = 1000


class CallbackModule(CallbackBase):
    """Keeps what failed until the end."""

    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "reasons"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._reasons: list[str] = []

    def v2_runner_on_failed(self, result: Any, **options: Any) -> None:
        if not options.get("ignore_errors"):
            failed = [item for item in result.result.get("results", ()) if item.get("failed")]
            for document in failed or [result.result]:
                self._keep(result.host.get_name(), _reason(document))

    def v2_runner_on_unreachable(self, result: Any) -> None:
        cure = "look whether address, port, user and key in the inventory are right, and whether the host is up"
        self._keep(result.host.get_name(), f"cannot be reached: {result.result.get('msg', '')}: {cure}")

    def v2_playbook_on_stats(self, stats: Any) -> None:
        sys.stdout.flush()
        for line in dict.fromkeys(self._reasons):
            print(f"onecopy: {line}", file=sys.stderr, flush=True)

    def _keep(self, host: str, message: str) -> None:
        text = " ".join(message.replace("Task failed: ", "").split())[:_LONGEST]
        self._reasons.append(text if host == "localhost" or text.startswith(f"{host}:") else f"{host}: {text}")


def _reason(document: Mapping[str, Any]) -> str:
    """The task's message; of a command that failed, which one, and its last word."""
    message = str(document.get("msg") or "failed without a reason")
    if message != "non-zero return code":
        return message
    command = document.get("cmd", "")
    said = f"{document.get('stdout') or ''}\n{document.get('stderr') or ''}".split("\n")
    words = command if isinstance(command, str) else shlex.join(map(str, command))
    return f"{words}: rc {document.get('rc')}: {next((line.strip() for line in said[::-1] if line.strip()), 'it said nothing')}"
