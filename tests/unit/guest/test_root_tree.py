"""The guests' root tree as a data set, made of a root image that is played by a directory."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import root_tree
from ansible.module_utils.onecopy.host_data import DataSet
from ansible.module_utils.onecopy.paths import HostPaths

Run = Callable[..., dict[str, Any]]


@pytest.fixture
def state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    root = tmp_path / "root"
    for name in ("usr/bin", "usr/lib", "proc"):
        (root / name).mkdir(parents=True)
    (root / "usr/lib/libc.so.6").write_bytes(b"c" * (1 << 20))
    (root / "usr/bin/bash").write_bytes(b"#!")
    (root / "usr/bin/bash").chmod(0o4755)
    (root / "bin").symlink_to("usr/bin")
    os.mkfifo(root / "proc/fifo")

    @contextmanager
    def mounted(image: Path) -> Iterator[Path]:
        assert image == tmp_path / "state/guest/root.img"
        yield root

    monkeypatch.setattr(root_tree, "mounted", mounted)
    return tmp_path / "state"


def test_it_is_made_once_for_every_root_image(run_module: Run, state: Path) -> None:
    wanted = {"name": "rootfs", "state_directory": str(state)}
    assert "apply role guest_image first" in run_module("root_dataset", **wanted)["msg"]
    (state / "guest").mkdir(parents=True)
    (state / "guest/manifest.json").write_text(json.dumps({"root_sha256": "1" * 64}))
    assert run_module("root_dataset", check_mode=True, **wanted)["changed"]
    assert not (state / "store").exists()
    assert run_module("root_dataset", **wanted)["changed"]
    assert run_module("root_dataset", **wanted) == {
        "changed": False,
        "reason": "",
        "invocation": {"module_args": wanted},
    }
    (state / "guest/manifest.json").write_text(json.dumps({"root_sha256": "2" * 64}))
    assert "of another data set" in run_module("root_dataset", **wanted)["reason"]


def test_a_guest_can_boot_from_it(state: Path) -> None:
    paths = HostPaths(state)
    (state / "guest").mkdir(parents=True)
    (state / "guest/manifest.json").write_text(json.dumps({"root_sha256": "1" * 64}))
    root_tree.make("rootfs", paths)
    tree = paths.share("rootfs") / "data/a/tree"
    assert os.readlink(tree / "bin") == "usr/bin"
    assert (tree / "usr/bin/bash").stat().st_mode & 0o7777 == 0o755
    assert list((tree / "proc").iterdir()) == [], "a mount point, and nothing in it"
    assert not list(paths.share("rootfs").glob("*.tar"))
    files = DataSet.of_share(paths.share("rootfs") / "data").files
    assert [name for name, _ in files["a/large"]] == ["a/tree/usr/lib/libc.so.6"]
    assert [name for name, _ in files["a/small"]] == ["a/tree/usr/bin/bash"]
