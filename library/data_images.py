#!/usr/bin/python
"""Make a data set's file-system images, one copy per system."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: data_images
short_description: Make a data set's ext4 images, one copy for each system that reads an image
description:
  - Makes C(store/images/DATASET/SYSTEM.img) from the share's data with C(mke2fs -d); blocks of 4096 bytes, UUID, hash seed and times fixed, so
    that the same data give the same image.
  - Writes where in the image the data of each part lie to C(manifests/DATASET.images.json).
  - Images are made again only when the data set was.
options:
  dataset:
    description: Name of the data set; M(dataset) makes it.
    type: str
    required: true
  systems:
    description: Systems under test; those that read a share need no image and are passed over.
    type: list
    elements: str
    required: true
  owner:
    description: User that QEMU runs as.
    type: str
    default: onecopy
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
- name: Make the images of the smoke experiment
  data_images:
    dataset: smoke
    systems: [gfs, gfs_direct]
"""

RETURN = r"""
made:
  description: Systems whose image was, or in check mode would be, made.
  returned: always
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import data_images, image
from ansible.module_utils.onecopy.commands import CommandError
from ansible.module_utils.onecopy.paths import HostPaths
from ansible.module_utils.onecopy.systems import SYSTEMS


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "dataset": {"type": "str", "required": True},
            "systems": {"type": "list", "elements": "str", "required": True},
            "owner": {"type": "str", "default": "onecopy"},
            "state_directory": {"type": "path", "default": "/var/lib/onecopy"},
        },
        supports_check_mode=True,
    )
    params = module.params
    unknown = [name for name in params["systems"] if name not in SYSTEMS]
    if unknown:
        module.fail_json(msg=f"unknown system {unknown[0]!r}: known: {', '.join(SYSTEMS)}")
    wanted = [name for name in data_images.image_systems() if name in params["systems"]]
    paths = HostPaths(Path(params["state_directory"]))
    made: list[str] = []
    try:
        if not module.check_mode:
            made = data_images.make(params["dataset"], wanted, paths, params["owner"])
        elif paths.dataset_manifest(params["dataset"]).exists():
            made = data_images.missing(params["dataset"], wanted, paths)
        else:
            # On a clean machine the data set would have been made a moment ago.
            made = wanted
    except (CommandError, image.NoSpaceError, ValueError, OSError, KeyError) as error:
        module.fail_json(msg=f"images of {params['dataset']}: {error}")
    module.exit_json(changed=bool(made), made=made)


if __name__ == "__main__":
    main()
