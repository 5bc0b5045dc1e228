"""What is counted around a workload, on real files and processes of this machine."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import cachestat, measure
from ansible.module_utils.onecopy.host_data import DataMissingError, DataSet, ImageData, ShareData, host_data
from ansible.module_utils.onecopy.paths import HostPaths
from ansible.module_utils.onecopy.systems import SYSTEMS
from ansible.module_utils.onecopy.workloads import WORKLOADS, Reads

PAGE = 4096


@pytest.fixture
def share(disk_path: Path) -> Path:
    for tree in "ab":
        for part, count, size in (("large", 1, 10 * PAGE), ("small", 3, 100)):
            directory = disk_path / tree / part
            directory.mkdir(parents=True)
            for number in range(count):
                (directory / str(number)).write_bytes(b"x" * size)
    return disk_path


def test_share_is_evicted_prefetched_and_counted_by_part(share: Path) -> None:
    data = ShareData(share)
    data.evict([])
    assert data.residency().as_dict() == {"pages": 26, "resident_pages": 0, "dirty_pages": 0}
    data.prefetch()
    assert data.residency().resident_pages == 26
    assert data.resident_pages(("a/large",)) == 10
    assert data.resident_pages(("a/small", "b/small")) == 6
    assert data.overhead_pages() == 0


def test_image_tells_data_from_overhead(disk_path: Path) -> None:
    image = disk_path / "gfs.img"
    image.write_bytes(b"x" * 100 * PAGE)
    data = ImageData(image, {"a/large": [(10 * PAGE, 4 * PAGE), (20 * PAGE, 4 * PAGE)], "a/small": [(40 * PAGE, PAGE)]})
    data.evict([])
    assert (data.residency().resident_pages, data.overhead_pages()) == (0, 0)
    data.prefetch()
    assert data.resident_pages(("a/large",)) == 8
    assert data.resident_pages(("a/large", "a/small")) == 9
    assert data.overhead_pages() == 91


def test_pages_that_the_kernel_reclaimed_are_counted(disk_path: Path) -> None:
    image = disk_path / "gfs.img"
    image.write_bytes(os.urandom(400 * PAGE))
    os.sync()
    data = ImageData(image, {"a/large": [(0, 400 * PAGE)]})
    data.prefetch()
    with open(image, "rb") as file, mmap.mmap(file.fileno(), 0, mmap.MAP_SHARED, mmap.PROT_READ) as mapped:
        sum(mapped[::PAGE])
        mapped.madvise(21)  # MADV_PAGEOUT, as DAMON's scheme does it
    assert data.reclaimed_pages(("a/large",)) == 400 - data.resident_pages(("a/large",)) > 0


def test_data_set_knows_what_workloads_want(share: Path) -> None:
    dataset = DataSet.of_share(share)
    assert dataset.pages(("a/large", "a/small")) == 13
    assert dataset.wanted_bytes(Reads("all")) == 10 * PAGE + 300
    assert dataset.wanted_bytes(Reads("both")) == 2 * (10 * PAGE + 300)
    assert dataset.wanted_bytes(Reads("sample")) == 300
    assert dataset.wanted_bytes(Reads("none")) == 0
    assert dataset.wanted_bytes(Reads("large", bytes=5)) == 5
    assert dataset.large_file() == "a/large/0"
    assert dataset.sample() == ["a/small/0", "a/small/1", "a/small/2"]


def test_image_that_nobody_made_is_one_line(disk_path: Path) -> None:
    with pytest.raises(DataMissingError, match=r"knows no image of gfs: make the images \(role guest_image\) first\Z"):
        host_data(SYSTEMS["gfs"], "tiny", HostPaths(disk_path))


def residency(pages: int) -> dict[str, int]:
    return {"pages": pages, "resident_pages": pages}


def test_copies_by_part_extra_and_overhead(share: Path) -> None:
    data, dataset = ShareData(share), DataSet.of_share(share)
    data.prefetch()
    guest = {"a/large": residency(10), "a/small": residency(3)}
    found = measure.copies(WORKLOADS["cat"], dataset, data, guest, daemon_pages=2)
    assert found["copies"]["all"] == {"accessed_pages": 13, "host_pages": 13, "guest_pages": 13, "daemon_pages": 2}
    assert found["copies"]["large"]["accessed_pages"] == 10
    assert (found["extra_pages"], found["overhead_pages"]) == (13, 0)


def test_copies_of_a_workload_that_reads_one_part(share: Path) -> None:
    data, dataset = ShareData(share), DataSet.of_share(share)
    data.evict([])
    with open(share / "a/large/0", "rb") as file:
        cachestat.prefetch(file.fileno())
    from_large = type(WORKLOADS["cat"])(WORKLOADS["cat"].pipeline, Reads("large"))
    found = measure.copies(from_large, dataset, data, {"a/large": residency(10), "a/small": residency(3)})
    assert set(found["copies"]) == {"all", "large"}
    assert found["copies"]["all"]["host_pages"] == 10
    assert found["extra_pages"] == 3
