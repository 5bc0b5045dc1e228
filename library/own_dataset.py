#!/usr/bin/python
"""Make a data set of a user's own directory."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: own_dataset
short_description: Make a data set of a user's own directory, from the packed copy of it
description:
  - Without I(archive) it says whether the data set has to be made, and fails where this host has not the room or the memory for it.
  - With it, it makes C(store/shares/NAME/data/a/tree) and a manifest with the sha256 of every file and a digest of every page.
options:
  name:
    description: Name of the data set, a plain file name.
    type: str
    required: true
  sha256:
    description: Digest of the packed copy.
    type: str
    required: true
  archive:
    description: The packed copy, on this host; it is removed when the data set is made.
    type: path
  archive_bytes:
    description: Size of the packed copy.
    type: int
    required: true
  systems:
    description: Systems under test; each that reads an image needs room for one.
    type: list
    elements: str
    default: []
  state_directory:
    description: The kit's state directory on this host.
    type: path
    default: /var/lib/onecopy
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Ask whether the data have to be sent
  own_dataset:
    name: compare
    sha256: 5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8
    archive_bytes: 1048576
"""

RETURN = r"""
reason:
  description: Why it was, or without archive has to be, made; empty when it is there.
  returned: always
  type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import data_images, image, own_tree
from ansible.module_utils.onecopy.paths import HostPaths


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "sha256": {"type": "str", "required": True},
            "archive": {"type": "path"},
            "archive_bytes": {"type": "int", "required": True},
            "systems": {"type": "list", "elements": "str", "default": []},
            "state_directory": {"type": "path", "default": "/var/lib/onecopy"},
        },
        supports_check_mode=True,
    )
    params = module.params
    paths = HostPaths(Path(params["state_directory"]))
    share, manifest = paths.share(params["name"]), paths.dataset_manifest(params["name"])
    spec = own_tree.OwnSpec(params["name"], params["sha256"])
    try:
        reason = own_tree.find_difference(spec, share, manifest)
        if reason and not params["archive"]:
            images = len(set(params["systems"]) & set(data_images.image_systems()))
            image.require_space(paths.state, params["archive_bytes"])
            own_tree.require_room(params["archive_bytes"], paths.store, images, Path("/proc/meminfo").read_text())
        elif reason and not module.check_mode:
            own_tree.make(spec, Path(params["archive"]), share, manifest)
            image.remove(Path(params["archive"]))
    except (own_tree.OwnTreeError, OSError, image.NoSpaceError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(reason and params["archive"]), reason=reason or "")


if __name__ == "__main__":
    main()
