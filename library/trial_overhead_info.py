#!/usr/bin/python
"""What the kit itself adds to a trial, from stored records."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: trial_overhead_info
short_description: What the kit itself adds to a trial, from stored records
description:
  - Reads the newest run below the reports, and tells by kind of trial how long everything took but reaching and verifying the cache state and the workload;
    and how long a guest took to be ready.
options:
  reports_directory:
    description: The controller's reports.
    type: path
    required: true
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Show what a trial costs
  trial_overhead_info:
    reports_directory: reports
  delegate_to: localhost
"""

RETURN = r"""
results:
  description: The file of records that was read; empty where there is no run.
  returned: always
  type: str
kinds:
  description: Per kind of trial (V(boot) is a guest's start) and accelerator V(n), V(median_seconds), V(max_seconds), V(limit_seconds), V(is_within).
  returned: always
  type: list
lines:
  description: The same for a person.
  returned: always
  type: list
"""

import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import overhead, records


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={"reports_directory": {"type": "path", "required": True}}, supports_check_mode=True
    )
    found = sorted(
        Path(module.params["reports_directory"]).glob("*/*/results.jsonl"), key=lambda path: path.stat().st_mtime
    )
    if not found:
        module.exit_json(changed=False, results="", kinds=[], lines=["no run is stored yet: ./onecopy demo makes one"])
    kinds = overhead.by_kind(records.read(found[-1]).records)
    manifest = found[-1].with_name("manifest.json")
    if manifest.exists():
        kinds += overhead.readiness(json.loads(manifest.read_text(encoding="utf-8")))
    module.exit_json(changed=False, results=str(found[-1]), kinds=kinds, lines=overhead.lines(kinds))


if __name__ == "__main__":
    main()
