#!/usr/bin/python
"""Ansible module: see DOCUMENTATION."""

from __future__ import annotations

DOCUMENTATION = r"""
module: experiment_plan
short_description: Validate an experiment and expand it to a plan
description:
  - Reads one experiment file on the controller and checks every key and value of it; a mistake anywhere gives one line.
  - With the capabilities of KVM hosts it also expands the experiment to the ordered list of trials, one for all of them.
  - Runs on the controller, with Ansible's own Python.
options:
  path:
    description: The experiment file.
    type: path
    required: true
  schema:
    description: The JSON schema of experiments.
    type: path
    required: true
  hosts:
    description:
      - By inventory name what each host can run, as role kvm_host writes it to C(capabilities.json), with what its guests can do, as role
        guest_image writes it to C(guest/manifest.json). The plan holds what all of them can run.
      - Without it the experiment is validated alone.
    type: dict
attributes:
  check_mode:
    support: full
author: onecopy contributors (@onecopy)
"""

EXAMPLES = r"""
- name: Validate the experiment
  experiment_plan:
    path: experiments/smoke.yml
    schema: reports/schema/experiment.schema.json
  delegate_to: localhost
"""

RETURN = r"""
experiment:
  description: The experiment as it is written.
  type: dict
  returned: success
plan:
  description: Trials in their order, with everything that a KVM host needs to run them; also what is excluded or unsupported, and why.
  type: dict
  returned: when hosts are given
lines:
  description: The plan in a few lines for a person, with its estimated duration.
  type: list
  elements: str
  returned: when hosts are given
"""

import json
import os
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import experiment, plan, progress, several_hosts


def main() -> None:
    """Entry point."""
    spec = {
        "path": {"type": "path", "required": True},
        "schema": {"type": "path", "required": True},
        "hosts": {"type": "dict"},
    }
    module = AnsibleModule(argument_spec=spec, supports_check_mode=True)
    path = Path(module.params["path"])
    try:
        schema = json.loads(Path(module.params["schema"]).read_text(encoding="utf-8"))
        document = experiment.load(path, schema, os.path.join(path.parent.name, path.name))
        result = {"experiment": document}
        if module.params["hosts"]:
            made = plan.make_plan(document, several_hosts.common(module.params["hosts"]))
            result |= {"plan": made, "lines": progress.plan_lines(made)}
    except (experiment.ExperimentError, plan.NoTrialsError, several_hosts.MixedHostsError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
