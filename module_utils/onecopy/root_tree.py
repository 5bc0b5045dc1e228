"""The guests' own root tree as a data set: guests can execute programs from it, and boot from it, over the storage path under test."""

from __future__ import annotations

from typing import Any

from . import dataset, guest_root, image, own_tree
from .data_images import mounted
from .own_tree import OwnTreeError
from .paths import HostPaths


def spec(name: str, paths: HostPaths) -> dict[str, Any]:
    """What the manifest of such a data set says it was made from. Raises OwnTreeError without a root image."""
    root_sha256 = guest_root.read_manifest(paths.guest).get("root_sha256")
    if root_sha256 is None:
        raise OwnTreeError(f"{paths.guest / 'root.img'} is missing: apply role guest_image first")
    return {"name": name, "root_sha256": root_sha256}


def find_difference(name: str, paths: HostPaths) -> str | None:
    """Why the data set has to be made (again): one line; None when it is there. Raises OwnTreeError."""
    return dataset.find_stored_difference(spec(name, paths), paths.share(name), paths.dataset_manifest(name))


def make(name: str, paths: HostPaths) -> dict[str, Any]:
    """Copy the tree of the root image to the share; return the manifest. Raises OwnTreeError, NoSpaceError, CommandError, OSError."""
    share = paths.share(name)
    share.mkdir(parents=True, exist_ok=True)
    archive = share / "root.tar"
    try:
        with mounted(paths.guest / "root.img") as tree:
            own_tree.pack(tree, archive)
        image.require_space(share, archive.stat().st_size)
        return own_tree.unpack(spec(name, paths), archive, share, paths.dataset_manifest(name))
    finally:
        image.remove(archive)
