"""The last words of a guest: what its kernel said on the console."""

from __future__ import annotations

from pathlib import Path
from typing import Final

LINES: Final = 12
_LINE_LENGTH: Final = 200


def last_lines(console: Path, count: int = LINES) -> list[str]:
    """The last ``count`` lines that say something, the oldest first; none where nothing was said."""
    try:
        text = console.read_text(errors="replace")
    except FileNotFoundError:
        return []
    return [line.strip()[:_LINE_LENGTH] for line in text.splitlines() if line.strip()][-count:]


def telling_line(console: Path) -> str:
    """The last line; of a kernel that panicked, the line that says why; empty where nothing was said."""
    lines = last_lines(console, 200)
    telling = [line for line in lines if "Kernel panic" in line or "onecopy:" in line] or lines
    return f"console: {telling[-1]}" if telling else ""
