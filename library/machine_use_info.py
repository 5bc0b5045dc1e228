#!/usr/bin/python
"""Tell which machine this host is on, and who measures there."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: machine_use_info
short_description: Tell which machine this host is on, and who measures there
description:
  - Two hosts with the same boot id are on one machine; they share its page cache, its settings and the lock of a run.
  - Takes no lock and waits for none.
options:
  directory:
    description: Where the machine-wide lock lies.
    type: path
    default: /run/onecopy-machine
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Who measures here?
  machine_use_info:
"""

RETURN = r"""
boot_id:
  description: Boot id of the running kernel.
  returned: always
  type: str
holder:
  description: The run that holds the lock (C(run_id), C(experiment), C(host), C(since)); empty where nobody does.
  returned: always
  type: dict
description:
  description: One line for a person, with the cure; empty where nobody measures.
  returned: always
  type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import lock, slices


def main() -> None:
    """Entry point."""
    spec = {"directory": {"type": "path", "default": "/run/onecopy-machine"}}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    try:
        holder = lock.holder_of(Path(module.params["directory"]) / "lock")
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: cannot be read: {error.strerror}")
    described = "" if holder is None else lock.describe(holder)
    module.exit_json(changed=False, boot_id=slices.machine_id(), holder=holder or {}, description=described)


if __name__ == "__main__":
    main()
