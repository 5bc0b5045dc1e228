#!/usr/bin/python
"""Count the physical copies of a data set's pages."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: page_frames_info
short_description: Count the physical copies of a data set's pages
description:
  - Finds the frames (by PFN from /proc/PID/pagemap) that hold pages of a data set, in the host's page cache, in guests' memory and
    in daemons' memfds. A frame counts once, however many guests share it (KSM, DAX windows, mapped images).
  - Pages are known by the digests in the data set's manifest. Equal trees cannot be told apart by content, so name only the tree that was read.
  - Nothing is read into the cache. Guests go on meanwhile, so their workloads should rest.
options:
  manifest:
    description: The data set's manifest, beside its file of page digests.
    type: path
    required: true
  parts:
    description: Parts of the data set whose pages are looked for.
    type: list
    elements: str
    choices: [large, small]
    default: [large, small]
  paths:
    description: Files and trees in the host's page cache.
    type: list
    elements: path
    default: []
  images:
    description: Images in the host's page cache.
    type: list
    elements: dict
    default: []
    suboptions:
      path:
        description: The image.
        type: path
        required: true
      ranges:
        description: Offset and length in bytes of what is looked at; all of the image without it.
        type: list
        elements: list
  guests:
    description: Process ids of the guests' QEMU.
    type: list
    elements: int
    default: []
  daemons:
    description: Process ids of file system daemons that keep pages in memfds of their own.
    type: list
    elements: int
    default: []
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Count frames behind a share that two guests read
  page_frames_info:
    manifest: /var/lib/onecopy/manifests/smoke.json
    paths: [/var/lib/onecopy/store/shares/smoke/data/a]
    guests: [4711, 4712]
"""

RETURN = r"""
wanted_pages:
  description: Distinct pages that were looked for.
  returned: always
  type: int
physical_pages:
  description: Distinct frames that hold one of them.
  returned: always
  type: int
logical_pages:
  description: Places that hold one of them, each party counting for itself.
  returned: always
  type: int
merged_frames:
  description: Frames that more than one party uses.
  returned: always
  type: int
physical_copies:
  description: RV(physical_pages) by RV(wanted_pages).
  returned: always
  type: float
logical_copies:
  description: RV(logical_pages) by RV(wanted_pages).
  returned: always
  type: float
parties:
  description: V(places), V(frames) and V(distinct_pages) of V(host), V(guest PID) and V(daemon PID).
  returned: always
  type: dict
seconds:
  description: Time that looking took.
  returned: always
  type: float
"""

import time
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import dataset_frames, page_frames


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "manifest": {"type": "path", "required": True},
            "parts": {"type": "list", "elements": "str", "choices": ["large", "small"], "default": ["large", "small"]},
            "paths": {"type": "list", "elements": "path", "default": []},
            "images": {
                "type": "list",
                "elements": "dict",
                "default": [],
                "options": {"path": {"type": "path", "required": True}, "ranges": {"type": "list", "elements": "list"}},
            },
            "guests": {"type": "list", "elements": "int", "default": []},
            "daemons": {"type": "list", "elements": "int", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    images = [(Path(one["path"]), one["ranges"]) for one in params["images"]]
    started = time.perf_counter()
    try:
        counted = dataset_frames.count(
            Path(params["manifest"]), params["parts"], params["paths"], images, params["guests"], params["daemons"]
        )
    except page_frames.PageFramesError as error:
        module.fail_json(msg=str(error))
    except OSError as error:
        module.fail_json(msg=f"{error.filename}: {error.strerror}")
    module.exit_json(changed=False, seconds=time.perf_counter() - started, **counted)


if __name__ == "__main__":
    main()
