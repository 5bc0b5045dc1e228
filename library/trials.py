#!/usr/bin/python
"""Ansible module: see DOCUMENTATION."""

from __future__ import annotations

DOCUMENTATION = r"""
module: trials
short_description: Run the trials of a plan on a KVM host
description:
  - In a play this name is an action plugin on the controller, which runs a whole plan and shows its progress.
  - The module itself, which the action plugin calls over and over, does one step on the KVM host.
  - Records are appended and fsynced one by one on the KVM host, fetched after every slice and merged by trial id.
  - Killed at any moment, the same task goes on where it stopped.
options:
  plan:
    description: The plan, from M(experiment_plan).
    type: dict
  reports_directory:
    description: Where runs are stored on the controller. For the action plugin.
    type: path
  state_directory:
    description: State directory of the KVM host.
    type: path
    default: /var/lib/onecopy
  slice_seconds:
    description: Seconds of work after which a slice returns; a longer trial is finished first.
    type: int
    default: 20
  repeated:
    description:
      - Measure anew where a finished run of the same plan is there; an unfinished one goes on in any case.
      - For the action plugin.
    type: bool
    default: true
  step:
    description: What the module does. Set by the action plugin.
    type: str
    choices: [start, work, finish]
  run_id:
    description: The run. Set by the action plugin.
    type: str
  host:
    description: Inventory name of the KVM host, for the records. Set by the action plugin.
    type: str
  skip:
    description: Records that were fetched before. Set by the action plugin.
    type: int
    default: 0
  leave_out:
    description: Blocks that an adaptive run does not need, or not yet. Set by the action plugin.
    type: list
    elements: str
    default: []
attributes:
  check_mode:
    support: none
author: onecopy contributors (@onecopy)
"""

EXAMPLES = r"""
- name: Run the trials
  trials:
    plan: "{{ __experiment_plan.plan }}"
    reports_directory: reports
"""

RETURN = r"""
run_directory:
  description: Where the run is stored on the controller.
  type: path
  returned: success
trials:
  description: Number of trials by status.
  type: dict
  returned: success
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import host_run
from ansible.module_utils.onecopy.paths import HostPaths


def main() -> None:
    """Entry point."""
    spec = {
        "plan": {"type": "dict"},
        "reports_directory": {"type": "path"},
        "state_directory": {"type": "path", "default": "/var/lib/onecopy"},
        "slice_seconds": {"type": "int", "default": 20},
        "repeated": {"type": "bool", "default": True},
        "step": {"type": "str", "choices": ["start", "work", "finish"]},
        "run_id": {"type": "str"},
        "host": {"type": "str"},
        "skip": {"type": "int", "default": 0},
        "leave_out": {"type": "list", "elements": "str", "default": []},
    }
    module = AnsibleModule(argument_spec=spec, required_if=[("step", "start", ["plan"])])
    params = module.params
    paths = HostPaths(Path(params["state_directory"]))
    run_id, host = params["run_id"], params["host"]
    result = {}
    try:
        if params["step"] == "start":
            result = host_run.start(params["plan"], run_id, host, paths)
        elif params["step"] == "work":
            todo = {key: params[key] for key in ("skip", "leave_out")}
            result = host_run.work(run_id, host, paths, seconds=params["slice_seconds"], **todo)
        else:
            host_run.finish(run_id, paths)
    except host_run.HostRunError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=True, **result)


if __name__ == "__main__":
    main()
