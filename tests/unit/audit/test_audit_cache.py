"""Counting on the real kernel: right, and without a trace."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import audit_cache, cachestat
from ansible.module_utils.onecopy import audit_processes as procs
from ansible.module_utils.onecopy.audit_cache import Deadline, of_tree

SIZE = 1 << 20


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    (tmp_path / "sub").mkdir()
    for name in ("a", "sub/b"):
        (tmp_path / name).write_bytes(os.urandom(SIZE))
    os.link(tmp_path / "a", tmp_path / "sub" / "hard_link_of_a")
    (tmp_path / "sub" / "link").symlink_to(tmp_path / "a")
    return tmp_path


def walk(top: Path, mode: audit_cache.WalkMode, seconds: float = 10) -> audit_cache.Residency:
    root = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return of_tree(root, mode, Deadline(seconds))
    finally:
        os.close(root)


@pytest.mark.parametrize("mode", ["known_names", "everything"])
def test_tree_counts_each_inode_once(tree: Path, mode: audit_cache.WalkMode) -> None:
    found = walk(tree, mode)
    assert (found.bytes, found.size, found.files, found.complete) == (2 * SIZE, 2 * SIZE, 2, True)


def test_no_walk_counts_nothing(tree: Path) -> None:
    assert walk(tree, "none").files == 0


def test_time_over_is_said(tree: Path) -> None:
    found = walk(tree, "everything", 0)
    assert not found.complete
    assert "0 s" in str(found.why_incomplete)


def test_partly_cached_file(tree: Path) -> None:
    fd = os.open(tree / "a", os.O_RDWR)
    try:
        os.fsync(fd)
        os.posix_fadvise(fd, 0, SIZE // 2, os.POSIX_FADV_DONTNEED)
        expected = cachestat.cachestat(fd).resident * cachestat.PAGE_SIZE
        held = [one for one in procs.open_files(os.getpid()) if one.fd == fd]
        assert audit_cache.of_held_files(os.getpid(), held * 2, Deadline(10)).bytes == expected
        assert walk(tree, "known_names").bytes == expected + SIZE
    finally:
        os.close(fd)


def test_looking_leaves_access_times_alone(tree: Path) -> None:
    for path in (tree, tree / "sub", tree / "a"):
        os.utime(path, (1, path.stat().st_mtime))
    walk(tree, "everything")
    assert [path.stat().st_atime for path in (tree, tree / "sub", tree / "a")] == [1, 1, 1]


def test_deleted_file_is_reached_through_its_descriptor(tree: Path) -> None:
    with (tree / "sub" / "b").open("rb") as stream:
        (tree / "sub" / "b").unlink()
        held = next(one for one in procs.open_files(os.getpid()) if one.fd == stream.fileno())
        assert audit_cache.of_open_file(os.getpid(), held).bytes == SIZE
