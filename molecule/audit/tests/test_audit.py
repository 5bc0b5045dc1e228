"""The audit's bounds against what is known otherwise: by the guests themselves, and by mincore(2) on the host."""

import json

import pytest

STORE = "/var/lib/onecopy/store"
SHARE = f"{STORE}/shares/audit/data"
# vars/guests.yml: a data set and its twin.
LARGE_BYTES = 2 * 12 << 20
DATA_BYTES = 2 * (12 + 2) << 20
# The runner's protocol in a few lines, so that the audit's own code is not what checks it.
ASK = """
import json, socket, sys
connection = socket.socket(socket.AF_UNIX)
connection.settimeout(120)
connection.connect(f"/run/onecopy/guests/{sys.argv[1]}/runner.sock")
stream = connection.makefile("rw")
for number, question in enumerate([{"op": "hello"}, *json.loads(sys.argv[2])]):
    print(json.dumps({"id": f"audit{number}", **question}), file=stream, flush=True)
    answer = next(found for found in map(json.loads, stream) if found.get("id") == f"audit{number}")
    assert answer["ok"], answer
print(json.dumps(answer["result"]))
"""
MINCORE = """
import ctypes, os, sys
libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
names = [os.path.join(top, name) for path in sys.argv[1:] for top, _, found in os.walk(path) for name in found]
total = 0
for name in names + [path for path in sys.argv[1:] if os.path.isfile(path)]:
    size = os.path.getsize(name)
    fd = os.open(name, os.O_RDONLY)
    address = ctypes.c_void_p(libc.mmap(None, ctypes.c_size_t(size), 1, 1, fd, ctypes.c_long(0)))
    pages = ctypes.create_string_buffer(-(-size // 4096))
    assert libc.mincore(address, ctypes.c_size_t(size), pages) == 0
    total += sum(page & 1 for page in pages.raw[: -(-size // 4096)]) * 4096
    libc.munmap(address, ctypes.c_size_t(size))
    os.close(fd)
print(total)
"""
READ_ALL = [
    {"op": "hold", "parts": {"all": "/data"}},
    {"op": "prefetch", "trees": ["/data"]},
    {"op": "residency", "parts": {"all": "/data"}},
]


def ask(host, guest, *questions):
    return json.loads(host.check_output("python3 -c %s %s %s", ASK, guest, json.dumps(questions)))


def audit(host):
    """The audit by guest."""
    return {
        entry["name"].removeprefix("onecopy-"): entry
        for entry in host.ansible("audit_info", check=True)["audit"]["guests"]
    }


def page_cache(host, state, *paths):
    host.ansible("page_cache", f"paths={','.join(paths)} state={state}", check=False)


def cached_bytes(host, *paths):
    return int(host.check_output("python3 -c %s" + " %s" * len(paths), MINCORE, *paths))


def held_pages_bytes(host, guest):
    """Read everything in the guest; what its page cache then holds of the data, by its own count."""
    result = ask(host, guest, *READ_ALL)
    ask(host, guest, {"op": "release"})
    return result["all"]["resident_pages"] * 4096


def audit_with_cached(host, guest, *paths):
    """The audit of one guest while the host caches all of ``paths``.

    Whatever else runs on the machine may evict: then once more.
    """
    for _ in range(5):
        page_cache(host, "resident", *paths)
        before = cached_bytes(host, *paths)
        found = audit(host)[guest]
        if cached_bytes(host, *paths) == before:
            return found, before
    pytest.fail("something else on this machine evicts again and again")


@pytest.fixture(autouse=True)
def no_leftovers_of_the_root_image(host):
    page_cache(host, "evicted", "/var/lib/onecopy/guest/root.img")


def test_image_that_the_host_caches(host):
    guest_bytes = held_pages_bytes(host, "audit-gfs")
    assert guest_bytes >= DATA_BYTES
    image = f"{STORE}/images/audit/gfs.img"
    found, cached = audit_with_cached(host, "audit-gfs", image)
    entry = next(entry for entry in found["images"] if entry["path"] == image)
    assert entry["host_cached_bytes"] == cached
    assert found["verdict"]["duplicated_at_most_bytes"] >= guest_bytes
    assert found["verdict"]["duplicated_at_most_bytes"] == pytest.approx(cached, rel=0.05)
    assert found["verdict"]["setting"] == "image_direct"


def test_image_that_is_opened_with_o_direct(host):
    page_cache(host, "evicted", f"{STORE}/images/audit/gfs_direct.img")
    assert held_pages_bytes(host, "audit-gfs-direct") >= DATA_BYTES
    found = audit(host)["audit-gfs-direct"]
    assert found["verdict"]["duplicated_at_most_bytes"] < DATA_BYTES * 0.05
    assert all(image["direct"] for image in found["images"])


def test_share_that_both_cache(host):
    guest_bytes = held_pages_bytes(host, "audit-virtiofs-auto")
    assert guest_bytes >= DATA_BYTES
    found, cached = audit_with_cached(host, "audit-virtiofs-auto", SHARE)
    assert cached == guest_bytes
    assert found["verdict"]["duplicated_at_most_bytes"] == pytest.approx(guest_bytes, rel=0.05)
    assert found["verdict"]["setting"] == "share_no_guest_cache"


def test_share_that_the_guest_maps(host):
    guest_bytes = held_pages_bytes(host, "audit-myfs")
    found, _ = audit_with_cached(host, "audit-myfs", SHARE)
    share = found["shares"][0]
    assert share["daemon"] == "hostfsd"
    assert share["dax_mapped_bytes"] >= LARGE_BYTES
    # Only files below the DAX threshold are in the guest's own cache.
    assert guest_bytes < DATA_BYTES - LARGE_BYTES * 0.95
    assert found["verdict"]["duplicated_at_most_bytes"] == pytest.approx(guest_bytes, rel=0.05)


def test_looking_changes_no_cache(host):
    image, cold = f"{STORE}/images/audit/gfs.img", f"{STORE}/images/audit/gfs_direct.img"
    page_cache(host, "evicted", cold)
    audit_with_cached(host, "audit-gfs", image, SHARE)
    assert cached_bytes(host, cold) == 0
