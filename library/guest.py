#!/usr/bin/python
"""Start or stop one guest of one system under test."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: guest
short_description: Start or stop one guest of one system under test
description:
  - Starts daemon and guest as units (C(onecopy-guest@NAME); for C(hfs) C(onecopy-hfs-runner@NAME)), waits for the runner's answer and for data and
    scratch to be mounted.
  - A guest that runs with exactly these options is left alone; one that runs with others is started again.
options:
  name:
    description: Name of the guest.
    type: str
    required: true
  state:
    description: Whether it is to run.
    type: str
    choices: [started, stopped]
    default: started
  system:
    description: System under test. Needed to start.
    type: str
  dataset:
    description: Name of the data set. Needed to start.
    type: str
  accelerator:
    description: What runs the guest.
    type: str
    choices: [kvm, tcg]
    default: tcg
  memory_mib:
    description: Memory of the guest.
    type: int
    default: 384
  cpus:
    description: Number of virtual CPUs.
    type: int
    default: 1
  options:
    description: Tuning, such as aio, iothread, queues, window_mib, inode_dax_kib, dax_always, icount, cpu_model.
    type: dict
    default: {}
  deadline_seconds:
    description: How long the guest may take to answer.
    type: int
    default: 60
  state_directory:
    description: The kit's state directory on this host.
    type: path
    default: /var/lib/onecopy
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Start a guest to look around in
  guest:
    name: demo
    system: gfs
    dataset: smoke
"""

RETURN = r"""
units:
  description: The units of guest and daemon.
  returned: when started
  type: list
  elements: str
command_lines:
  description: The exact command lines by role (qemu, daemon, runner).
  returned: when started and not in check mode
  type: dict
hello_seconds:
  description: Time from starting the guest to its runner's answer.
  returned: when started and not in check mode
  type: float
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import arrangement, testbed
from ansible.module_utils.onecopy.paths import HostPaths


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "state": {"type": "str", "choices": ["started", "stopped"], "default": "started"},
            "system": {"type": "str"},
            "dataset": {"type": "str"},
            "accelerator": {"type": "str", "choices": ["kvm", "tcg"], "default": "tcg"},
            "memory_mib": {"type": "int", "default": 384},
            "cpus": {"type": "int", "default": 1},
            "options": {"type": "dict", "default": {}},
            "deadline_seconds": {"type": "int", "default": 60},
            "state_directory": {"type": "path", "default": "/var/lib/onecopy"},
        },
        required_if=[("state", "started", ("system", "dataset"))],
        supports_check_mode=True,
    )
    params = module.params
    paths = HostPaths(Path(params["state_directory"]))
    if params["state"] == "stopped":
        module.exit_json(changed=testbed.end(params["name"], paths, module.check_mode))
    numbers = {key: params[key] for key in ("memory_mib", "cpus")}
    spec = arrangement.BootSpec(
        params["system"],
        params["system"],
        params["dataset"],
        params["accelerator"],
        name=params["name"],
        options=params["options"],
        **numbers,
    )
    try:
        plan = arrangement.arrange(spec, paths)
        units = [unit for unit in (plan.unit, plan.daemon_unit) if unit]
        running = testbed.attach(spec, paths)
        if running is None and module.check_mode:
            module.exit_json(changed=True, units=units)
        booted = running or testbed.boot(spec, paths, params["deadline_seconds"])
    except (testbed.BootError, ValueError) as error:
        module.fail_json(msg=f"guest {params['name']}: {error}")
    booted.runner.close()
    module.exit_json(
        changed=running is None, units=units, command_lines=booted.command_lines, hello_seconds=booted.hello_seconds
    )


if __name__ == "__main__":
    main()
