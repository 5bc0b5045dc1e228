#!/usr/bin/python
"""Say what a host can measure, and why not the rest."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: preflight_info
short_description: Say what a host can measure, and why not the rest
description:
  - Judges a host's capabilities, kernel, memory, disk and settings. Reads only.
options:
  capabilities:
    description: What M(host_capabilities) returned.
    type: dict
    required: true
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Look at what disturbs or limits a measurement
  preflight_info:
    capabilities: "{{ asked.capabilities }}"
"""

RETURN = r"""
lines:
  description: One finding each.
  returned: always
  type: list
  elements: str
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import preflight


def main() -> None:
    module = AnsibleModule(argument_spec={"capabilities": {"type": "dict", "required": True}}, supports_check_mode=True)
    try:
        found = preflight.look(module.params["capabilities"])
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    except KeyError as error:
        module.fail_json(msg=f"capabilities: {error.args[0]} is missing; pass what host_capabilities returned")
    module.exit_json(changed=False, lines=found)


if __name__ == "__main__":
    main()
