#!/usr/bin/python
"""Say claim by claim whether a repeated run agrees with an archived one."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: run_agreement
short_description: Say claim by claim whether a repeated run agrees with an archived one
description:
  - Compares two runs that have their reports and writes C(agreement.json) into the repeated one.
  - Every claim and figure agrees, disagrees or is not comparable, with both sets of figures and the reason.
options:
  archived:
    description: Directory of the run that is repeated.
    type: path
    required: true
  repeated:
    description: Directory of its repetition.
    type: path
    required: true
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Compare my run with theirs
  run_agreement:
    archived: .onecopy/archives/0123456789abcdef/run
    repeated: reports/paper/20260101T000000Z
"""

RETURN = r"""
counts:
  description: Numbers of claims, copies figures and ratios that agree, disagree or are not comparable.
  returned: success
  type: dict
lines:
  description: The outcome for a person.
  returned: success
  type: list
  elements: str
path:
  description: The whole outcome.
  returned: success
  type: path
"""

import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy.analysis import agreement


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={"archived": {"type": "path", "required": True}, "repeated": {"type": "path", "required": True}},
        supports_check_mode=True,
    )
    archived, repeated = Path(module.params["archived"]), Path(module.params["repeated"])
    try:
        found = agreement.agreement(agreement.load_side(archived), agreement.load_side(repeated))
    except agreement.SideError as error:
        module.fail_json(msg=str(error))
    path, text = repeated / "agreement.json", json.dumps(found, indent=1, sort_keys=True) + "\n"
    changed = not path.is_file() or path.read_text() != text
    if changed and not module.check_mode:
        path.write_text(text)
    module.exit_json(changed=changed, counts=found["counts"], lines=agreement.lines(found), path=str(path))


if __name__ == "__main__":
    main()
