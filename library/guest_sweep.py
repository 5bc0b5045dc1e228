#!/usr/bin/python
"""End every guest of the kit and what a killed run left."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: guest_sweep
short_description: End every guest of the kit and what a killed run left
description:
  - Stops the units of guests, daemons and runners, and removes their drop-ins, mounts, sockets and scratch.
options:
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
- name: End every guest
  guest_sweep:
"""

RETURN = r"""
guests:
  description: Names of the guests of which something was there.
  returned: always
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import testbed
from ansible.module_utils.onecopy.commands import CommandError
from ansible.module_utils.onecopy.paths import HostPaths


def main() -> None:
    module = AnsibleModule(
        argument_spec={"state_directory": {"type": "path", "default": "/var/lib/onecopy"}}, supports_check_mode=True
    )
    paths = HostPaths(Path(module.params["state_directory"]))
    try:
        guests = testbed.leftovers(paths)
        if not module.check_mode:
            testbed.sweep(paths)
    except (CommandError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(guests), guests=guests)


if __name__ == "__main__":
    main()
