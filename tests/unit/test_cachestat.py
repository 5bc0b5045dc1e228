"""cachestat, on this machine's kernel and a real file system."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import cachestat as subject

PAGE = subject.PAGE_SIZE


def _file(path: Path, size: int) -> int:
    """A written, clean file of ``size`` bytes, opened for reading and writing."""
    path.write_bytes(os.urandom(size))
    descriptor = os.open(path, os.O_RDWR)
    os.fsync(descriptor)
    return descriptor


@pytest.fixture
def only_mincore(monkeypatch: pytest.MonkeyPatch) -> None:
    """A kernel without cachestat(2), as Ubuntu 22.04's 5.15."""
    monkeypatch.setattr(subject, "method", lambda: "mincore")


def test_a_written_file_is_resident_and_both_calls_agree(disk_path: Path) -> None:
    descriptor = _file(disk_path / "file", 5 * PAGE + 1)
    counted = subject.cachestat(descriptor)
    assert (counted.pages, counted.resident, counted.dirty, counted.writeback) == (6, 6, 0, 0)
    assert subject.mincore(descriptor) == (6, 6, None, None, None, None)
    os.close(descriptor)


def test_both_calls_agree_on_a_file_that_is_partly_resident(disk_path: Path) -> None:
    descriptor = _file(disk_path / "file", 64 * PAGE)
    subject.evict(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    os.pread(descriptor, 1, 40 * PAGE)
    counted = subject.cachestat(descriptor)
    assert 0 < counted.resident < 64
    assert subject.mincore(descriptor).resident == counted.resident
    for offset, resident in ((0, 0), (40 * PAGE, 1)):
        assert subject.cachestat(descriptor, offset, PAGE).resident == resident
        assert subject.mincore(descriptor, offset, PAGE).resident == resident
    os.close(descriptor)


def test_evict_and_prefetch_reach_what_they_say(disk_path: Path) -> None:
    descriptor = _file(disk_path / "file", 3 * 1024 * 1024 + 17)
    subject.evict(descriptor)
    assert subject.cachestat(descriptor).resident == 0
    assert subject.prefetch(descriptor) == 3 * 1024 * 1024 + 17
    assert subject.cachestat(descriptor).resident == 769
    os.close(descriptor)


def test_evict_writes_dirty_pages_first(disk_path: Path) -> None:
    descriptor = _file(disk_path / "file", 8 * PAGE)
    os.pwrite(descriptor, b"changed", 3 * PAGE)
    assert subject.cachestat(descriptor).dirty  # one page, or the large folio that holds it
    subject.evict(descriptor)
    assert subject.cachestat(descriptor).resident == 0
    assert os.pread(descriptor, 7, 3 * PAGE) == b"changed"
    os.close(descriptor)


def test_evict_writes_dirty_pages_where_the_kernel_cannot_tell_them(disk_path: Path, only_mincore: None) -> None:
    descriptor = _file(disk_path / "file", 8 * PAGE)
    os.pwrite(descriptor, b"changed", 0)
    subject.evict(descriptor)
    assert subject.cachestat(descriptor) == (8, 0, None, None, None, None)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("offset", "length", "pages"),
    [
        (0, 0, 3),
        (0, 1, 1),
        (PAGE - 1, 2, 2),
        (PAGE, 0, 2),
        (2 * PAGE, PAGE, 1),
        (2 * PAGE + 99, 50, 1),
        (3 * PAGE, 0, 0),
        (1 << 40, 10, 0),
        (0, 1 << 50, 3),
    ],
)
def test_ranges_end_with_the_file(disk_path: Path, offset: int, length: int, pages: int) -> None:
    descriptor = _file(disk_path / "file", 2 * PAGE + 100)
    assert subject.cachestat(descriptor, offset, length)[:2] == (pages, pages)
    assert subject.mincore(descriptor, offset, length)[:2] == (pages, pages)
    os.close(descriptor)


def test_mincore_windows_add_up(disk_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "_MINCORE_WINDOW", 4 * PAGE)
    descriptor = _file(disk_path / "file", 10 * PAGE)
    assert subject.mincore(descriptor, PAGE)[:2] == (9, 9)
    os.close(descriptor)


def test_an_empty_file_has_no_pages(disk_path: Path) -> None:
    descriptor = _file(disk_path / "file", 0)
    assert subject.cachestat(descriptor) == (0, 0, 0, 0, 0, 0)
    assert subject.mincore(descriptor).pages == 0
    assert subject.prefetch(descriptor) == 0
    subject.evict(descriptor)
    os.close(descriptor)


def test_a_sparse_file_counts_holes_as_pages(disk_path: Path) -> None:
    descriptor = os.open(disk_path / "sparse", os.O_RDWR | os.O_CREAT)
    os.ftruncate(descriptor, 100 * PAGE)
    assert subject.cachestat(descriptor)[:2] == (100, 0)
    os.pread(descriptor, 1, 50 * PAGE)
    assert subject.cachestat(descriptor).resident == subject.mincore(descriptor).resident > 0
    os.close(descriptor)


