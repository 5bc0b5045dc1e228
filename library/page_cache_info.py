#!/usr/bin/python
"""Count the cached pages of files."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: page_cache_info
short_description: Count the cached pages of files
description:
  - Counts the pages of files and trees that lie in the page cache of the machine that it runs on.
  - Asks C(cachestat(2)) (Linux 6.5), which tells dirty and evicted pages too, or C(mincore(2)), which knows residency alone.
  - Trees are walked without following links. A file with several names, sparse or empty files count as the kernel counts them.
  - Files on DAX have no page cache of their own and are refused when named, skipped in trees.
  - Opening a file on a FUSE file system may drop its cached pages (virtiofs with C(cache=auto) does).
options:
  paths:
    description: Files, directories and block devices.
    type: list
    elements: path
    required: true
  method:
    description: The system call to ask. V(auto) takes cachestat where the kernel has it.
    type: str
    choices: [auto, cachestat, mincore]
    default: auto
  per_file:
    description: Whether to return the figures of every file as well.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Count the cached pages of a tree
  page_cache_info:
    paths: [/srv/data]
  register: __counted

- name: Fail unless the tree is cold
  ansible.builtin.assert:
    that: __counted.total.resident_pages == 0
"""

RETURN = r"""
method:
  description: The system call that was asked.
  returned: always
  type: str
  sample: cachestat
seconds:
  description: Time that counting took inside the module, opening the files included.
  returned: always
  type: float
total:
  description: Sums over all files, in pages of 4,096 bytes.
  returned: always
  type: dict
  contains:
    files:
      description: Files that were counted.
      returned: always
      type: int
    pages:
      description: Pages of these files.
      returned: always
      type: int
    resident_pages:
      description: Those in the page cache.
      returned: always
      type: int
    dirty_pages:
      description: Those not yet written. The kernel counts whole folios, so one changed byte may show as several pages.
      returned: when cachestat was asked
      type: int
    writeback_pages:
      description: Those being written.
      returned: when cachestat was asked
      type: int
    evicted_pages:
      description: Those whose eviction the kernel remembers.
      returned: when cachestat was asked
      type: int
    recently_evicted_pages:
      description: Those whose return would count as a refault.
      returned: when cachestat was asked
      type: int
    skipped_files:
      description: Files in trees that could not be counted.
      returned: always
      type: int
    skipped:
      description: At most 100 of them, each with O(ignore:path) and O(ignore:reason) (V(dax), V(unreadable), V(vanished)).
      returned: always
      type: list
      elements: dict
files:
  description: Figures of every file, by path.
  returned: when O(per_file=true)
  type: dict
"""

import time
from typing import Any

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import cachestat, page_cache


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "paths": {"type": "list", "elements": "path", "required": True},
            "method": {"type": "str", "choices": ["auto", "cachestat", "mincore"], "default": "auto"},
            "per_file": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    method = cachestat.method() if module.params["method"] == "auto" else module.params["method"]
    if method == "cachestat" and cachestat.method() == "mincore":
        module.fail_json(msg="method cachestat: this kernel has no cachestat(2); take auto or mincore")
    files: dict[str, Any] = {}
    collect = page_cache.collector(files) if module.params["per_file"] else None
    started = time.perf_counter()
    try:
        total = page_cache.count(module.params["paths"], method, collect)
    except page_cache.PageCacheError as error:
        module.fail_json(msg=str(error))
    seconds = time.perf_counter() - started
    details = {"files": files} if module.params["per_file"] else {}
    module.exit_json(changed=False, method=method, seconds=seconds, total=total.as_dict(), **details)


if __name__ == "__main__":
    main()
