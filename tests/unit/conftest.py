"""What unit tests share."""

from __future__ import annotations

import importlib.util
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.testing import patch_module_args

LIBRARY = Path(__file__).resolve().parents[2] / "library"


@pytest.fixture
def disk_path() -> Iterator[Path]:
    """An empty directory outside /tmp, which is a tmpfs on many machines: tmpfs has no eviction."""
    path = Path(tempfile.mkdtemp(prefix="onecopy-test-", dir="/var/tmp"))
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    holder = max((mount for mount in mounts if path.is_relative_to(mount[1])), key=lambda mount: len(mount[1]))
    try:
        if holder[2] == "tmpfs":
            pytest.skip("/var/tmp is a tmpfs: nothing can be evicted there")
        yield path
    finally:
        shutil.rmtree(path)


@pytest.fixture
def run_module(capsys: pytest.CaptureFixture[str]) -> Callable[..., dict[str, Any]]:
    """Run library/NAME.py in this process as Ansible would; returns its result, ``failed`` included."""

    def run(name: str, /, check_mode: bool = False, **arguments: Any) -> dict[str, Any]:
        spec = importlib.util.spec_from_file_location(name, LIBRARY / f"{name}.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        capsys.readouterr()
        with patch_module_args({**arguments, "_ansible_check_mode": check_mode}), pytest.raises(SystemExit):
            module.main()
        result: dict[str, Any] = json.loads(capsys.readouterr().out)
        return result

    return run
