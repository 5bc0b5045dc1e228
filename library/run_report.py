#!/usr/bin/python
"""Ansible module: see DOCUMENTATION."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: run_report
short_description: Summarise a stored run and write its report
description:
  - Reads plan, manifest and records of a run and writes C(summary.json), C(report.html) and C(report.md) beside them.
  - With O(against), writes C(against-RUN_ID.json), C(.html) and C(.md) too, which compare the run with another one.
  - The files are a function of what is stored, so a second call changes nothing.
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
  against:
    description: Directory of a second run, or of an experiment, which means its newest run.
    type: path
  anyway:
    description: Compare runs that are not comparable too; the comparison says so on top.
    type: bool
    default: false
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

- name: Compare it with an earlier one
  run_report:
    path: reports/smoke
    against: reports/smoke/20260101T000000Z
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
  description: The files that were made.
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
from ansible.module_utils.onecopy.analysis.comparability import NotComparableError
from ansible.module_utils.onecopy.analysis.stored_run import RunError
from ansible.module_utils.onecopy.analysis.two_runs import SameRunError


def main() -> None:
    """Entry point."""
    names = ("path", "claims", "templates")
    spec = {name: {"type": "path", "required": True} for name in names}
    spec |= {"against": {"type": "path"}, "anyway": {"type": "bool", "default": False}}
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    path, claims, templates = (Path(module.params[name]) for name in names)
    other, anyway = module.params["against"], module.params["anyway"]
    try:
        made = [reporting.make(path, claims, templates)]
        if other:
            made.append(reporting.against(path, Path(other), claims, templates, anyway=anyway))
        changed = [reporting.store(report, dry=module.check_mode) for report in made]
    except (RunError, ClaimsError, NotComparableError, SameRunError) as error:
        module.fail_json(msg=str(error))
    files = [str(report.directory / name) for report in made for name in report.files]
    lines = [line for report in made for line in report.lines]
    module.exit_json(changed=any(changed), directory=str(made[0].directory), files=files, lines=lines)


if __name__ == "__main__":
    main()
