"""What end-to-end tests share."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager

import pytest

Shown = Callable[[], AbstractContextManager[None]]


@pytest.fixture(scope="module")
def shown(request: pytest.FixtureRequest) -> Shown:
    """Within it, what is printed is seen at once: a run takes minutes, and nobody should wait in silence."""
    show: Shown = request.config.pluginmanager.getplugin("capturemanager").global_and_fixture_disabled
    return show
