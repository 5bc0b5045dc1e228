#!/usr/bin/python
"""Check an archive made by handoff, unpack it, and rebuild its summary and report."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: handoff_verified
short_description: Check an archive made by handoff, unpack it, and rebuild its summary and report
description:
  - Every byte of the archive is checked before anything is unpacked; what was altered is named.
  - Summary and report are rebuilt offline from the raw records, with this kit. The summary must be the same bytes as
    the archived one.
options:
  archive:
    description: The archive.
    type: path
    required: true
  directory:
    description: Below it the archive is unpacked, under the first digits of its digest.
    type: path
    required: true
  templates:
    description: Templates of the report.
    type: path
    required: true
  sha256:
    description: Digest that the archive's maker told; empty, it is not compared.
    type: str
    default: ""
attributes:
  check_mode:
    support: none
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Check what a colleague sent
  handoff_verified:
    archive: onecopy-paper-20260101T000000Z.tar
    directory: .onecopy/archives
    templates: roles/report/templates
"""

RETURN = r"""
sha256:
  description: Digest of the archive, to be compared with what its maker told.
  returned: success
  type: str
files:
  description: Number of files that were checked.
  returned: success
  type: int
experiment:
  description: The experiment's name.
  returned: success
  type: str
run_id:
  description: The archived run.
  returned: success
  type: str
revision:
  description: The kit's revision that made it.
  returned: success
  type: str
dirty:
  description: Whether files of the kit differed from that revision.
  returned: success
  type: bool
experiment_file:
  description: The experiment, to be run again.
  returned: success
  type: path
run_directory:
  description: The unpacked run.
  returned: success
  type: path
rebuilt_directory:
  description: Summary and report as rebuilt here.
  returned: success
  type: path
same:
  description:
    - Per rebuilt file, whether it is the same bytes as the archived one.
    - Drawings depend on the versions of libraries.
  returned: success
  type: dict
suite:
  description: Debian release of the archived run's guests; empty where the run does not tell.
  returned: success
  type: str
guest_include:
  description: Packages that were asked for in the archived run's guests beside the essential ones; empty where the run does not tell.
  returned: success
  type: list
  elements: str
guest_packages:
  description: Every package of the archived run's guests with its version; empty where the run does not tell.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy.analysis import archive, handoff, verify


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "archive": {"type": "path", "required": True},
            "directory": {"type": "path", "required": True},
            "templates": {"type": "path", "required": True},
            "sha256": {"type": "str", "default": ""},
        },
    )
    wanted = module.params
    path = Path(wanted["archive"])
    try:
        directory = Path(wanted["directory"]).resolve()
        before = directory.exists() and set(directory.iterdir())
        opened = verify.unpack(path, directory, wanted["sha256"])
        rebuilt = verify.rebuild(opened, Path(wanted["templates"]))
    except archive.ArchiveError as error:
        module.fail_json(msg=str(error))
    if rebuilt.difference:
        module.fail_json(
            msg=f"{path}: is whole, but its summary is not what its records give with this kit: {rebuilt.difference}; "
            f"it was made at revision {opened.revision[:12]}: verify it with that revision"
        )
    include, packages = opened.guest_packages
    module.exit_json(
        changed=not before or opened.directory not in before,
        sha256=opened.archive.digest,
        files=len(opened.archive.files) + 2,
        experiment=opened.run.experiment,
        run_id=opened.run.run_id,
        revision=opened.revision,
        dirty=opened.dirty,
        experiment_file=str(opened.directory / handoff.EXPERIMENT),
        run_directory=str(opened.run_directory),
        rebuilt_directory=str(rebuilt.directory),
        same=dict(rebuilt.same),
        suite=opened.guest_suite,
        guest_include=include,
        guest_packages=packages,
    )


if __name__ == "__main__":
    main()
