"""The archive's promises: same files same bytes, every altered byte found and named, nothing unpacked outside."""

from __future__ import annotations

import io
import resource
import subprocess
import tarfile
from pathlib import Path

import pytest
from ansible.module_utils.onecopy.analysis import archive

FILES = {
    "run/results.jsonl": b'{"id": 1}\n{"id": 2}\n',
    "run/plan.json": b"{}\n",
    "source/onecopy": b"#!/bin/sh\nexit 0\n",
    "source/empty": b"",
    "source/block": bytes(range(256)) * 2,
}


@pytest.fixture
def packed(tmp_path: Path) -> Path:
    path = tmp_path / "a.tar"
    archive.write(path, "onecopy-r1", FILES)
    return path


def refusal(path: Path, data: bytes) -> str:
    path.write_bytes(data)
    with pytest.raises(archive.ArchiveError) as caught:
        archive.read(path)
    message = str(caught.value)
    assert "\n" not in message
    assert message.startswith(f"{path}: ")
    return message.removeprefix(f"{path}: ")


def test_reads_what_was_packed(packed: Path) -> None:
    found = archive.read(packed)
    assert (found.top, dict(found.files)) == ("onecopy-r1", FILES)
    assert found.digest == archive.digest(packed.read_bytes())


def test_same_files_in_another_order_give_the_same_bytes(packed: Path) -> None:
    assert archive.pack("onecopy-r1", dict(reversed(FILES.items()))) == packed.read_bytes()


def test_other_tools_read_it(packed: Path, tmp_path: Path) -> None:
    subprocess.run(["tar", "-xf", packed, "-C", tmp_path], check=True)
    for sums in (archive.SEAL, archive.SUMS):
        subprocess.run(["sha256sum", "--check", "--strict", "--quiet", sums], cwd=tmp_path / "onecopy-r1", check=True)
    assert (tmp_path / "onecopy-r1/source/onecopy").stat().st_mode & 0o777 == 0o755


def test_every_flipped_byte_is_found_and_named(tmp_path: Path) -> None:
    packed = tmp_path / "small.tar"
    archive.write(packed, "onecopy-r1", {name: FILES[name] for name in ("run/results.jsonl", "source/onecopy")})
    good = packed.read_bytes()
    owner = [""] * len(good)
    with tarfile.open(packed) as tar:
        for entry in tar:
            end = entry.offset_data + entry.size + (-entry.size % 512)
            owner[entry.offset : end] = [entry.name.partition("/")[2]] * (end - entry.offset)
    for at, name in enumerate(owner):
        message = refusal(packed, good[:at] + bytes([good[at] ^ 0x41]) + good[at + 1 :])
        assert (name or "end mark") in message, f"byte {at} of {name or 'the end mark'}: {message}"


@pytest.mark.parametrize("keep", [0, 1, 511, 512, 700, 1024, 1500, 2048, 4000, -1024, -1, -1023])
def test_cut_short_is_one_clear_line(packed: Path, keep: int) -> None:
    assert refusal(packed, packed.read_bytes()[:keep]).startswith("cut short: ")


def test_appended_bytes_are_found(packed: Path) -> None:
    assert "end mark" in refusal(packed, packed.read_bytes() + b"\0")


@pytest.mark.parametrize("data", [b"hello" * 300, bytes(4096), b"PK\3\4" + bytes(2000)])
def test_another_file_is_no_archive(tmp_path: Path, data: bytes) -> None:
    assert refusal(tmp_path / "x", data).startswith("not an archive made by handoff")


def test_missing_archive(tmp_path: Path) -> None:
    with pytest.raises(archive.ArchiveError, match="cannot be read: No such file"):
        archive.read(tmp_path / "none.tar")


@pytest.mark.parametrize(
    "name",
    [
        "../x",
        "/etc/passwd",
        "a/../../x",
        "a//b",
        "",
        "a/",
        "./a",
        "a\\b",
        "a\nb",
        "é",
        "SHA256SUMS",
        "SHA256SUMS.sha256",
        "l" * 300,
    ],
)
def test_names_that_cannot_be_stored(name: str) -> None:
    with pytest.raises(archive.ArchiveError):
        archive.pack("top", {name: b""})


def test_a_file_cannot_be_a_directory_too() -> None:
    with pytest.raises(archive.ArchiveError, match="both a file and a directory"):
        archive.pack("top", {"a": b"", "a/b": b""})


def forged(name: str, **fields: object) -> bytes:
    """A well-formed tar with correct lists, made by somebody who wants to write elsewhere."""
    sums = f"{archive.digest(b'evil')}  {name}\n".encode()
    seal = f"{archive.digest(sums)}  {archive.SUMS}\n".encode()
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for entry_name, data in ((archive.SEAL, seal), (archive.SUMS, sums), (name, b"evil")):
            entry = tarfile.TarInfo(f"top/{entry_name}")
            entry.size = len(data)
            if entry_name == name:
                for key, value in fields.items():
                    setattr(entry, key, value)
            tar.addfile(entry, io.BytesIO(data))
    return buffer.getvalue()[: 512 * 6] + bytes(1024)


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil"])
def test_forged_paths_are_refused(tmp_path: Path, name: str) -> None:
    assert "not a plain relative path" in refusal(tmp_path / "x", forged(name))


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.DIRTYPE, tarfile.XHDTYPE])
def test_forged_links_and_devices_are_refused(tmp_path: Path, kind: bytes) -> None:
    assert "header of evil was altered" in refusal(tmp_path / "x", forged("evil", type=kind, linkname="/etc/passwd"))


@pytest.mark.parametrize("fields", [{"mode": 0o4755}, {"uid": 1}, {"mtime": 5}, {"uname": "me"}])
def test_headers_carry_nothing_else(tmp_path: Path, fields: dict[str, object]) -> None:
    assert "header of evil was altered" in refusal(tmp_path / "x", forged("evil", **fields))


def test_unpack_writes_the_files_and_their_lists(packed: Path, tmp_path: Path) -> None:
    there = tmp_path / "new" / "place"
    archive.unpack(archive.read(packed), there)
    found = {str(path.relative_to(there)): path.read_bytes() for path in there.rglob("*") if path.is_file()}
    assert found == archive.seal(FILES)


def test_unpack_never_touches_what_exists(packed: Path, tmp_path: Path) -> None:
    (tmp_path / "there").symlink_to(tmp_path)
    with pytest.raises(archive.ArchiveError, match="exists already"):
        archive.unpack(archive.read(packed), tmp_path / "there")


def test_destination_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(archive.ArchiveError, match="cannot be written"):
        archive.write(tmp_path / "file" / "a.tar", "top", FILES)


def test_a_write_that_fails_half_way_leaves_nothing(tmp_path: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))
    try:
        with pytest.raises(archive.ArchiveError, match="cannot be written: File too large; make room"):
            archive.write(tmp_path / "a.tar", "top", FILES)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert list(tmp_path.iterdir()) == []
