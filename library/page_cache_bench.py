#!/usr/bin/python
"""Time the counting of cached pages against vmtouch and fincore."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: page_cache_bench
short_description: Time the counting of cached pages against vmtouch and fincore
description:
  - Makes a warm file of 1 GiB, then 4,000 small ones, lets page_cache_info's code, vmtouch and fincore count them in turn, and removes them again.
  - The times of the tools hold their start, as their users pay it. Run it on an idle machine.
options:
  directory:
    description: Where the files are made; on a file system with a page cache and 2 GiB of free space.
    type: path
    default: /var/tmp
  rounds:
    description: How often each way counts.
    type: int
    default: 15
attributes:
  check_mode:
    support: none
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Time the counting of cached pages
  page_cache_bench:
    directory: /var/lib/onecopy
"""

RETURN = r"""
cases:
  description:
    - Per case V(case), V(method), V(rounds), V(is_same_answer), and in V(ways) for V(page_cache_info), V(vmtouch) and V(fincore)
      V(seconds_median), V(seconds_min), V(resident_pages), and for the tools V(times_slower).
  returned: success
  type: list
  elements: dict
lines:
  description: The same as lines for a person.
  returned: success
  type: list
  elements: str
is_fast:
  description: Whether on 1 GiB both tools took at least 1.5 times as long, with the same answer.
  returned: success
  type: bool
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import page_cache_bench


def main() -> None:
    module = AnsibleModule(
        argument_spec={"directory": {"type": "path", "default": "/var/tmp"}, "rounds": {"type": "int", "default": 15}},
    )
    try:
        cases = [
            page_cache_bench.run(case, Path(module.params["directory"]), module.params["rounds"])
            for case in page_cache_bench.CASES
        ]
    except page_cache_bench.BenchError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    lines = [line for case in cases for line in page_cache_bench.describe(case)]
    module.exit_json(changed=False, cases=cases, lines=lines, is_fast=page_cache_bench.is_fast(cases[0]))


if __name__ == "__main__":
    main()
