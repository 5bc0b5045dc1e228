"""Images: the same bytes for every system, the data where the manifest says, the same again when made again."""

import itertools
import json

import pytest

STATE = "/var/lib/onecopy"
IMAGES = f"{STATE}/store/images/tiny"


@pytest.fixture(scope="module")
def manifest(host):
    return json.loads(host.file(f"{STATE}/manifests/tiny.images.json").content_string)


def test_only_systems_that_read_an_image_have_one(host, manifest):
    assert sorted(manifest) == ["gfs", "gfs_direct", "gfs_pmem_erofs"]
    assert sorted(host.file(IMAGES).listdir()) == ["gfs.img", "gfs_direct.img", "gfs_pmem_erofs.img"]


@pytest.mark.parametrize("system", ["gfs", "gfs_direct"])
def test_every_image_is_what_was_made(host, manifest, system):
    image = host.file(f"{IMAGES}/{system}.img")
    assert image.sha256sum == manifest[system]["sha256"] == manifest["gfs"]["sha256"]
    assert image.user == "onecopy"
    assert host.run(f"e2fsck -fn {IMAGES}/{system}.img").rc == 0
    assert "Block size:               4096" in host.check_output(f"dumpe2fs -h {IMAGES}/{system}.img 2>/dev/null")


def test_an_erofs_image_can_be_mapped_and_its_guests_kernel_knows_it(host, manifest):
    image = host.file(f"{IMAGES}/gfs_pmem_erofs.img")
    assert image.sha256sum == manifest["gfs_pmem_erofs"]["sha256"] != manifest["gfs"]["sha256"]
    assert image.size % (2 << 20) == 0
    assert host.run(f"fsck.erofs {IMAGES}/gfs_pmem_erofs.img").rc == 0
    guest = json.loads(host.file(f"{STATE}/guest/manifest.json").content_string)
    assert guest["capabilities"] == {"guest_erofs": {"supported": True, "reason": ""}}


@pytest.mark.parametrize("system", ["gfs", "gfs_pmem_erofs"])
def test_the_data_lie_where_the_manifest_says(host, manifest, system):
    """Read past the file system: the big files' bytes, found at their place in the image."""
    dataset = json.loads(host.file(f"{STATE}/manifests/tiny.json").content_string)
    script = (
        "import hashlib, json, sys\n"
        f"image = open('{IMAGES}/{system}.img', 'rb')\n"
        "pages = set()\n"
        "for offset, length in json.loads(sys.argv[1]):\n"
        "    image.seek(offset)\n"
        "    data = image.read(length)\n"
        "    pages |= {hashlib.blake2b(data[at:at + 4096], digest_size=8).hexdigest() for at in range(0, length, 4096)}\n"
        "print(json.dumps(sorted(pages)))\n"
    )
    sidecar = host.file(f"{STATE}/manifests/tiny.pages").content
    digests = [sidecar[at : at + 8].hex() for at in range(0, len(sidecar), 8)]
    expected, start = {}, 0
    for file in dataset["files"]:
        count = -(-file["size"] // 4096)
        expected.setdefault(file["path"].split("/")[0], set()).update(digests[start : start + count])
        start += count
    for part, ranges in manifest[system]["ranges"].items():
        found = json.loads(host.run("python3 -c %s %s", script, json.dumps(ranges)).stdout)
        assert set(found) == expected[part.split("/")[1]], part


def test_no_two_parts_share_a_byte(manifest):
    pieces = sorted(
        (offset, offset + length) for ranges in manifest["gfs"]["ranges"].values() for offset, length in ranges
    )
    assert all(end <= start for (_, end), (start, _) in itertools.pairwise(pieces))


def test_an_image_made_again_is_bit_identical(host, manifest):
    """mke2fs on a second copy of the tree, a moment later, elsewhere."""
    identity = host.check_output(f"blkid -o value -s UUID {IMAGES}/gfs.img")
    header = host.check_output(f"dumpe2fs -h {IMAGES}/gfs.img 2>/dev/null")
    values = dict(line.split(":", 1) for line in header.splitlines() if ":" in line)
    host.check_output(
        f"rm -rf /var/tmp/again && mkdir /var/tmp/again && cp -a {STATE}/store/shares/tiny/data /var/tmp/again/"
    )
    environment = "SOURCE_DATE_EPOCH=1300000000 E2FSPROGS_FAKE_TIME=1300000000 LC_ALL=C TZ=UTC"
    extended = f"hash_seed={values['Directory Hash Seed'].strip()},root_owner=0:0,lazy_itable_init=0,lazy_journal_init=0,nodiscard"
    count = int(host.check_output("find /var/tmp/again/data | wc -l"))
    inodes = count + count // 8 + 64
    size = manifest["gfs"]["size"] >> 20
    host.check_output(
        f"{environment} mke2fs -q -F -t ext4 -b 4096 -m 0 -N {inodes} -U {identity} -L onecopy -E {extended} "
        f"-d /var/tmp/again/data /var/tmp/again/x.img {size}M"
    )
    assert host.file("/var/tmp/again/x.img").sha256sum == manifest["gfs"]["sha256"]
    host.check_output("rm -r /var/tmp/again")


def test_a_root_image_built_again_is_bit_identical(host):
    """From the same packages, a moment later, in another place: what is taken from the clock, the place or an order would show."""
    first, second = (
        json.loads(host.file(f"{state}/guest/manifest.json").content_string)
        for state in (STATE, "/var/tmp/another/state/directory")
    )
    assert second["packages"] == first["packages"]
    for name in ("root", "vmlinuz", "initrd"):
        assert second[f"{name}_sha256"] == first[f"{name}_sha256"]
    built = host.file("/var/tmp/another/state/directory/guest/root.img")
    assert built.sha256sum == first["root_sha256"]


def test_the_root_has_nothing_of_the_machine_that_built_it(host):
    listed = host.check_output(f"debugfs -R 'ls -p /etc' {STATE}/guest/root.img 2>/dev/null")
    names = {line.split("/")[5] for line in listed.splitlines() if line.count("/") > 5}
    assert "passwd" in names
    assert not names & {"hostname", "resolv.conf", "machine-id"}


def test_what_guests_boot_is_there_and_documented(host):
    manifest = json.loads(host.file(f"{STATE}/guest/manifest.json").content_string)
    for name in ("vmlinuz", "root.img"):
        assert host.file(f"{STATE}/guest/{name}").sha256sum == manifest[f"{name.removesuffix('.img')}_sha256"]
    assert host.file(f"{STATE}/guest/initrd").sha256sum == manifest["initrd_sha256"]
    assert any(package.startswith("python3 ") for package in manifest["packages"])
    assert not host.file(f"{STATE}/guest/build").exists


def test_the_runner_beside_the_root_is_the_one_in_the_initramfs(host):
    runner = host.file(f"{STATE}/guest/runner/onecopy/runner.py").content
    assert runner in host.file(f"{STATE}/guest/initrd").content
