#!/usr/bin/python
"""Make what guests boot: kernel, initramfs with the runner, root image."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: guest_root
short_description: Make what guests boot
description:
  - Makes kernel, initramfs and a read-only root image below C(guest/) by mmdebstrap; again only when the inputs change.
  - The runner lies in the initramfs, and beside it for the chroot of system hfs. When only the runner changed, only the initramfs is packed again.
options:
  suite:
    description: Debian release of the guests.
    type: str
    default: trixie
  mirror:
    description: Archive to use; empty is the one that this host's apt uses for the release, else mmdebstrap's own default.
    type: str
    default: ''
  packages:
    description: Packages beside the essential ones.
    type: list
    elements: str
    default: [python3]
  size_mib:
    description: Size of the root image.
    type: int
    default: 384
  pinned_packages:
    description:
      - Packages with versions that the root must have, as another machine's manifest lists them; empty pins none.
      - Where the archive has others by now, this fails and says which. An archive of snapshots as O(mirror) still has them.
    type: list
    elements: str
    default: []
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
- name: Make what guests boot
  guest_root:
    suite: trixie
"""

RETURN = r"""
rebuilt:
  description: What was, or in check mode would be, made.
  returned: always
  type: list
  elements: str
  sample: [root, runner]
manifest:
  description: Kernel release, packages and digests; empty before the first build.
  returned: always
  type: dict
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import guest_root, image
from ansible.module_utils.onecopy.commands import CommandError
from ansible.module_utils.onecopy.paths import HostPaths


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "suite": {"type": "str", "default": "trixie"},
            "mirror": {"type": "str", "default": ""},
            "packages": {"type": "list", "elements": "str", "default": ["python3"]},
            "size_mib": {"type": "int", "default": 384},
            "pinned_packages": {"type": "list", "elements": "str", "default": []},
            "state_directory": {"type": "path", "default": "/var/lib/onecopy"},
        },
        supports_check_mode=True,
    )
    params = module.params
    guest = HostPaths(Path(params["state_directory"])).guest
    spec = guest_root.RootSpec(params["suite"], params["mirror"], tuple(params["packages"]), params["size_mib"])
    rebuilt = [] if guest_root.is_current(spec, guest) else ["root"]
    if rebuilt or not guest_root.is_runner_current(guest):
        rebuilt.append("runner")
    try:
        if "root" in rebuilt and not module.check_mode:
            guest_root.build(spec, guest)
        if "runner" in rebuilt and not module.check_mode:
            guest_root.pack_runner(guest)
    except (CommandError, image.NoSpaceError, OSError, ValueError) as error:
        module.fail_json(msg=f"{guest}: {error}")
    manifest = guest_root.read_manifest(guest)
    pinned = params["pinned_packages"]
    unlike = guest_root.find_unlike(manifest.get("packages", []), pinned) if pinned and manifest else None
    if unlike:
        module.fail_json(
            msg=f"{guest / 'root.img'}: {unlike}; set guest_image_mirror to an archive that keeps old versions (a snapshot of the day when these "
            "were current); without guest_image_pinned_packages the guest is another one"
        )
    module.exit_json(changed=bool(rebuilt), rebuilt=rebuilt, manifest=manifest)


if __name__ == "__main__":
    main()
