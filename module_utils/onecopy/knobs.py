"""Host settings that a run changes: the old value is on the disk before the new one is set, so that it comes back after a kill too.

``python3 -m onecopy.knobs DIRECTORY`` restores what DIRECTORY remembers. Standard library alone, nothing of this package: this file is
copied to where the run's unit finds it.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Collection
from pathlib import Path


class KnobError(Exception):
    """A setting that could not be changed or brought back; one line."""


def set_knob(directory: Path, knob: Path, value: str) -> bool:
    """Set ``knob`` (a file below /sys or /proc/sys) to ``value`` and verify it; returns whether it was another before.

    What it was when a run first touched it is remembered in ``directory`` until restore(). Raises KnobError.
    """
    before = read(knob)
    memory = directory / f"{hashlib.sha256(str(knob).encode()).hexdigest()[:16]}.json"
    if before == value and not memory.exists():
        return False
    directory.mkdir(parents=True, exist_ok=True)
    original = _recall(memory)["value"] if memory.exists() else before
    _remember(memory, {"knob": str(knob), "value": original, "set": value})
    if before != value:
        _write(knob, value)
    return before != value


def drifted(directory: Path) -> list[str]:
    """One line for every setting that somebody else changed since it was set: empty is verified."""
    lines = []
    for memory in sorted(directory.glob("*.json")):
        saved = _recall(memory)
        try:
            found = read(Path(saved["knob"]))
        except KnobError as error:
            lines.append(str(error))
            continue
        if found != saved["set"]:
            lines.append(f"{saved['knob']}: was set to {saved['set']!r} and is {found!r} now")
    return lines


def restorable(directory: Path) -> list[str]:
    """The names of the settings that restore() would change."""
    remembered = [_recall(memory) for memory in sorted(directory.glob("*.json"))]
    return [saved["knob"] for saved in remembered if read(Path(saved["knob"])) != saved["value"]]


def restore(directory: Path, only: Collection[Path] | None = None) -> list[str]:
    """Bring back every remembered setting (or ``only`` these) and forget it; returns the names of those that changed.

    Raises KnobError after trying all.
    """
    restored, failed, remembered = [], [], []
    for memory in sorted(directory.glob("*.json")):
        try:
            saved = _recall(memory)
        except KnobError as error:
            failed.append(str(error))
            continue
        if only is None or Path(saved["knob"]) in only:
            remembered.append((memory, saved))
    # Stopping KSM alone leaves merged what was merged, and some of its settings cannot be changed meanwhile: all is unmerged first, its switch comes last.
    remembered.sort(key=lambda one: _is_ksm_switch(Path(one[1]["knob"])))
    unmerges = any(_is_ksm(Path(saved["knob"])) and _differs(saved) for _, saved in remembered)
    for _, saved in remembered:
        if unmerges and _is_ksm_switch(Path(saved["knob"])):
            with contextlib.suppress(KnobError):  # said below, when it is set
                _write(Path(saved["knob"]), "2")
    for memory, saved in remembered:
        knob = Path(saved["knob"])
        try:
            if read(knob) != saved["value"]:
                _write(knob, saved["value"])
                restored.append(str(knob))
        except KnobError as error:
            failed.append(str(error))
            continue
        memory.unlink()
    if failed:
        raise KnobError("; ".join(failed))
    return restored


def read(knob: Path) -> str:
    """The value; of a choice such as ``always [madvise] never``, the chosen one. Raises KnobError."""
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
    found = read(knob)
    if found != value:
        raise KnobError(f"{knob}: was set to {value!r} and is {found!r}")


def _is_ksm(knob: Path) -> bool:
    return knob.parent.name == "ksm"


def _is_ksm_switch(knob: Path) -> bool:
    return _is_ksm(knob) and knob.name == "run"


def _differs(saved: dict[str, str]) -> bool:
    try:
        return read(Path(saved["knob"])) != saved["value"]
    except KnobError:
        return True


def _recall(memory: Path) -> dict[str, str]:
    try:
        saved: dict[str, str] = json.loads(memory.read_text(encoding="utf-8"))
        return {name: saved[name] for name in ("knob", "value", "set")}
    except (OSError, ValueError, KeyError) as error:
        raise KnobError(f"{memory}: cannot be read ({error}): set back by hand what it names, and remove it") from error


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
