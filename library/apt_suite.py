#!/usr/bin/python
"""Take some packages from one more suite of a Debian host's own mirror."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: apt_suite
short_description: Take some packages from one more suite of a Debian host's own mirror
description:
  - Adds a suite such as backports from the mirror that the host's own apt uses, unless the host has it already, and pins the named source packages to it.
options:
  name:
    description: The suite.
    type: str
    required: true
  source_packages:
    description: Source packages whose binaries come from it.
    type: list
    elements: str
    required: true
  mirror:
    description: Archive to use instead of the host's own.
    type: str
    default: ""
  state:
    description: Whether the suite is wanted.
    type: str
    choices: [present, absent]
    default: present
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: QEMU from backports
  apt_suite:
    name: trixie-backports
    source_packages: [qemu]
"""

RETURN = r"""
files:
  description: The files that were written or removed.
  returned: always
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import apt_sources

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"
ETC_APT = Path("/etc/apt")
FILES = ("preferences.d/onecopy", "sources.list.d/onecopy.list")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "source_packages": {"type": "list", "elements": "str", "required": True},
            "mirror": {"type": "str", "default": ""},
            "state": {"type": "str", "choices": ["present", "absent"], "default": "present"},
        },
        supports_check_mode=True,
    )
    params = module.params
    wanted: dict[str, str] = {}
    if params["state"] == "present":
        others = apt_sources.read_sources(ETC_APT, exclude=FILES)
        release = apt_sources.os_release(Path("/etc/os-release").read_text(encoding="utf-8"))
        try:
            suite = apt_sources.Suite(params["name"], tuple(params["source_packages"]))
            wanted = apt_sources.suite_files(suite, others, release, params["mirror"], KEYRING)
        except ValueError as error:
            module.fail_json(msg=str(error))
    changed = apt_sources.write_files(ETC_APT, FILES, wanted, check_mode=module.check_mode)
    module.exit_json(changed=bool(changed), files=changed)


if __name__ == "__main__":
    main()
