"""page_cache and page_cache_info, on this machine's kernel."""

from __future__ import annotations

import mmap
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import cachestat, page_cache

PAGE = cachestat.PAGE_SIZE
Run = Callable[..., dict[str, Any]]


@pytest.fixture
def tree(disk_path: Path) -> Path:
    """Seven pages in three files, one of them known by two names, and what is no file."""
    top = disk_path / "tree"
    (top / "sub").mkdir(parents=True)
    (top / "one").write_bytes(b"x" * (4 * PAGE))
    (top / "sub" / "two").write_bytes(b"x" * (2 * PAGE + 1))
    (top / "sub" / "empty").touch()
    os.link(top / "one", top / "sub" / "again")
    (top / "link").symlink_to(top / "one")
    os.mkfifo(top / "fifo")
    os.sync()
    return top


def test_a_tree_is_counted_once_and_both_methods_agree(tree: Path, run_module: Run) -> None:
    ours = run_module("page_cache_info", paths=[str(tree)])
    assert (ours["changed"], ours["method"], ours["seconds"] > 0) == (False, "cachestat", True)
    assert {name: ours["total"][name] for name in ("files", "pages", "resident_pages", "dirty_pages")} == {
        "files": 3,
        "pages": 7,
        "resident_pages": 7,
        "dirty_pages": 0,
    }
    theirs = run_module("page_cache_info", paths=[str(tree)], method="mincore")["total"]
    assert theirs == {"files": 3, "pages": 7, "resident_pages": 7, "skipped_files": 0, "skipped": []}


def test_figures_of_every_file_are_given_on_request(tree: Path, run_module: Run) -> None:
    files = run_module("page_cache_info", paths=[str(tree)], per_file=True)["files"]
    assert {name.removeprefix(f"{tree}/"): counted["pages"] for name, counted in files.items()} == {
        "one": 4,
        "sub/empty": 0,
        "sub/two": 3,
    }
    assert "files" not in run_module("page_cache_info", paths=[str(tree)])


def test_evicting_and_reading_are_idempotent_and_verified(tree: Path, run_module: Run) -> None:
    def run(state: str, **more: Any) -> tuple[bool, int, int]:
        result = run_module("page_cache", paths=[str(tree)], state=state, **more)
        return result["changed"], result["before"]["resident_pages"], result["after"]["resident_pages"]

    assert run("resident") == (False, 7, 7)
    assert run("evicted", check_mode=True) == (True, 7, 7)
    assert run("evicted") == (True, 7, 0)
    assert run("evicted") == (False, 0, 0)
    assert run("resident", check_mode=True) == (True, 0, 0)
    assert run("resident") == (True, 0, 7)


def test_pages_that_are_mapped_are_reported_not_hidden(tree: Path, run_module: Run) -> None:
    with open(tree / "one", "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as mapping:
        assert mapping[0] == ord("x")
        result = run_module("page_cache", paths=[str(tree)], state="evicted")
    assert result["failed"] is True
    assert "of 7 pages are not evicted after 3 tries" in result["msg"]
    assert f"of these in {tree}/one): who maps them?" in result["msg"]


def test_a_named_file_must_exist(tree: Path, run_module: Run) -> None:
    for module, more in (("page_cache_info", {}), ("page_cache", {"state": "evicted"})):
        result = run_module(module, paths=[str(tree), f"{tree}/absent"], **more)
        assert (result["failed"], result["msg"]) == (True, f"{tree}/absent: No such file or directory")


def test_a_fifo_is_refused_when_named(tree: Path, run_module: Run) -> None:
    result = run_module("page_cache_info", paths=[f"{tree}/fifo"])
    assert result["msg"] == f"{tree}/fifo: is no regular file, directory or block device"


def test_a_wrong_state_is_refused(tree: Path, run_module: Run) -> None:
    assert "value of state must be one of" in run_module("page_cache", paths=[str(tree)], state="warm")["msg"]


def test_cachestat_cannot_be_forced_where_there_is_none(
    tree: Path, run_module: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cachestat, "method", lambda: "mincore")
    assert (
        "this kernel has no cachestat(2)" in run_module("page_cache_info", paths=[str(tree)], method="cachestat")["msg"]
    )
    result = run_module("page_cache_info", paths=[str(tree)])
    assert (result["method"], result["total"]["resident_pages"]) == ("mincore", 7)


def test_dax_files_are_refused_when_named_and_skipped_in_trees(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    honest = cachestat._statx

    def statx(fd: int) -> Any:
        answer = honest(fd)
        if os.readlink(f"/proc/self/fd/{fd}").endswith("two"):
            answer.attributes |= 0x200000
        return answer

    monkeypatch.setattr(cachestat, "_statx", statx)
    total = page_cache.count([str(tree)])
    assert (total.files, total.skipped_files) == (2, 1)
    assert total.skipped == [{"path": f"{tree}/sub/two", "reason": "dax"}]
    with pytest.raises(page_cache.PageCacheError, match="two: is a DAX file"):
        page_cache.count([f"{tree}/sub/two"])


def test_files_that_vanish_while_the_tree_is_walked_are_skipped(tree: Path) -> None:
    def remove(path: str, counted: object) -> None:
        if path.endswith("/one"):
            (tree / "sub" / "two").unlink()

    total = page_cache.count([str(tree)], on_file=remove)
    assert total.pages == 4
    assert total.skipped == []  # not listed yet when it went
    (tree / "a").touch()

    def remove_listed(path: str, counted: object) -> None:
        (tree / "one").unlink(missing_ok=True)

    assert page_cache.count([str(tree)], on_file=remove_listed).skipped == [
        {"path": f"{tree}/one", "reason": "vanished"}
    ]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_unreadable_files_are_skipped_in_trees_and_refused_when_named(tree: Path) -> None:
    tree.parent.chmod(0o755)
    (tree / "one").chmod(0o600)
    (tree / "sub").chmod(0o700)
    code = (
        "import os, sys; sys.path.insert(0, sys.argv[1])\n"
        "from onecopy import page_cache\n"
        "os.setresuid(65534, 65534, 65534)\n"
        "print([(s['path'].rpartition('/')[2], s['reason']) for s in page_cache.count([sys.argv[2]]).skipped])\n"
        "try: page_cache.count([sys.argv[2] + '/one'])\n"
        "except page_cache.PageCacheError as error: print(str(error).rpartition(': ')[2])\n"
    )
    utils = Path(page_cache.__file__).resolve().parents[1]
    answer = subprocess.run(
        [sys.executable, "-c", code, str(utils), str(tree)], capture_output=True, text=True, check=True
    )
    assert answer.stdout.splitlines() == ["[('one', 'unreadable'), ('sub', 'unreadable')]", "Permission denied"]


def test_names_that_are_not_utf_8_are_carried(tree: Path, run_module: Run) -> None:
    (tree / os.fsdecode(b"bad\xff")).write_bytes(b"x")
    files = run_module("page_cache_info", paths=[str(tree)], per_file=True)["files"]
    assert f"{tree}/bad\\xff" in files


def test_at_most_a_hundred_skipped_files_are_named() -> None:
    total = page_cache.Total()
    for number in range(150):
        total.skip(f"/f{number}", "vanished")
    assert (total.skipped_files, len(total.skipped)) == (150, 100)
