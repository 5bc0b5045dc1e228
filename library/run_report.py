#!/usr/bin/python
"""Ansible module: see DOCUMENTATION."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: run_report
short_description: Summarise a stored run and write its report
description:
  - Reads plan, manifest and records of a run and writes C(summary.json), C(report.html) and C(report.md) beside them.
  - The three files are a function of what is stored, so a second call changes nothing.
  - Runs on the controller, with Ansible's own Python.
options:
  path:
    description: Directory of a run, or of an experiment or of all of them, which means the newest run.
    type: path
    required: true
  claims:
    description: The claims to judge, one YAML file.
    type: path
    required: true
  templates:
    description: Directory of the report's templates.
    type: path
    required: true
attributes:
  check_mode:
    support: full
author: onecopy contributors (@onecopy)
"""

EXAMPLES = r"""
- name: Report the newest smoke run
  run_report:
    path: reports/smoke
    claims: experiments/claims.yml
    templates: roles/report/templates
  delegate_to: localhost
"""

RETURN = r"""
directory:
  description: The run that was reported.
  type: str
  returned: success
files:
  description: The three files.
  type: list
  elements: str
  returned: success
lines:
  description: The outcome in a few lines for a person.
  type: list
  elements: str
  returned: success
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy.analysis import reporting
from ansible.module_utils.onecopy.analysis.claims import ClaimsError
from ansible.module_utils.onecopy.analysis.stored_run import RunError


def main() -> None:
    """Entry point."""
    spec = {name: {"type": "path", "required": True} for name in ("path", "claims", "templates")}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    paths = {name: Path(module.params[name]) for name in spec}
    try:
        report = reporting.make(paths["path"], paths["claims"], paths["templates"])
        changed = reporting.store(report, dry=module.check_mode)
    except (RunError, ClaimsError) as error:
        module.fail_json(msg=str(error))
    files = [str(report.directory / name) for name in report.files]
    module.exit_json(changed=changed, directory=str(report.directory), files=files, lines=report.lines)


if __name__ == "__main__":
    main()
