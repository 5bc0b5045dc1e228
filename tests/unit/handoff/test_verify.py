"""Another machine has the archive and this kit, nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.onecopy.analysis import archive, handoff, verify
from invented_kit import PROJECT

TEMPLATES = PROJECT / "roles" / "report" / "templates"


@pytest.fixture
def packed(run: Path, repository: Path, tmp_path: Path) -> Path:
    collected = handoff.collect(run, repository)
    archive.write(tmp_path / "a.tar", collected.top, collected.files)
    return tmp_path / "a.tar"


def repack(path: Path, change: dict[str, bytes | None]) -> None:
    """What somebody makes who alters files and seals them again."""
    found = archive.read(path)
    files = {name: data for name, data in (dict(found.files) | change).items() if data is not None}
    archive.write(path, found.top, files)


def test_summary_is_byte_identical(packed: Path, tmp_path: Path) -> None:
    opened = verify.unpack(packed, tmp_path / "there")
    rebuilt = verify.rebuild(opened, TEMPLATES)
    assert rebuilt.difference == ""
    assert rebuilt.same["summary.json"]
    assert (rebuilt.directory / "summary.json").read_bytes() == (opened.run_directory / "summary.json").read_bytes()
    assert (rebuilt.directory / "report.html").read_text().lower().startswith("<!doctype html>")
    assert opened.experiment["name"] == "invented"
    assert len(opened.revision) == 40
    assert not opened.dirty


def test_twice_is_once(packed: Path, tmp_path: Path) -> None:
    first = verify.unpack(packed, tmp_path / "there")
    verify.rebuild(first, TEMPLATES)
    assert verify.unpack(packed, tmp_path / "there").directory == first.directory
    (first.directory / "experiment.yml").write_text("name: other")
    with pytest.raises(archive.ArchiveError, match="were changed since they were unpacked: remove it"):
        verify.unpack(packed, tmp_path / "there")


def test_altered_records_show_though_the_seal_is_good(packed: Path, tmp_path: Path) -> None:
    lines = archive.read(packed).files["run/results.jsonl"].splitlines(keepends=True)
    altered = b"".join(line.replace(b'"host_pages": 8192', b'"host_pages": 8000') for line in lines)
    assert altered != b"".join(lines)
    repack(packed, {"run/results.jsonl": altered})
    rebuilt = verify.rebuild(verify.unpack(packed, tmp_path / "there"), TEMPLATES)
    assert rebuilt.difference.startswith("claims[")
    assert not rebuilt.same["summary.json"]


def test_the_digest_from_the_maker_shows_a_resealed_archive(packed: Path, tmp_path: Path) -> None:
    digest = archive.read(packed).digest
    verify.unpack(packed, tmp_path / "first", digest.upper())
    repack(packed, {"README.md": b"trust me\n"})
    with pytest.raises(archive.ArchiveError, match="not the archive that was meant"):
        verify.unpack(packed, tmp_path / "second", digest)
    assert not (tmp_path / "second").exists()


@pytest.mark.parametrize(
    "name", ["experiment.yml", "run/plan.json", "run/summary.json", "source/experiments/claims.yml"]
)
def test_archives_that_handoff_did_not_make(packed: Path, tmp_path: Path, name: str) -> None:
    repack(packed, {name: None})
    with pytest.raises(archive.ArchiveError, match=f"holds no {name}: it was not made by handoff"):
        verify.unpack(packed, tmp_path / "there")


@pytest.mark.parametrize("claims", [b"claims: 3\n", b"[]\n", b"thresholds: {}\nclaims: []\n"])
def test_claims_that_make_no_sense_are_one_line(packed: Path, tmp_path: Path, claims: bytes) -> None:
    repack(packed, {"source/experiments/claims.yml": claims})
    with pytest.raises(archive.ArchiveError, match="cannot be rebuilt") as caught:
        verify.rebuild(verify.unpack(packed, tmp_path / "there"), TEMPLATES)
    assert "\n" not in str(caught.value)
