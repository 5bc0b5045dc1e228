#!/usr/bin/python
"""Bring files into the page cache, or out of it."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: page_cache
short_description: Bring files into the page cache, or out of it
description:
  - Reads files through the page cache, or writes their dirty pages and evicts them, and proves it by counting again.
  - Works on the named files alone, never on the machine's whole cache.
  - Fails when the state was not reached in three tries. Pages that a process maps (a guest's DAX window, C(virtio-pmem)) cannot be evicted.
options:
  paths:
    description: Files, directories (their regular files, links are not followed) and block devices.
    type: list
    elements: path
    required: true
  state:
    description: V(resident) for all pages in the page cache, V(evicted) for none.
    type: str
    choices: [resident, evicted]
    required: true
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Start from a cold cache
  page_cache:
    paths: [/srv/data]
    state: evicted
"""

RETURN = r"""
before:
  description: Pages before anything was done, as page_cache_info's C(total).
  returned: success
  type: dict
after:
  description: Pages afterwards, counted anew. In check mode those of before.
  returned: success
  type: dict
"""

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import page_cache


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path", "required": True},
            "state": {"type": "str", "choices": ["resident", "evicted"], "required": True},
        },
        supports_check_mode=True,
    )
    state = module.params["state"]
    try:
        before, after = page_cache.bring(module.params["paths"], state, dry=module.check_mode)
    except page_cache.PageCacheError as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=not page_cache.is_reached(before, state), before=before.as_dict(), after=after.as_dict())


if __name__ == "__main__":
    main()
