#!/usr/bin/python
"""Make the base root file system of boxes."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: box_root
short_description: Make the base root file system of boxes
description:
  - Makes a Debian root file system with mmdebstrap and keeps it under the digest of its inputs.
  - Nothing is done while the inputs stay the same. Roots of other inputs are removed once a new one is whole.
  - The mirror is the one that this machine's own apt uses, when the machine is a Debian; otherwise mmdebstrap's built-in default.
options:
  directory:
    description: Where base roots are kept.
    type: path
    required: true
  suite:
    description: Debian release.
    type: str
    required: true
  packages:
    description: What the root holds beside apt's own set.
    type: list
    elements: str
    required: true
  mirror:
    description: Archive to use instead of this machine's own.
    type: str
    default: ""
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Make the base root
  box_root:
    directory: "{{ playbook_dir }}/../.onecopy/box"
    suite: trixie
    packages: [systemd, systemd-sysv, python3, openssh-server]
"""

RETURN = r"""
path:
  description: The base root.
  returned: always
  type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import apt_sources, box_root
from ansible.module_utils.onecopy.commands import CommandError

KEYRING = "/usr/share/keyrings/debian-archive-keyring.gpg"


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "directory": {"type": "path", "required": True},
            "suite": {"type": "str", "required": True},
            "packages": {"type": "list", "elements": "str", "required": True},
            "mirror": {"type": "str", "default": ""},
        },
        supports_check_mode=True,
    )
    params = module.params
    release = apt_sources.os_release(Path("/etc/os-release").read_text(encoding="utf-8"))
    mirror, security = apt_sources.debian_mirrors(release, apt_sources.read_sources())
    sources = apt_sources.sources_list(params["suite"], params["mirror"] or mirror, security, KEYRING)
    spec = box_root.RootSpec(params["suite"], tuple(params["packages"]), tuple(sources))
    path = box_root.base_path(Path(params["directory"]), spec)
    missing = not path.is_dir()
    if missing and not module.check_mode:
        try:
            box_root.build(spec, Path(params["directory"]))
        except (CommandError, OSError) as error:
            module.fail_json(msg=f"base root {path}: {error}")
    module.exit_json(changed=missing, path=str(path))


if __name__ == "__main__":
    main()
