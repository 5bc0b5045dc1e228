"""The project's Python under the name that Ansible gives it."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import ansible.module_utils
import pytest

PROJECT = Path(__file__).resolve().parent.parent
ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))


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
