"""Host settings that a run changes: the old value is on the disk before the new one is set, so that it comes back after a kill too.

``python3 -m onecopy.knobs DIRECTORY`` restores what DIRECTORY remembers. Standard library alone, nothing of this package: this file is
copied to where the run's unit finds it.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
from pathlib import Path


class KnobError(Exception):
    """A setting that could not be changed or brought back; one line."""


def set_knob(directory: Path, knob: Path, value: str) -> bool:
    """Set ``knob`` (a file below /sys or /proc/sys) to ``value`` and verify it; returns whether it was another before.

    What it was when a run first touched it is remembered in ``directory`` until restore(). Raises KnobError.
    """
    before = _read(knob)
    if before == value:
        return False
    directory.mkdir(parents=True, exist_ok=True)
    memory = directory / f"{hashlib.sha256(str(knob).encode()).hexdigest()[:16]}.json"
    if not memory.exists():
        _remember(memory, {"knob": str(knob), "value": before})
    _write(knob, value)
    return True


def restore(directory: Path) -> list[str]:
    """Bring back every remembered setting and forget it; returns the names of those that changed. Raises KnobError after trying all."""
    restored, failed = [], []
    for memory in sorted(directory.glob("*.json")):
        saved = json.loads(memory.read_text(encoding="utf-8"))
        knob = Path(saved["knob"])
        try:
            if _read(knob) != saved["value"]:
                _write(knob, saved["value"])
                restored.append(str(knob))
        except KnobError as error:
            failed.append(str(error))
            continue
        memory.unlink()
    if failed:
        raise KnobError("; ".join(failed))
    return restored


def _read(knob: Path) -> str:
    """The value; of a choice such as ``always [madvise] never``, the chosen one."""
    try:
        text = knob.read_text(encoding="ascii").strip()
    except OSError as error:
        raise KnobError(f"{knob}: cannot be read: {error.strerror}") from error
    chosen = [word[1:-1] for word in text.split() if word.startswith("[") and word.endswith("]")]
    return chosen[0] if chosen else text


def _write(knob: Path, value: str) -> None:
    try:
        knob.write_text(value, encoding="ascii")
    except OSError as error:
        raise KnobError(f"{knob}: cannot be set to {value!r}: {error.strerror}") from error
    found = _read(knob)
    if found != value:
        raise KnobError(f"{knob}: was set to {value!r} and is {found!r}")


def _remember(path: Path, document: dict[str, str]) -> None:
    temporary = path.with_suffix(".new")
    with open(temporary, "w", encoding="utf-8") as file:
        json.dump(document, file)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    fd = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


if __name__ == "__main__":
    try:
        for name in restore(Path(sys.argv[1])):
            print(f"restored {name}")
    except KnobError as problem:
        sys.exit(str(problem))
