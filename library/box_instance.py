#!/usr/bin/python
"""Start, stop and remove one box."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: box_instance
short_description: Start, stop and remove one box
description:
  - A box is a systemd-nspawn instance that serves as a KVM host on a port of 127.0.0.1.
  - Stopping shuts the instance down in order and releases the loop devices that its files back. Removing stops it first.
options:
  name:
    description: Name of the instance; also of its unit and cgroups.
    type: str
    required: true
  directory:
    description: Where the instance's root file system and logs lie.
    type: path
    required: true
  state:
    description: What is wanted of it.
    type: str
    choices: [started, stopped, absent]
    default: started
  port:
    description: Where its SSH server listens on 127.0.0.1.
    type: int
    required: true
  base:
    description: The base root to copy when the instance is new.
    type: path
  public_key_file:
    description: The SSH key that may log in as root.
    type: path
  known_hosts:
    description: File in which the instance's host key is kept.
    type: path
  apt_cache:
    description: Directory of downloaded packages shared by instances.
    type: path
  memory_mib:
    description: Memory limit in MiB, where the machine can set one; 0 is none.
    type: int
    default: 0
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Start a box
  box_instance:
    name: onecopy-box1
    directory: .onecopy/box/onecopy-box1
    port: 22221
    base: .onecopy/box/base-0123456789abcdef
    public_key_file: .onecopy/ssh/id_ed25519.pub
    known_hosts: .onecopy/ssh/known_hosts

- name: Stop it
  box_instance:
    name: onecopy-box1
    directory: .onecopy/box/onecopy-box1
    port: 22221
    state: stopped
"""

RETURN = r"""
released:
  description: Loop devices and cgroups that were still held after the instance had ended.
  returned: always
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import nspawn
from ansible.module_utils.onecopy.commands import CommandError


def optional_path(value: str | None) -> Path | None:
    return Path(value) if value else None


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "directory": {"type": "path", "required": True},
            "state": {"type": "str", "choices": ["started", "stopped", "absent"], "default": "started"},
            "port": {"type": "int", "required": True},
            "base": {"type": "path"},
            "public_key_file": {"type": "path"},
            "known_hosts": {"type": "path"},
            "apt_cache": {"type": "path"},
            "memory_mib": {"type": "int", "default": 0},
        },
        required_if=[("state", "started", ("base", "public_key_file", "known_hosts"))],
        supports_check_mode=True,
    )
    params = module.params
    box = nspawn.Box(
        params["name"],
        Path(params["directory"]),
        params["port"],
        optional_path(params["apt_cache"]),
        params["memory_mib"],
    )
    try:
        changed, released = nspawn.ensure(
            box,
            params["state"],
            base=optional_path(params["base"]),
            public_key_file=optional_path(params["public_key_file"]),
            known_hosts=optional_path(params["known_hosts"]),
            check_mode=module.check_mode,
        )
    except (nspawn.BoxError, CommandError, OSError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=changed, released=released)


if __name__ == "__main__":
    main()
