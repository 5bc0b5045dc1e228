"""The systems under test: one vocabulary for plan, results and report."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

CacheState = Literal["cold", "warm"]
Party = Literal["host_cache", "guest_cache"]
Path = Literal["host", "block", "pmem", "virtiofs", "hostfsd"]


@dataclass(frozen=True, slots=True)
class System:
    """One storage path between the host's ext4 and the process that reads.

    ``storage`` says how the host stores the data: ``share`` (files of a tree) or ``image`` (one file with a file system in it).
    ``not_applicable`` names the cache states that this path cannot have, each with the reason that plan and report print.
    ``own_image``: every guest has its own, a whole ``copy`` of the image or an ``overlay`` (qcow2) on it. ``merges``: the host may merge
    equal pages of guest memory or of private mappings. ``filesystem``: what an image holds. ``needs`` are keys of the KVM host's
    ``capabilities.json``, and ``guest_…`` those of its guests' kernel.
    """

    name: str
    title: str
    path: Path
    storage: Literal["share", "image"]
    block_cache: Literal["writeback", "none"] | None = None
    virtiofs_cache: Literal["never", "auto", "always"] | None = None
    dax: bool = False
    own_image: Literal["copy", "overlay"] | None = None
    merges: Literal["guest_memory", "mapping"] | None = None
    filesystem: Literal["ext4", "erofs"] = "ext4"
    needs: tuple[str, ...] = ()
    not_applicable: dict[tuple[Party, CacheState], str] = field(default_factory=dict)


_NO_GUEST: dict[tuple[Party, CacheState], str] = {
    ("guest_cache", "cold"): "there is no guest: planned once, with guest_cache none",
    ("guest_cache", "warm"): "there is no guest",
}

SYSTEMS: dict[str, System] = {
    system.name: system
    for system in (
        System("hfs", "host ext4, read on the host", "host", "share", not_applicable=_NO_GUEST),
        System(
            "gfs",
            "guest ext4 on virtio-blk, host page cache used",
            "block",
            "image",
            block_cache="writeback",
            needs=("qemu",),
        ),
        System(
            "gfs_direct",
            "guest ext4 on virtio-blk, host page cache bypassed (O_DIRECT)",
            "block",
            "image",
            block_cache="none",
            needs=("qemu",),
            not_applicable={
                (
                    "host_cache",
                    "warm",
                ): "O_DIRECT bypasses the host's page cache: prefetched pages would lie beside the path and count as copies"
            },
        ),
        System(
            "virtiofs_never",
            "host ext4 shared by virtiofsd, no guest page cache",
            "virtiofs",
            "share",
            virtiofs_cache="never",
            needs=("qemu", "virtiofsd"),
            not_applicable={("guest_cache", "warm"): "with cache=never the guest keeps no pages"},
        ),
        System(
            "virtiofs_auto",
            "host ext4 shared by virtiofsd, cache=auto",
            "virtiofs",
            "share",
            virtiofs_cache="auto",
            needs=("qemu", "virtiofsd"),
        ),
        System(
            "virtiofs_always",
            "host ext4 shared by virtiofsd, cache=always",
            "virtiofs",
            "share",
            virtiofs_cache="always",
            needs=("qemu", "virtiofsd"),
        ),
        System(
            "gfs_pmem_dax",
            "guest ext4 mounted -o dax on virtio-pmem: maps the host's cache of the image",
            "pmem",
            "image",
            dax=True,
            needs=("qemu", "virtio_pmem"),
        ),
        System(
            "gfs_pmem_erofs",
            "guest EROFS (uncompressed) mounted -o dax on virtio-pmem: gfs_pmem_dax with a file system that cannot be written",
            "pmem",
            "image",
            dax=True,
            filesystem="erofs",
            needs=("qemu", "virtio_pmem", "erofs", "guest_erofs"),
        ),
        System(
            "myfs",
            "host ext4 shared by hostfsd with a DAX window: maps the host's page cache",
            "hostfsd",
            "share",
            virtiofs_cache="auto",
            dax=True,
            needs=("qemu", "vhost_user_shmem"),
        ),
        System(
            "gfs_private",
            "gfs with a whole copy of the image for every guest",
            "block",
            "image",
            block_cache="writeback",
            own_image="copy",
            needs=("qemu",),
        ),
        System(
            "gfs_shared_base",
            "gfs on one read-only image with a qcow2 overlay (clusters of 64 KiB) for every guest",
            "block",
            "image",
            block_cache="writeback",
            own_image="overlay",
            needs=("qemu",),
        ),
        System(
            "gfs_pmem_cow",
            "guest ext4 mounted -o dax on virtio-pmem, one image mapped privately by all guests: copied on write, mergeable",
            "pmem",
            "image",
            dax=True,
            merges="mapping",
            needs=("qemu", "virtio_pmem"),
        ),
        System(
            "gfs_ksm",
            "gfs with own images and O_DIRECT; the guests' private memory can be merged by content (KSM)",
            "block",
            "image",
            block_cache="none",
            own_image="copy",
            merges="guest_memory",
            needs=("qemu",),
            not_applicable={
                (
                    "host_cache",
                    "warm",
                ): "O_DIRECT bypasses the host's page cache: prefetched pages would lie beside the path and count as copies"
            },
        ),
    )
}
