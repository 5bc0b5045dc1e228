#!/usr/bin/python
"""Ansible module: see DOCUMENTATION."""

from __future__ import annotations

DOCUMENTATION = r"""
module: own_archive
short_description: Have the packed copy of a user's directory at hand
description:
  - Packs the directory again where its copy is not kept any more, and fails when it does not hold the same data by now.
  - Runs on the controller.
options:
  data:
    description: Directory with the data.
    type: path
    required: true
  sha256:
    description: Digest that the packed copy must have.
    type: str
    required: true
  archives:
    description: Where packed copies lie.
    type: path
    required: true
attributes:
  check_mode:
    support: none
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Have the data at hand
  own_archive:
    data: /srv/mail
    sha256: 5e884898da28047151d0e56f8dc6292773603d0d6aabbdd62a11ef721d1542d8
    archives: .onecopy/own
  delegate_to: localhost
"""

RETURN = r"""
path:
  description: The packed copy.
  returned: success
  type: path
bytes:
  description: Its size.
  returned: success
  type: int
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import image, own_tree


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "data": {"type": "path", "required": True},
            "sha256": {"type": "str", "required": True},
            "archives": {"type": "path", "required": True},
        }
    )
    data, sha256 = Path(module.params["data"]), module.params["sha256"]
    path = Path(module.params["archives"]) / f"{sha256}.tar"
    is_new = not path.is_file()
    try:
        if is_new and own_tree.keep(data, path.parent) != path:
            module.fail_json(
                msg=f"{data}: holds other data than when the experiment was written: run ./onecopy compare again"
            )
    except (own_tree.OwnTreeError, image.NoSpaceError, OSError) as error:
        module.fail_json(
            msg=f"the experiment's data are a copy of a directory on this machine, which is needed again: {error}"
        )
    module.exit_json(changed=is_new, path=str(path.resolve()), bytes=path.stat().st_size)


if __name__ == "__main__":
    main()
