#!/usr/bin/python
"""Make the kit's own ext4."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: ext4_store
short_description: Make the kit's own ext4, in a sparse file or on a device
description:
  - Makes the file system on which every share and every image lies. What is there already is never made again, never resized.
  - A device is touched only with O(format=true), and never when it holds anything.
options:
  path:
    description: The sparse file to make, or a block device.
    type: path
    required: true
  size_mib:
    description: Size of the sparse file; a device is used whole.
    type: int
    default: 4096
  format:
    description: Whether a file system may be made on an empty device.
    type: bool
    default: false
  device:
    description: Whether O(path) is a block device.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Make the store in a file
  ext4_store:
    path: /var/lib/onecopy/store.ext4
    size_mib: 4096

- name: Make the store on a disk that was given for it
  ext4_store:
    path: /dev/disk/by-id/nvme-example
    device: true
    format: true
"""

RETURN = r"""
path:
  description: The file or device.
  returned: always
  type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import image, store
from ansible.module_utils.onecopy.commands import CommandError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "path": {"type": "path", "required": True},
            "size_mib": {"type": "int", "default": 4096},
            "format": {"type": "bool", "default": False},
            "device": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    path = Path(params["path"])
    try:
        is_missing = not store.is_made(path)
        if is_missing and not module.check_mode:
            if params["device"]:
                store.make_device(path, params["format"])
            else:
                store.make_file(path, params["size_mib"])
    except (store.RefusedError, image.NoSpaceError, CommandError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=is_missing, path=str(path))


if __name__ == "__main__":
    main()
