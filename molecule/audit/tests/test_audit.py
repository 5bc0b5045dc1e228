"""The audit's bounds against what is known otherwise: by the guests themselves, and by fincore on the host."""

import json

import pytest

STORE = "/var/lib/onecopy/store"
MIB = 1 << 20
# The runner's protocol in a few lines, so that the audit's own code is not what checks it.
ASK = """
import json, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.settimeout(120)
connection.connect(f"/run/onecopy/{sys.argv[1]}/runner.sock")
stream = connection.makefile("rw")
for number, question in enumerate([{"op": "hello"}, *json.loads(sys.argv[2])]):
    print(json.dumps({"id": f"audit{number}", **question}), file=stream, flush=True)
    answer = next(found for found in map(json.loads, stream) if found.get("id") == f"audit{number}")
    assert answer["ok"], answer
print(json.dumps(answer["result"]))
"""
READ_ALL = [
    {"op": "hold", "parts": {"all": "/data"}},
    {"op": "prefetch", "trees": ["/data"]},
    {"op": "residency", "parts": {"all": "/data"}},
]


def ask(host, guest, *questions):
    return json.loads(host.check_output("python3 -c %s %s %s", ASK, guest, json.dumps(questions)))


def audit(host, guest):
    found = host.ansible("audit_info", check=True)["audit"]
    return next(entry for entry in found["guests"] if entry["name"] in (guest, f"onecopy-{guest}"))


def page_cache(host, state, *paths):
    host.ansible("page_cache", f"paths={','.join(paths)} state={state}", check=False)


def fincore_bytes(host, path):
    return int(host.check_output("fincore --bytes --noheadings --output RES %s", path))


def held_pages_bytes(host, guest):
    """Read everything in the guest; what its page cache then holds of the data, by its own count."""
    result = ask(host, guest, *READ_ALL)
    ask(host, guest, {"op": "release"})
    return result["all"]["resident_pages"] * 4096


@pytest.fixture(autouse=True)
def no_leftovers_of_the_root_image(host):
    page_cache(host, "evicted", "/var/lib/onecopy/guest/root.img")


def test_image_that_the_host_caches(host):
    guest_bytes = held_pages_bytes(host, "audit-gfs")
    image = f"{STORE}/images/audit/gfs.img"
    found = audit(host, "audit-gfs")
    entry = next(entry for entry in found["images"] if entry["path"] == image)
    assert entry["host_cached_bytes"] == pytest.approx(fincore_bytes(host, image), rel=0.05)
    assert guest_bytes >= 28 * MIB * 0.95
    assert found["verdict"]["duplicated_at_most_bytes"] >= guest_bytes
    assert found["verdict"]["duplicated_at_most_bytes"] == pytest.approx(fincore_bytes(host, image), rel=0.05)
    assert found["verdict"]["setting"] == "image_direct"


def test_image_that_is_opened_with_o_direct(host):
    page_cache(host, "evicted", f"{STORE}/images/audit/gfs_direct.img")
    assert held_pages_bytes(host, "audit-gfs-direct") >= 28 * MIB * 0.95
    found = audit(host, "audit-gfs-direct")
    assert found["verdict"]["duplicated_at_most_bytes"] < 28 * MIB * 0.05
    assert all(image["direct"] for image in found["images"])


def test_share_that_both_cache(host):
    guest_bytes = held_pages_bytes(host, "audit-virtiofs-auto")
    found = audit(host, "audit-virtiofs-auto")
    assert guest_bytes >= 28 * MIB * 0.95
    assert found["verdict"]["duplicated_at_most_bytes"] == pytest.approx(guest_bytes, rel=0.05)
    assert found["verdict"]["setting"] == "share_no_guest_cache"


def test_share_that_the_guest_maps(host):
    guest_bytes = held_pages_bytes(host, "audit-myfs")
    found = audit(host, "audit-myfs")
    share = found["shares"][0]
    assert share["daemon"] == "hostfsd"
    assert share["dax_mapped_bytes"] >= 20 * MIB
    # Only files below the DAX threshold are in the guest's own cache.
    assert found["verdict"]["duplicated_at_most_bytes"] == pytest.approx(guest_bytes, rel=0.05, abs=28 * MIB * 0.05)


def test_looking_changes_no_cache(host):
    image = f"{STORE}/images/audit/gfs.img"
    page_cache(host, "resident", image)
    before = fincore_bytes(host, image)
    host.ansible("audit_info", check=True)
    assert fincore_bytes(host, image) == before
    page_cache(host, "evicted", f"{STORE}/images/audit/gfs_direct.img")
    host.ansible("audit_info", check=True)
    assert fincore_bytes(host, f"{STORE}/images/audit/gfs_direct.img") == 0
