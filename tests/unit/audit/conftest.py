"""Captured command lines and tables, by file name."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "data" / "audit"


@pytest.fixture
def captured() -> Callable[[str], str]:
    return lambda name: (DATA / name).read_text(encoding="utf-8")


@pytest.fixture
def argv(captured: Callable[[str], str]) -> Callable[[str], list[str]]:
    return lambda name: captured(f"{name}.cmdline").rstrip("\n").split("\n")
