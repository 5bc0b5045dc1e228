#!/usr/bin/python
"""Make the deterministic data set that every system under test reads."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: dataset
short_description: Make the deterministic data set that every system under test reads
description:
  - Makes C(store/shares/NAME/data) with the equal trees C(a) and C(b) (its twin), C(store/shares/NAME/scratch), and a manifest with the sha256 of
    every file and a digest of every page.
  - The same options give the same bytes on every machine. A data set of other options under the same name is replaced.
options:
  name:
    description: Name of the data set, a plain file name.
    type: str
    required: true
  large_mib:
    description: Size of the few big files of one tree together, in MiB.
    type: int
    required: true
  large_files:
    description: Number of the big files.
    type: int
    required: true
  small_mib:
    description: Size of the many small files of one tree together, in MiB.
    type: int
    required: true
  small_files:
    description: Number of the small files.
    type: int
    required: true
  seed:
    description: Where the bytes and sizes come from.
    type: int
    required: true
  twin:
    description: Whether there is the second tree, for workloads that compare two.
    type: bool
    default: true
  state_directory:
    description: The kit's state directory on this host.
    type: path
    default: /var/lib/onecopy
  thorough:
    description: Compare every byte with the manifest, instead of names and sizes.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Make the data set of the smoke experiment
  dataset:
    name: smoke
    large_mib: 24
    large_files: 3
    small_mib: 8
    small_files: 997
    seed: 1
"""

RETURN = r"""
reason:
  description: Why it was, or in check mode would be, made; empty when it is there.
  returned: always
  type: str
manifest:
  description: Path of the manifest.
  returned: always
  type: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import dataset, image
from ansible.module_utils.onecopy.paths import HostPaths

NUMBERS = ("large_mib", "large_files", "small_mib", "small_files", "seed")


def main() -> None:
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            **{number: {"type": "int", "required": True} for number in NUMBERS},
            "twin": {"type": "bool", "default": True},
            "state_directory": {"type": "path", "default": "/var/lib/onecopy"},
            "thorough": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    params = module.params
    paths = HostPaths(Path(params["state_directory"]))
    share, manifest = paths.share(params["name"]), paths.dataset_manifest(params["name"])
    reason = None
    try:
        spec = dataset.DatasetSpec(params["name"], **{key: params[key] for key in (*NUMBERS, "twin")})
        reason = dataset.find_difference(spec, share, manifest, params["thorough"])
        if reason and not module.check_mode:
            dataset.make(spec, share, manifest)
    except (ValueError, OSError, image.NoSpaceError) as error:
        module.fail_json(msg=str(error))
    module.exit_json(changed=reason is not None, reason=reason or "", manifest=str(manifest))


if __name__ == "__main__":
    main()
