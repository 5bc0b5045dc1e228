#!/usr/bin/python
"""Set a host's settings for a measurement, and bring them back."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: host_knobs
short_description: Set a host's settings for a measurement, and bring them back
description:
  - Saves, sets and verifies settings of the machine (KSM, huge pages, swappiness, governor, turbo, readahead), where it has them.
  - What a setting was is on the disk before it is changed, so that it comes back after a kill too, by V(restored) here or
    by C(python3 -m onecopy.knobs DIRECTORY), which the unit of a run calls when it ends.
  - A setting that the machine does not have is named in RV(absent) and nothing is done about it.
options:
  state:
    description:
      - V(set) sets O(settings). V(verified) fails when somebody changed a setting since. V(restored) brings everything back.
    type: str
    choices: [set, verified, restored]
    default: set
  settings:
    description:
      - Values by name. Names are V(ksm_run), V(ksm_pages_to_scan), V(ksm_sleep_millisecs), V(ksm_max_page_sharing), V(ksm_merge_across_nodes),
        V(ksm_use_zero_pages), V(ksm_smart_scan), V(ksm_advisor_mode), V(thp_enabled), V(thp_defrag), V(thp_shmem_enabled), V(swappiness),
        V(numa_balancing), V(mglru), V(damon_reclaim), V(governor), V(turbo) (on or off) and V(read_ahead_kb).
      - When V(ksm_run) was V(0), restoring it unmerges what was merged.
    type: dict
    default: {}
  store:
    description: A path on the file system whose device V(read_ahead_kb) is about.
    type: path
  directory:
    description: Where the old values are kept.
    type: path
    default: /run/onecopy-machine/knobs
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Keep the machine from merging and moving pages
  host_knobs:
    settings:
      ksm_run: 0
      thp_enabled: madvise
      swappiness: 0

- name: Bring everything back
  host_knobs:
    state: restored
"""

RETURN = r"""
settings:
  description: Every setting of the table that this machine has, as it is now.
  returned: success
  type: dict
absent:
  description: Settings that were asked for and that this machine does not have.
  returned: success
  type: list
  elements: str
changed_settings:
  description: Names of what was set, or files of what was brought back.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import host_settings, knobs


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "state": {"type": "str", "choices": ["set", "verified", "restored"], "default": "set"},
            "settings": {"type": "dict", "default": {}},
            "store": {"type": "path"},
            "directory": {"type": "path", "default": "/run/onecopy-machine/knobs"},
        },
        supports_check_mode=True,
    )
    params = module.params
    directory = Path(params["directory"])
    store = Path(params["store"]) if params["store"] else None
    changed: list[str] = []
    absent: list[str] = []
    try:
        if params["state"] == "set":
            outcome = host_settings.apply(params["settings"], directory, store, dry=module.check_mode)
            changed, absent = outcome.changed, outcome.absent
        elif params["state"] == "restored":
            changed = knobs.restorable(directory) if module.check_mode else knobs.restore(directory)
        elif drifted := knobs.drifted(directory):
            module.fail_json(msg="; ".join(drifted))
        settings = host_settings.current(store)
    except (knobs.KnobError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=bool(changed), changed_settings=changed, absent=absent, settings=settings)


if __name__ == "__main__":
    main()
