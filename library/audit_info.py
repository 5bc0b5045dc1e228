#!/usr/bin/python
"""Read how much of its guests' storage a host caches a second time."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: audit_info
short_description: Read how much of its guests' storage a host caches a second time
description:
  - Finds every running QEMU (libvirt, Proxmox VE or plain), its disks with their cache modes, its virtiofs shares with
    their daemons, and what this host's page cache holds of them.
  - Gives an upper bound of the bytes that each guest can hold a second time, and one setting to try.
  - Reads C(/proc), C(/sys) and the residency of files that are open anyway. Nothing is deployed, nothing is changed,
    no cache and no access time either. Guests are not asked. A figure that cannot be had so is absent, with the reason.
  - What a guest may cache of a share is taken from the files that its daemon keeps open for it.
requirements:
  - Linux 5.12 or newer for walking shares without loading anything; Linux 6.5 or newer counts pages faster.
options:
  seconds:
    description: Time for counting the files of shares on this host; what is not counted by then is incomplete.
    type: float
    default: 20
  share_walk:
    description:
      - How the trees of shares are counted.
      - V(known_names) opens only names that the kernel's name cache knows already, V(everything) every file, which
        loads directory entries and inodes into the host's caches, though no data; V(none) leaves trees alone.
    type: str
    choices: [known_names, everything, none]
    default: known_names
  monitors_enabled:
    description:
      - Whether machine-protocol sockets (QMP) that nobody uses are asked for balloon statistics that are on already.
      - A socket that a manager holds, or that was opened with C(wait=on), is never connected to. With libvirt a
        read-only C(virsh dommemstat) is asked instead.
    type: bool
    default: true
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Look at every running guest
  audit_info:
  become: true
  register: __audit

- name: Count shares whose daemons keep file handles instead of descriptors
  audit_info:
    share_walk: everything
    seconds: 120
  become: true
  register: __audit
"""

RETURN = r"""
audit:
  description: The audit of this host. Sizes are in bytes; what could not be told is absent.
  returned: always
  type: dict
  contains:
    schema:
      description: Version of this shape.
      type: int
      returned: always
    host:
      description: Name, kernel, C(memory), C(ksm) counters, C(thp) choices, and the C(residency_method).
      type: dict
      returned: always
    guests:
      description:
        - Every running QEMU with C(pid), C(name), C(manager), C(accelerator), C(memory), C(balloon), C(guest_cache),
          C(images), C(shares), C(verdict) and C(remarks).
        - C(verdict) has C(duplicated_at_most_bytes), C(limited_by) (host_cache, guest_memory, guest_cache),
          C(complete), and the one C(setting) to try with its C(subject), C(reason), C(gives_up) and
          C(saves_at_most_bytes).
      type: list
      elements: dict
      returned: always
    daemons_without_guest:
      description: File-system daemons that no running QEMU is connected to.
      type: list
      elements: dict
      returned: always
    images_host_cached_bytes:
      description: What the host caches of all images, each counted once.
      type: int
      returned: always
    shares_host_cached_bytes:
      description: What the host caches of all shared directories, each counted once.
      type: int
      returned: always
    verdict:
      description: The sum over the guests, the setting that ends the largest part, and C(notes) on KSM and THP.
      type: dict
      returned: always
    remarks:
      description: What could not be looked at, and why.
      type: list
      elements: str
      returned: always
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import audit


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "seconds": {"type": "float", "default": 20.0},
            "share_walk": {"type": "str", "choices": ["known_names", "everything", "none"], "default": "known_names"},
            "monitors_enabled": {"type": "bool", "default": True},
        },
        supports_check_mode=True,
    )
    params = module.params
    if params["seconds"] <= 0:
        module.fail_json(msg=f"seconds: {params['seconds']} must be greater than 0")
    try:
        found = audit.audit(audit.Options(params["seconds"], params["share_walk"], params["monitors_enabled"]))
    except (audit.AuditError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=False, audit=found)


if __name__ == "__main__":
    main()
