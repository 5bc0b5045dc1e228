"""Reading and extending a machine's apt sources."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.module_utils.onecopy import apt_sources
from ansible.module_utils.onecopy.apt_sources import Source, Suite

DATA = Path(__file__).resolve().parents[2] / "data/environment"
DEBIAN_13 = {"ID": "debian", "VERSION_CODENAME": "trixie"}


def test_deb822_reads_enabled_deb_entries_only() -> None:
    found = list(apt_sources.parse_deb822((DATA / "sources-debian-13.sources").read_text()))
    assert found == [
        Source("http://mirror.example/debian", ("trixie", "trixie-updates"), ("main", "non-free-firmware")),
        Source("http://mirror.example/debian-security", ("trixie-security",), ("main",)),
    ]


def test_one_line_format_with_options_and_comments() -> None:
    found = list(apt_sources.parse_one_line((DATA / "sources-debian-12.list").read_text()))
    assert [(source.uri, source.suites[0]) for source in found] == [
        ("http://mirror.example/debian/", "bookworm"),
        ("http://mirror.example/debian-security", "bookworm-security"),
        ("http://other.example/tool", "stable"),
    ]
    assert found[0].components == ("main", "contrib")


@pytest.mark.parametrize("text", ["", "deb", "deb [arch=amd64", "Types: deb\n\n", "URIs: x\n continued\n"])
def test_torn_sources_give_nothing(text: str) -> None:
    assert list(apt_sources.parse_one_line(text)) == []
    assert list(apt_sources.parse_deb822(text)) == []


def test_a_directory_is_read_in_apts_order_without_what_is_excluded(tmp_path: Path) -> None:
    parts = tmp_path / "sources.list.d"
    parts.mkdir()
    (tmp_path / "sources.list").write_text("deb http://a.example/debian trixie main\n")
    (parts / "b.sources").write_text("Types: deb\nURIs: http://b.example/debian\nSuites: trixie\nComponents: main\n")
    (parts / "c.list").write_text("deb http://c.example/debian trixie main\n")
    (parts / "d.list.save").write_text("deb http://d.example/debian trixie main\n")
    assert [source.uri[7] for source in apt_sources.read_sources(tmp_path)] == ["a", "b", "c"]
    assert [source.uri[7] for source in apt_sources.read_sources(tmp_path, exclude=["sources.list.d/c.list"])] == [
        "a",
        "b",
    ]


def test_only_a_debian_lends_its_mirror() -> None:
    sources = list(apt_sources.parse_deb822((DATA / "sources-debian-13.sources").read_text()))
    ubuntu = apt_sources.os_release((DATA / "os-release-ubuntu-24.04.txt").read_text())
    assert ubuntu["VERSION_ID"] == "24.04"
    assert apt_sources.debian_mirrors(DEBIAN_13, sources) == (
        "http://mirror.example/debian",
        "http://mirror.example/debian-security",
    )
    assert apt_sources.debian_mirrors(ubuntu, sources) == (None, None)


def test_a_roots_sources() -> None:
    assert apt_sources.sources_list("trixie", None, None, "/k.gpg") == []
    assert apt_sources.sources_list("trixie", "http://m", "http://s", "/k.gpg") == [
        "deb [signed-by=/k.gpg] http://m trixie main",
        "deb [signed-by=/k.gpg] http://m trixie-updates main",
        "deb [signed-by=/k.gpg] http://s trixie-security main",
    ]
    assert apt_sources.sources_list("trixie", "http://m", None, "")[0] == "deb http://m trixie main"


def test_a_suite_is_added_from_the_hosts_own_mirror_and_pinned() -> None:
    suite = Suite("trixie-backports", ("qemu", "seabios"))
    files = apt_sources.suite_files(suite, [Source("http://m", ("trixie",), ("main",))], DEBIAN_13, "", "/k.gpg")
    assert files == {
        "preferences.d/onecopy": "Package: src:qemu src:seabios\nPin: release n=trixie-backports\nPin-Priority: 500\n",
        "sources.list.d/onecopy.list": "deb [signed-by=/k.gpg] http://m trixie-backports main\n",
    }


def test_a_suite_that_is_there_is_only_pinned() -> None:
    sources = [Source("http://m", ("trixie", "trixie-backports"), ("main",))]
    assert list(apt_sources.suite_files(Suite("trixie-backports", ("qemu",)), sources, DEBIAN_13, "", "/k")) == [
        "preferences.d/onecopy"
    ]


def test_without_a_mirror_a_suite_is_refused_unless_one_is_given() -> None:
    suite = Suite("trixie-backports", ("qemu",))
    with pytest.raises(ValueError, match="no mirror for trixie-backports"):
        apt_sources.suite_files(suite, [], DEBIAN_13, "", "/k")
    assert (
        "http://given"
        in apt_sources.suite_files(suite, [], DEBIAN_13, "http://given", "/k")["sources.list.d/onecopy.list"]
    )


def test_files_are_written_once_and_removed_again(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    names = ("d/a", "d/b")
    assert apt_sources.write_files(tmp_path, names, {"d/a": "1"}, check_mode=True) == [str(tmp_path / "d/a")]
    assert not (tmp_path / "d/a").exists()
    assert apt_sources.write_files(tmp_path, names, {"d/a": "1"}) == [str(tmp_path / "d/a")]
    assert apt_sources.write_files(tmp_path, names, {"d/a": "1"}) == []
    assert apt_sources.write_files(tmp_path, names, {}) == [str(tmp_path / "d/a")]
    assert list((tmp_path / "d").iterdir()) == []
