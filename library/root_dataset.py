#!/usr/bin/python
"""Make a data set of the guests' own root tree."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: root_dataset
short_description: Make a data set of the guests' own root tree
description:
  - Copies the tree of the guests' root image to C(store/shares/NAME/data/a/tree), with a manifest of every file, unless it is there.
options:
  name:
    description: Name of the data set, a plain file name.
    type: str
    required: true
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
- name: Have the guests' root as data
  root_dataset:
    name: rootfs
"""

RETURN = r"""
reason:
  description: Why it was made; empty when it was there.
  returned: always
  type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import image, root_tree
from ansible.module_utils.onecopy.commands import CommandError
from ansible.module_utils.onecopy.own_tree import OwnTreeError
from ansible.module_utils.onecopy.paths import HostPaths


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state_directory": {"type": "path", "default": "/var/lib/onecopy"},
        },
        supports_check_mode=True,
    )
    name, paths = module.params["name"], HostPaths(Path(module.params["state_directory"]))
    try:
        reason = root_tree.find_difference(name, paths)
        if reason and not module.check_mode:
            root_tree.make(name, paths)
    except (OwnTreeError, image.NoSpaceError, CommandError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(reason), reason=reason or "")


if __name__ == "__main__":
    main()
