#!/usr/bin/python
"""Say who holds a KVM host's memory."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: memory_ledger_info
short_description: Say who holds a KVM host's memory
description:
  - Splits a machine's memory into used, cache and free of every party, host, guests, QEMU processes and daemons, so that they add up to the whole.
  - Of a guest's memory only what the host really backs is counted, its memfd's blocks or its private mapping, never the process's Rss.
  - With an earlier snapshot it tells what became of the memory in between, and how much of the change nobody accounts for.
  - In a container the host's figures are those of the whole machine. What the container's processes hold is then told by its cgroup's memory.stat;
    without one, processes outside of the container are part of what nobody accounts for.
options:
  guests:
    description: The guests.
    type: list
    elements: dict
    default: []
    suboptions:
      qemu_pid:
        description: Process id of the guest's QEMU.
        type: int
        required: true
      meminfo:
        description: The guest's own /proc/meminfo in bytes, by its names. Without it all of its backed memory counts as used.
        type: dict
  daemons:
    description: Process ids of file system daemons.
    type: list
    elements: int
    default: []
  before:
    description: The RV(snapshot) of an earlier call with the same parties.
    type: dict
  dataset_bytes:
    description: Size of the data set, which decides how large a remainder may be.
    type: int
    default: 0
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Take the ledger before
  memory_ledger_info:
    guests: [{qemu_pid: 4711}]
    daemons: [4710]
  register: __before

- name: Take the ledger after, and what became of the memory
  memory_ledger_info:
    guests: [{qemu_pid: 4711}]
    daemons: [4710]
    before: "{{ __before.snapshot }}"
    dataset_bytes: 125829120
  register: __after
"""

RETURN = r"""
snapshot:
  description: What was read, for a later call's O(before).
  returned: always
  type: dict
ledger:
  description:
    - RV(ledger.total_bytes) and V(used_bytes), V(cache_bytes), V(free_bytes) of V(host), V(guests), V(qemu) and V(daemons).
    - Their sum less V(merged_bytes) (pages that KSM saved, counted by every owner) is the total.
  returned: always
  type: dict
change:
  description:
    - Change of the memory that is not free since O(before), and its parts. V(remainder_bytes) is what no part explains;
      V(others_bytes) are anonymous and shared pages of processes that are no party, V(outside_bytes) those of processes that a container does not see.
    - A party that is counted wrong shows in V(remainder_bytes), since others and outside are counted without it.
  returned: when O(before) is given
  type: dict
is_closed:
  description: Whether the remainder is at most 8 MiB or 5 % of the data set, whichever is more.
  returned: when O(before) is given
  type: bool
cgroups:
  description: memory.stat of every process's cgroup, by process id. To be shown, never summed, since shared pages are charged to their first user.
  returned: always
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import ledger


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "guests": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"qemu_pid": {"type": "int", "required": True}, "meminfo": {"type": "dict"}},
            },
            "daemons": {"type": "list", "elements": "int", "default": []},
            "before": {"type": "dict"},
            "dataset_bytes": {"type": "int", "default": 0},
        },
        supports_check_mode=True,
    )
    params = module.params
    guests = [ledger.Guest(guest["qemu_pid"], guest["meminfo"]) for guest in params["guests"]]
    try:
        taken = ledger.snapshot(guests, params["daemons"])
        change = ledger.difference(params["before"], taken) if params["before"] else None
    except (FileNotFoundError, ProcessLookupError) as error:
        module.fail_json(msg=f"{error.filename}: no such process: is the guest or daemon still running?")
    except (KeyError, TypeError) as error:
        module.fail_json(msg=f"before is not the snapshot of an earlier call with the same parties: {error}")
    closed = (
        {} if change is None else {"change": change, "is_closed": ledger.is_closed(change, params["dataset_bytes"])}
    )
    module.exit_json(
        changed=False, snapshot=taken, ledger=ledger.ledger(taken), cgroups=taken.get("cgroups", {}), **closed
    )


if __name__ == "__main__":
    main()
