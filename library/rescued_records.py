#!/usr/bin/python
"""Bring a KVM host's records into the controller's reports."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: rescued_records
short_description: Bring a KVM host's records into the controller's reports
description:
  - Merges a file of records, fetched from a KVM host, into the run of that id on the controller; what is there already is not stored twice.
  - Records of a run that the controller does not know are kept below C(rescued/) in the reports.
options:
  reports_directory:
    description: The controller's reports.
    type: path
    required: true
  run_id:
    description: Run that the records belong to.
    type: str
    required: true
  host:
    description: Inventory name of the host they come from.
    type: str
    required: true
  fetched:
    description: The file of records on the controller.
    type: path
    required: true
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Keep what a host still holds
  rescued_records:
    reports_directory: reports
    run_id: 20260101T000000Z
    host: kvm1
    fetched: .onecopy/rescue/kvm1/results.jsonl
  delegate_to: localhost
"""

RETURN = r"""
path:
  description: Where the records are.
  returned: always
  type: str
records:
  description: How many had been missing.
  returned: always
  type: int
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import rescue


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "reports_directory": {"type": "path", "required": True},
            "run_id": {"type": "str", "required": True},
            "host": {"type": "str", "required": True},
            "fetched": {"type": "path", "required": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    try:
        path, count = rescue.rescue(
            Path(params["reports_directory"]),
            params["run_id"],
            params["host"],
            Path(params["fetched"]),
            check_mode=module.check_mode,
        )
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    module.exit_json(changed=count > 0, path=str(path), records=count)


if __name__ == "__main__":
    main()
