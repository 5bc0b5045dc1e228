#!/usr/bin/python
"""Pause systemd units, and start exactly those again."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: paused_units
short_description: Pause systemd units, and start exactly those again
description:
  - Stops those of the named units that are active, after writing them to a record. Nothing is disabled, so a reboot undoes it too.
options:
  names:
    description: Units to pause; those that do not exist are passed over.
    type: list
    elements: str
    default: []
  record:
    description: File that keeps which units were active.
    type: path
    required: true
  state:
    description: Whether they are to be paused or to be as they were.
    type: str
    choices: [paused, restored]
    default: paused
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: No package runs during measurements
  paused_units:
    names: [apt-daily.timer, apt-daily-upgrade.timer]
    record: /var/lib/onecopy/paused_units.json
"""

RETURN = r"""
units:
  description: What was stopped, or started again.
  returned: always
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import paused_units
from ansible.module_utils.onecopy.commands import CommandError


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "names": {"type": "list", "elements": "str", "default": []},
            "record": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["paused", "restored"], "default": "paused"},
        },
        supports_check_mode=True,
    )
    params = module.params
    record = Path(params["record"])
    try:
        if params["state"] == "paused":
            units = paused_units.pause(params["names"], record, check_mode=module.check_mode)
        else:
            units = paused_units.restore(record, check_mode=module.check_mode)
    except (CommandError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(units), units=units)


if __name__ == "__main__":
    main()
