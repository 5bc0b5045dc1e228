#!/usr/bin/python
"""Count what crosses each layer between a workload and the disk."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: io_path_info
short_description: Count what crosses each layer between a workload and the disk
description:
  - Reads requests, bytes, page faults and CPU seconds of every layer, the guest's block layer, QEMU's block devices (QMP C(query-blockstats)),
    QEMU and daemon as processes, FUSE requests, the store's device, and the host.
  - Never /proc/diskstats, which has the rest of the machine in it.
  - With an earlier answer it gives the change, and with the bytes wanted the amplification.
options:
  guests:
    description: The guests; layers are summed over them.
    type: list
    elements: dict
    default: []
    suboptions:
      qemu_pid:
        description: Process id of the guest's QEMU.
        type: int
        required: true
      qmp:
        description: Socket of its monitor.
        type: path
      counters:
        description: The C(counters) that the guest's runner answered.
        type: dict
  daemons:
    description: File system daemons; summed.
    type: list
    elements: dict
    default: []
    suboptions:
      pid:
        description: Process id.
        type: int
        required: true
      stats:
        description: Socket on which hostfsd tells its counters.
        type: path
  store:
    description: A path on the file system whose device is counted.
    type: path
  before:
    description: The RV(layers) of an earlier call.
    type: dict
  wanted_bytes:
    description: Bytes that the workload was defined to read since O(before).
    type: int
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Count before a workload
  io_path_info:
    guests: [{qemu_pid: 4711, qmp: /run/onecopy/trial/qmp.sock}]
    store: /var/lib/onecopy/store
  register: __before

- name: Count after it
  io_path_info:
    guests: [{qemu_pid: 4711, qmp: /run/onecopy/trial/qmp.sock}]
    store: /var/lib/onecopy/store
    before: "{{ __before.layers }}"
    wanted_bytes: 125829120
"""

RETURN = r"""
layers:
  description: Counters by layer (guest, qemu_block, qemu, fuse, daemon, store, host); only those that were asked for.
  returned: always
  type: dict
change:
  description: The change of every counter since O(before).
  returned: when O(before) is given
  type: dict
amplification:
  description: Bytes, requests and faults of each layer per byte wanted.
  returned: when O(before) and O(wanted_bytes) are given
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import io_path


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "guests": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {
                    "qemu_pid": {"type": "int", "required": True},
                    "qmp": {"type": "path"},
                    "counters": {"type": "dict"},
                },
            },
            "daemons": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"pid": {"type": "int", "required": True}, "stats": {"type": "path"}},
            },
            "store": {"type": "path"},
            "before": {"type": "dict"},
            "wanted_bytes": {"type": "int"},
        },
        required_by={"wanted_bytes": "before"},
        supports_check_mode=True,
    )
    params = module.params
    path = {name: Path(params[name]) for name in ("store",) if params[name]}
    guests = [
        io_path.Guest(one["qemu_pid"], one["qmp"] and Path(one["qmp"]), one["counters"]) for one in params["guests"]
    ]
    daemons = [io_path.Daemon(one["pid"], one["stats"] and Path(one["stats"])) for one in params["daemons"]]
    try:
        result = {"layers": io_path.snapshot(guests, daemons, **path)}
        if params["before"] is not None:
            result["change"] = io_path.difference(params["before"], result["layers"])
        if params["wanted_bytes"] is not None:
            result["amplification"] = io_path.amplification(result["change"], params["wanted_bytes"])
    except (OSError, ValueError, KeyError) as error:
        where = f"{error.filename}: " if isinstance(error, OSError) and error.filename else ""
        module.fail_json(
            msg=f"{where}{error}: is every guest and daemon still running, and every socket the right one?"
        )
    module.exit_json(changed=False, **result)


if __name__ == "__main__":
    main()
