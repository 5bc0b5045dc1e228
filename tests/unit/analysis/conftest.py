"""Inputs of the analysis that several tests share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[3]


@pytest.fixture(scope="session")
def claims() -> dict[str, Any]:
    return dict(yaml.safe_load((PROJECT / "experiments" / "claims.yml").read_text()))
