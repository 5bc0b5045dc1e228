"""What the manifest says of a host, on this machine."""

from __future__ import annotations

import json
from pathlib import Path

from ansible.module_utils.onecopy import provenance
from ansible.module_utils.onecopy.paths import HostPaths


def test_a_host_is_described_with_its_lab_and_its_storage(disk_path: Path) -> None:
    paths = HostPaths(disk_path)
    for path in (paths.share("tiny") / "data", paths.image("tiny", "gfs").parent, paths.image_manifest("tiny").parent):
        path.mkdir(parents=True)
    (paths.share("tiny") / "data/file").write_bytes(b"x" * 5000)
    paths.image("tiny", "gfs").write_bytes(b"x" * 8192)
    paths.image_manifest("tiny").write_text(json.dumps({"gfs": {"sha256": "abc"}, "gfs_direct": {"sha256": "abc"}}))
    facts = provenance.host_facts(paths, "tiny")
    assert facts["images"] == {"gfs": "abc", "gfs_direct": "abc"}
    assert facts["storage"]["shares"]["tiny"]["needed_bytes"] == 5000
    assert set(facts["storage"]["images"]) == {"gfs"}
    assert facts["lab"]["kernel"]["release"] == facts["kernel"]
    assert "swappiness" in facts["lab"]["settings"]
    assert "guest" not in facts  # nothing was made here: what is not known is absent


def test_a_host_without_data_is_described_all_the_same(disk_path: Path) -> None:
    paths = HostPaths(disk_path)
    paths.store.mkdir()
    assert "storage" not in provenance.host_facts(paths, "tiny")
