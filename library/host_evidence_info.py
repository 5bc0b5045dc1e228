#!/usr/bin/python
"""Read what tells later which host a run was made on."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_evidence_info
short_description: Read what tells later which host a run was made on
description:
  - Package list with versions, configuration of the host's and of the guests' kernel, digests of the data set, each as
    the text of a file.
  - What this host does not show is named with the reason; that is no failure.
  - Changes nothing.
options:
  state_directory:
    description: State directory of the KVM host.
    type: path
    default: /var/lib/onecopy
  dataset:
    description: Name of the data set.
    type: str
    required: true
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Read what tells later which host this was
  host_evidence_info:
    dataset: smoke
  register: __experiment_evidence
"""

RETURN = r"""
files:
  description: Texts by file name.
  type: dict
  returned: always
  sample: {"packages.txt": "adduser 3.152 all ii \n"}
absent:
  description: Reasons by file name.
  type: dict
  returned: always
  sample: {"kernel.config": "neither /boot/config-6.12.0 nor /proc/config.gz is there"}
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import evidence
from ansible.module_utils.onecopy.paths import HostPaths


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "state_directory": {"type": "path", "default": "/var/lib/onecopy"},
            "dataset": {"type": "str", "required": True},
        },
        supports_check_mode=True,
    )
    files, absent = evidence.collect(HostPaths(Path(module.params["state_directory"])), module.params["dataset"])
    module.exit_json(changed=False, files=files, absent=absent)


if __name__ == "__main__":
    main()
