"""The data set is there, byte by byte, and its twin with it."""

import json

DATA = "/var/lib/onecopy/store/shares/tiny/data"
MANIFEST = "/var/lib/onecopy/manifests/tiny.json"


def digests(host, tree):
    lines = host.check_output(f"cd {DATA}/{tree} && find . -type f -exec sha256sum {{}} +").splitlines()
    return {path.removeprefix("./"): digest for digest, path in (line.split(maxsplit=1) for line in lines)}


def test_every_file_is_as_the_manifest_says_in_both_trees(host):
    manifest = json.loads(host.file(MANIFEST).content_string)
    expected = {file["path"]: file["sha256"] for file in manifest["files"]}
    assert len(expected) == 102
    assert digests(host, "a") == expected
    assert digests(host, "b") == expected


def test_sizes_are_those_asked_for(host):
    manifest = json.loads(host.file(MANIFEST).content_string)
    assert sum(file["size"] for file in manifest["files"] if file["path"].startswith("large/")) == 2 << 20
    assert sum(file["size"] for file in manifest["files"] if file["path"].startswith("small/")) == 1 << 20


def test_every_page_has_a_digest(host):
    manifest = json.loads(host.file(MANIFEST).content_string)
    pages = sum(-(-file["size"] // 4096) for file in manifest["files"])
    sidecar = host.file(f"/var/lib/onecopy/manifests/{manifest['pages']['file']}")
    assert sidecar.size == pages * manifest["pages"]["digest_bytes"]
    assert sidecar.sha256sum == manifest["pages"]["sha256"]


def test_the_bytes_are_the_same_on_every_machine(host):
    """Pinned by a machine other than this one."""
    assert (
        host.file(f"{DATA}/a/large/file-000.txt").sha256sum
        == "7a15b1ce0b21270695939aa18fe7f35c7a180753403c5da2b9a30aaf2c4545bb"
    )


def test_there_is_a_scratch_beside_the_data(host):
    assert host.file("/var/lib/onecopy/store/shares/tiny/scratch").is_directory
