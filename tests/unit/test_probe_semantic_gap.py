"""The semantic gap: guesses of a host held against what a played guest caches."""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from ansible.module_utils.onecopy import block_reads, data_images, io_path, qemu
from ansible.module_utils.onecopy.fiemap import Extent
from ansible.module_utils.onecopy.host_data import DataSet, ImageData, ShareData
from ansible.module_utils.onecopy.probes import PROBES, ProbeError, Scene, why_unsuitable
from ansible.module_utils.onecopy.state import Phases
from ansible.module_utils.onecopy.systems import SYSTEMS

PAGE = 4096
FOLIO = 2 << 20
PROBE = PROBES["semantic_gap"]
# Where the played guest's disk holds the data: four files of one folio each, behind the first folio of the image.
FILES = 4


class Guest:
    """A runner whose guest caches whole files by what it was told; ``is_dax``: it maps them instead, and asks for what it has not."""

    def __init__(self, is_dax: bool = False, evicts: bool = True) -> None:
        self.is_dax = is_dax
        self.evicts = evicts
        self.cached: set[tuple[int, int]] = set()
        self.closed: set[int] = set()
        self.mappings = 0
        self.log: Path | None = None

    def call(self, op: str, timeout_seconds: float, /, **arguments: Any) -> dict[str, Any]:
        answer: dict[str, Any] = getattr(self, f"op_{op}")(**arguments)
        return answer

    def op_run(self, pipeline: list[list[str]], timeout_seconds: float, cwd: str) -> dict[str, Any]:
        words = dict(word.split("=", 1) for word in pipeline[0] if "=" in word)
        if pipeline[0][0] == "find":
            self.cached = {(file, page) for file in range(FILES) for page in range(FOLIO // PAGE)}
            self._tell(*((FOLIO * (file + 1), FOLIO) for file in range(FILES)))
        elif words["if"].startswith("/dev"):
            self._tell((int(words["skip"]) * PAGE, PAGE))
        else:
            file = int(words["if"][-1])
            self.mappings += (file, 0) not in self.cached
        return {"timed_out": False, "exit_codes": [0]}

    def _tell(self, *requests: tuple[int, int]) -> None:
        if self.log:
            with self.log.open("a") as log:
                for offset, length in requests:
                    log.write(
                        f"virtio_blk_handle_read vdev 0xd req 0x1 sector {offset // 512} nsectors {length // 512}\n"
                    )

    def op_resident_runs(self, parts: Sequence[str]) -> dict[str, Any]:
        def runs(file: int) -> list[list[int]] | None:
            return None if self.is_dax else [[page, 1] for number, page in sorted(self.cached) if number == file]

        return {part: {str(file): runs(file) for file in range(FILES) if file not in self.closed} for part in parts}

    def op_evict(self, ranges: Mapping[str, list[list[int]]]) -> dict[str, Any]:
        for file, offset, length in ranges["a/large"] if self.evicts else ():
            self.cached -= {(file, page) for page in range(offset // PAGE, (offset + length) // PAGE)}
            self.closed |= {file} if self.is_dax else set()
        return {"let_go": len(self.closed)}

    def op_drop(self, what: int) -> dict[str, Any]:
        return {}


@pytest.fixture
def files(disk_path: Path) -> Path:
    for tree in "ab":
        for part in ("large", "small"):
            (disk_path / tree / part).mkdir(parents=True)
            for file in range(FILES):
                (disk_path / tree / part / f"f{file}").write_bytes(os.urandom(FOLIO if part == "large" else 10))
    os.sync()
    return disk_path


def scene(system: str, guest: Guest, root: Path, data: Any, directory: Path) -> Any:
    class Cold(Scene):
        def reach(self, host_cache: str, guest_cache: str, *, is_residency: bool = True) -> dict[str, Any]:
            return {}

    plan = SimpleNamespace(
        data_mounts=[SimpleNamespace(source="/dev/vdc")], directory=directory, stats=directory / "stats.sock"
    )
    boot = SimpleNamespace(runner=guest, data_roots={"a": "/data/a"}, plan=plan, qmp=directory / "qmp")
    context = SimpleNamespace(plan={"seed": 1, "timeout_seconds": 5}, dataset=DataSet.of_share(root))
    trial = {"id": "0123", "system": system}
    return Cold(context, trial, [boot], data, {"part": "large", "run_pages": 16}, Phases(time.monotonic))  # type: ignore[list-item, arg-type]


def test_a_share_names_every_page_but_not_which_are_cached(files: Path, tmp_path: Path) -> None:
    found = PROBE.run(scene("virtiofs_auto", Guest(), files, ShareData(files), tmp_path)).metrics
    total = FILES * FOLIO // PAGE
    assert found["read_pages"] == total
    assert 0.3 * total < found["cached_pages"] < 0.7 * total
    assert found["files_recall_ratio"] == 1
    assert found["files_precision_ratio"] == found["cached_pages"] / total
    assert not {name for name in found if name.startswith(("maps", "image", "extents"))}


def test_what_the_daemon_shows_is_what_the_guest_maps(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = Guest(is_dax=True)

    def ask(path: Path) -> dict[str, Any]:
        shown = {}
        for file, page in guest.cached:
            status = (files / "a/large" / f"f{file}").stat()
            if page == 0:
                shown[f"{status.st_dev}:{status.st_ino}"] = [0]
        return {"window": {"range_bytes": FOLIO, "shown": shown}, "requests": {"SETUPMAPPING": guest.mappings}}

    monkeypatch.setattr(io_path, "ask", ask)
    found = PROBE.run(scene("myfs", guest, files, ShareData(files), tmp_path)).metrics
    assert found["cached_pages"] == found["read_pages"] / 2
    assert (found["maps_precision_ratio"], found["maps_recall_ratio"]) == (1, 1)
    assert (found["files_precision_ratio"], found["files_recall_ratio"]) == (0.5, 1)
    assert guest.mappings == FILES // 2


def test_a_daemon_that_shows_the_wrong_half_is_found_out(
    files: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    guest = Guest(is_dax=True)
    status = (files / "a/large/f0").stat()
    shown = {f"{status.st_dev}:{status.st_ino}": [0]}

    def ask(path: Path) -> dict[str, Any]:
        guest.cached.discard((0, 0))
        return {"window": {"range_bytes": FOLIO, "shown": shown}, "requests": {"SETUPMAPPING": guest.mappings}}

    monkeypatch.setattr(io_path, "ask", ask)
    found = PROBE.run(scene("myfs", guest, files, ShareData(files), tmp_path)).metrics
    assert (found["maps_precision_ratio"], found["maps_recall_ratio"]) == (0, 0)


def test_an_image_names_no_file_and_blocks_that_passed_are_not_blocks_that_stay(
    files: Path, disk_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = disk_path / "image"
    image.write_bytes(bytes(FOLIO * (FILES + 2)))
    guest = Guest()
    said: list[str] = []

    def monitor(path: Path, command: str, **arguments: str) -> str:
        said.append(arguments["command-line"])
        if said[-1].startswith("logfile"):
            guest.log = Path(said[-1].split()[1])
        return ""

    extents = {f"a/large/f{file}": [Extent(0, FOLIO * (file + 1), FOLIO, 0)] for file in range(FILES)}
    monkeypatch.setattr(qemu, "qmp", monitor)
    monkeypatch.setattr(data_images, "file_extents", lambda path, part: extents)
    probed = PROBE.run(scene("gfs", guest, files, ImageData(image, {}), tmp_path))
    found = probed.metrics
    half = found["cached_pages"] / found["read_pages"]
    assert 0.3 < half < 0.7
    assert found["image_recall_ratio"] == 0
    assert "image_precision_ratio" not in found
    for guess in ("extents", "passed"):
        assert (found[f"{guess}_recall_ratio"], found[f"{guess}_precision_ratio"]) == (1, half)
    assert probed.notes == ""
    assert said[-2:] == ["log none", "trace-event virtio_blk_handle_read off"]
    assert not guest.log or not guest.log.exists()


def test_a_qemu_that_tells_nothing_leaves_that_guess_out(
    files: Path, disk_path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = disk_path / "image"
    image.write_bytes(bytes(FOLIO))
    monkeypatch.setattr(qemu, "qmp", lambda *arguments, **more: "unknown command: 'logfile'\r\n")
    monkeypatch.setattr(data_images, "file_extents", lambda path, part: {})
    probed = PROBE.run(scene("gfs", Guest(), files, ImageData(image, {}), tmp_path))
    assert "passed_recall_ratio" not in probed.metrics
    assert probed.notes == "no guess by what passes: logfile: unknown command: 'logfile'"


def test_a_guest_that_keeps_everything_has_nothing_to_guess(files: Path, tmp_path: Path) -> None:
    with pytest.raises(ProbeError, match="2048 of 2048 pages after evicting"):
        PROBE.run(scene("virtiofs_auto", Guest(evicts=False), files, ShareData(files), tmp_path))


@pytest.mark.parametrize("system", ["hfs", "gfs_pmem_dax", "virtiofs_never"])
def test_who_keeps_no_pages_cannot_be_asked(system: str) -> None:
    assert why_unsuitable(PROBE, SYSTEMS[system], PROBE.parameters)
    assert "not known" in str(why_unsuitable(PROBE, SYSTEMS["gfs"], {"part": "big"}))


TRACE = """virtio_blk_handle_read vdev 0x55aa req 0x1 sector 0 nsectors 8
virtio_blk_handle_read vdev 0x66bb req 0x2 sector 8 nsectors 12
virtio_blk_req_complete vdev 0x66bb req 0x2 status 0
virtio_blk_handle_read vdev 0x66bb req 0x3 sector 792 nsectors 8
"""


def test_only_requests_of_the_disk_with_the_marker_count() -> None:
    # Twelve sectors from the eighth are a page and a half.
    assert block_reads.pages(TRACE, 99) == {1, 2}
    with pytest.raises(block_reads.TraceError, match="3 requests were seen"):
        block_reads.pages(TRACE, 5)
