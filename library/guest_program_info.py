#!/usr/bin/python
"""Say whether guests have a program."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: guest_program_info
short_description: Fail where neither the guests' root image nor a data set of a user's own has a program
description:
  - Looks into the root image that M(guest_root) made, mounted read-only for the moment.
options:
  program:
    description: A name to be found in the usual places, or a path; a relative one lies in the data set.
    type: str
    required: true
  dataset:
    description: Name of the data set.
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
- name: Find out before guests are started
  guest_program_info:
    program: rg
    dataset: compare
"""

RETURN = r"""
program:
  description: The program that was looked for.
  returned: success
  type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import data_images, guest_root
from ansible.module_utils.onecopy.cachestat import OWN_TREE
from ansible.module_utils.onecopy.commands import CommandError
from ansible.module_utils.onecopy.paths import HostPaths


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "program": {"type": "str", "required": True},
            "dataset": {"type": "str", "required": True},
            "state_directory": {"type": "path", "default": "/var/lib/onecopy"},
        },
        supports_check_mode=True,
    )
    program = module.params["program"]
    paths = HostPaths(Path(module.params["state_directory"]))
    manifest = guest_root.read_manifest(paths.guest)
    tree = paths.share(module.params["dataset"]) / "data" / "a" / OWN_TREE
    try:
        with data_images.mounted(paths.guest / "root.img") as root:
            missing = guest_root.find_missing_program(program, root, tree, manifest["suite"], manifest["include"])
    except (CommandError, OSError, KeyError) as error:
        module.fail_json(msg=f"{paths.guest / 'root.img'}: cannot be looked into: {error}: run role guest_image first")
    if missing:
        module.fail_json(msg=f"compare: {missing}")
    module.exit_json(changed=False, program=program)


if __name__ == "__main__":
    main()
