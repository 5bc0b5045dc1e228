"""A shared directory, a daemon that serves it, and a guest that has started a session."""

import os
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

from frontend import ROOT, Daemon, Frontend
from guest import Guest

if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))


class Setting:
    """One daemon, one front end, one guest."""

    def __init__(self, base: Path, arguments: tuple[str, ...], **frontend: object) -> None:
        self.base = base
        self.shared = base / "shared"
        self.shared.mkdir(exist_ok=True)
        self.daemon = Daemon(base, self.shared, *arguments)
        self.frontend = Frontend(self.daemon.socket, **frontend)  # type: ignore[arg-type]
        self.guest = Guest(self.frontend)
        self.flags = self.guest.init()

    @property
    def window(self):
        return self.frontend.window

    def end(self) -> None:
        self.frontend.close()
        self.daemon.kill()


@pytest.fixture
def start(tmp_path):
    """Return a function that starts a Setting with arguments of the daemon."""
    started = []

    def run(*arguments: str, **frontend: object) -> Setting:
        if "--sandbox" not in arguments:
            arguments += ("--sandbox", "namespace" if os.geteuid() == 0 else "none")
        base = tmp_path / str(len(started))
        base.mkdir(exist_ok=True)
        started.append(Setting(base, arguments, **frontend))
        return started[-1]

    yield run
    for setting in started:
        setting.end()


@pytest.fixture
def fs(start):
    return start("--window", "64M")
