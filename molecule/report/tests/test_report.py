"""A stored run has its three files, and they say what the golden files say."""

from pathlib import Path

PROJECT = Path(__file__).resolve().parents[3]
RUN = PROJECT / ".onecopy/molecule-report"
GOLDEN = PROJECT / "tests/golden/invented"


def test_summary_and_markdown_are_the_golden_ones(host):
    for name in ("summary.json", "report.md"):
        assert host.file(str(RUN / name)).content_string == (GOLDEN / name).read_text()


def test_the_page_needs_nothing_else(host):
    page = host.file(str(RUN / "report.html")).content_string
    assert page.startswith("<!doctype html>")
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert "<script" not in page


def test_nothing_else_is_left(host):
    names = {"plan.json", "manifest.json", "results.jsonl", "summary.json", "report.html", "report.md"}
    assert set(host.file(str(RUN)).listdir()) == names
