"""A disk that is full while a record, an image or a report is written. No guest is needed for it; it needs root, for a small disk."""

from __future__ import annotations

import shutil
import subprocess
from datetime import UTC, datetime
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import image, run_directory
from ansible.module_utils.onecopy.analysis import reporting
from ansible.module_utils.onecopy.commands import CommandError
from ansible.module_utils.onecopy.paths import HostPaths
from fake_testbed import FakeTestbed
from fakes import RUN, found, go, is_complete, plan
from points import CHEAP, Told, draw, fill, make_room

PROJECT = Path(__file__).resolve().parents[2]
GOLDEN = PROJECT / "tests/golden/invented"
PAGE = 4096


@pytest.mark.fault("disk full while the KVM host appends a record")
@pytest.mark.parametrize("point", range(CHEAP))
def test_record_on_the_host(small_disk: Path, host: HostPaths, point: int, told: Told) -> None:
    host.run(RUN).rmdir()
    (small_disk / "run").mkdir()
    host.run(RUN).symlink_to(small_disk / "run")
    # Room for the lock, and for some of the records' pages.
    fill(small_disk, PAGE * draw("full host", point).randrange(1, 4))
    bed = FakeTestbed(host.state)
    with pytest.raises(OSError, match="No space left"):
        go(host, bed)
    results = small_disk / "run/results.jsonl"
    before = results.read_bytes() if results.exists() else b""
    kept = found(host)
    make_room(small_disk)

    go(host, bed)

    assert results.read_bytes().startswith(before)
    assert found(host)[: len(kept)] == kept
    assert is_complete(found(host))
    assert not bed.alive()
    told("the slice ended; the same command went on", len(kept))


@pytest.mark.fault("disk full while the controller stores records")
@pytest.mark.parametrize("point", range(CHEAP))
def test_record_on_the_controller(small_disk: Path, host: HostPaths, point: int, told: Told) -> None:
    go(host, FakeTestbed(host.state))
    run, _ = run_directory.find_or_start(small_disk, plan(), ["box1"], PROJECT, now=datetime.now(UTC))
    chance = draw("full controller", point)
    # The last three do not fit into what is left of a page.
    first = chance.randrange(len(found(host)) - 2)
    run.add_records("box1", found(host)[:first])
    fill(small_disk, 0)
    with pytest.raises(OSError, match="No space left"):
        run.add_records("box1", found(host))
    kept = run.done("box1")
    assert len(kept) >= first
    files = sorted(path.name for path in run.path.iterdir())
    with pytest.raises(OSError, match="No space left"):
        run.update_host("box1", lambda entry: entry.update(filler="x" * 2 * PAGE))
    assert sorted(path.name for path in run.path.iterdir()) == files
    make_room(small_disk)

    again, is_old = run_directory.find_or_start(small_disk, plan(), ["box1"], PROJECT, now=datetime.now(UTC))
    assert (again, is_old) == (run, True)
    run.add_records("box1", found(host))

    assert is_complete(run.records("box1"))
    told("the run ended; the same command stored the rest", len(kept))


def make_both(spec: image.ImageSpec, tree: Path, target: Path, copied: Path) -> None:
    image.make(spec, target, tree)
    image.copy(target, copied)


@pytest.mark.fault("disk full while an image is built or copied")
@pytest.mark.parametrize("point", range(CHEAP))
def test_image(small_disk: Path, tmp_path: Path, point: int, told: Told) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "file").write_bytes(b"x" * (1 << 20))
    spec = image.data_spec("fault", image.tree_bytes(tree), 1)
    # The image takes 269 pages here, its copy 268.
    spare = draw("full image", point).randrange(100, 269 + 268) * PAGE
    target, copied = small_disk / "data.img", small_disk / "copy.img"
    fill(small_disk, spare)
    with pytest.raises((CommandError, image.NoSpaceError)):
        make_both(spec, tree, target, copied)
    # What is there is whole, and what is not whole is not there.
    assert {path.name for path in small_disk.iterdir()} <= {"filler", "data.img"}
    if target.exists():
        assert subprocess.run(["e2fsck", "-fn", target], capture_output=True, check=False).returncode == 0
    make_room(small_disk)

    make_both(spec, tree, target, copied)

    assert image.digest(target) == image.digest(copied)
    assert subprocess.run(["e2fsck", "-fn", target], capture_output=True, check=False).returncode == 0
    told("refused, nothing half made; made when there was room")


@pytest.mark.fault("disk full while the report is written")
@pytest.mark.parametrize("point", range(CHEAP))
def test_report(small_disk: Path, point: int, told: Told) -> None:
    run = small_disk / "smoke/20110401T000000Z"
    run.mkdir(parents=True)
    for name in ("plan.json", "manifest.json", "results.jsonl"):
        shutil.copy(GOLDEN / name, run)
    inputs = (run, PROJECT / "experiments/claims.yml", PROJECT / "roles/report/templates")
    made = reporting.make(*inputs)
    size = sum(len(text.encode()) for text in made.files.values())
    fill(small_disk, draw("full report", point).randrange(size // PAGE) * PAGE)
    with pytest.raises(
        reporting.RunError, match=r"cannot be written: No space left on device: make room there"
    ) as caught:
        reporting.store(made)
    assert "\n" not in str(caught.value)
    for path in run.iterdir():
        assert path.name in ("plan.json", "manifest.json", "results.jsonl") or path.read_text() == made.files[path.name]
    make_room(small_disk)

    assert reporting.store(reporting.make(*inputs))

    assert (run / "summary.json").read_bytes() == (GOLDEN / "summary.json").read_bytes()
    assert {path.name for path in run.iterdir()} == {*made.files, "plan.json", "manifest.json", "results.jsonl"}
    told("refused in one line, no file cut; written when there was room")