def test_a_file_that_grew_and_one_that_was_deleted_are_counted_as_they_are(disk_path: Path) -> None:
    descriptor = _file(disk_path / "file", PAGE)
    os.pwrite(descriptor, b"x", 4 * PAGE)
    assert subject.cachestat(descriptor).pages == 5
    os.unlink(disk_path / "file")
    assert subject.cachestat(descriptor).pages == 5
    os.close(descriptor)


def test_a_pipe_and_a_directory_are_refused(disk_path: Path) -> None:
    reader, writer = os.pipe()
    directory = os.open(disk_path, os.O_RDONLY)
    for descriptor in (reader, directory):
        with pytest.raises(OSError, match="neither a regular file nor a block device"):
            subject.cachestat(descriptor)
    for descriptor in (reader, writer, directory):
        os.close(descriptor)


def test_a_negative_offset_is_refused(disk_path: Path) -> None:
    descriptor = _file(disk_path / "file", PAGE)
    with pytest.raises(ValueError, match="must not be negative"):
        subject.cachestat(descriptor, -1)
    os.close(descriptor)


def test_a_dax_file_is_refused_before_the_kernel_is_asked(disk_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    descriptor = _file(disk_path / "file", PAGE)
    honest = subject._statx

    def on_dax(fd: int) -> object:
        answer = honest(fd)
        answer.attributes |= 0x200000
        return answer

    def oops(*arguments: int) -> None:
        raise AssertionError("the kernel was asked")

    assert not subject.is_dax(descriptor)
    monkeypatch.setattr(subject, "_statx", on_dax)
    monkeypatch.setattr(subject, "_system_call", oops)
    assert subject.is_dax(descriptor)
    for call in (subject.cachestat, subject.mincore):
        with pytest.raises(subject.DaxFileError):
            call(descriptor)
    subject.evict(descriptor)
    os.close(descriptor)


@pytest.mark.parametrize(
    ("answer", "expected"), [(errno.ENOSYS, "mincore"), (errno.EPERM, "mincore"), (None, "cachestat")]
)
def test_the_method_follows_the_kernel(monkeypatch: pytest.MonkeyPatch, answer: int | None, expected: str) -> None:
    def system_call(fd: int, offset: int, length: int) -> None:
        if answer is not None:
            raise OSError(answer, os.strerror(answer))

    monkeypatch.setattr(subject, "_system_call", system_call)
    assert subject.method.__wrapped__() == expected


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become somebody else")
def test_somebody_elses_file_is_an_error_not_a_full_cache(disk_path: Path) -> None:
    descriptor = _file(disk_path / "file", PAGE)
    reader = os.open(disk_path / "file", os.O_RDONLY)
    subject.evict(descriptor)
    child = os.fork()
    if child == 0:  # mincore(2) would call the evicted page resident
        os.setresuid(65534, 65534, 65534)
        try:
            subject.mincore(reader)
        except PermissionError:
            os._exit(0)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    os.close(reader)
    os.close(descriptor)


def test_runs_add_up_to_what_cachestat_counts(disk_path: Path) -> None:
    descriptor = _file(disk_path / "file", 64 * PAGE + 1)
    assert subject.resident_runs(descriptor) == [(0, 65)]
    subject.evict(descriptor)
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_RANDOM)
    for page in (3, 4, 40):
        os.pread(descriptor, 1, page * PAGE)
    runs = subject.resident_runs(descriptor)
    assert sum(count for _, count in runs) == subject.cachestat(descriptor).resident > 0
    assert {3, 4, 40} <= {page for first, count in runs for page in range(first, first + count)}
    subject.evict(descriptor)
    assert subject.resident_runs(descriptor) == []
    os.truncate(disk_path / "file", 0)
    assert subject.resident_runs(descriptor) == []
    os.close(descriptor)


def test_walk_is_sorted_complete_and_follows_no_link(disk_path: Path) -> None:
    for name in ("b/2", "b/1", "a", "c/deep/er/file", "z"):
        path = disk_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(b"")
    (disk_path / "link").symlink_to(disk_path / "a")
    (disk_path / "loop").symlink_to(disk_path)
    os.mkfifo(disk_path / "fifo")
    top = str(disk_path)
    found = [os.path.relpath(path, top) for path in subject.walk_files(top)]
    assert found == ["a", "z", "b/1", "b/2", "c/deep/er/file"]
    assert list(subject.walk_files(f"{top}/link")) == [f"{top}/link"]
    assert len(list(subject.walk_files(f"{top}/loop"))) == 5


def test_walk_reports_what_it_cannot_read(disk_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        list(subject.walk_files(str(disk_path / "absent")))
    (disk_path / "gone").mkdir()
    (disk_path / "zone").mkdir()
    (disk_path / "zone" / "file").write_bytes(b"")
    errors: list[OSError] = []
    walk = subject.walk_files(str(disk_path), errors.append)
    (disk_path / "gone").chmod(0)
    if os.geteuid() == 0:  # root reads everything: let the directory disappear instead
        (disk_path / "first").write_bytes(b"")
        assert next(walk).endswith("first")
        (disk_path / "gone").rmdir()
    assert [os.path.basename(path) for path in walk] == ["file"]
    assert [os.path.basename(error.filename) for error in errors] == ["gone"]
