#!/usr/bin/python
"""Say on what a measurement was made."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: lab_info
short_description: Say on what a measurement was made
description:
  - Collects what may confound a measurement and what must be equal for two to be compared, processor, microcode, kernel and its configuration,
    versions, mount options, readahead, scheduler, cgroup layout, huge pages, MGLRU, DAMON, swap, steal time.
  - What cannot be found out is absent.
options:
  store:
    description: A path whose mount and block device matter.
    type: path
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Note on what is measured
  lab_info:
    store: /var/lib/onecopy/store
  register: __lab
"""

RETURN = r"""
lab:
  description:
    - V(cpu), V(kernel), V(memory) (swap areas too), V(settings) (as host_knobs names them), V(damon), V(cgroups), V(store), V(fuse), V(load),
      V(machine), V(distribution), V(packages), V(programs).
  returned: always
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import lab


def main() -> None:
    module = AnsibleModule(argument_spec={"store": {"type": "path"}}, supports_check_mode=True)
    store = module.params["store"]
    try:
        facts = lab.collect(Path(store) if store else None)
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    module.exit_json(changed=False, lab=facts)


if __name__ == "__main__":
    main()
