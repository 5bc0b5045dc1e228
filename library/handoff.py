#!/usr/bin/python
"""Make one archive of a run, for others to check and repeat."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: handoff
short_description: Make one archive of a run, for others to check and repeat
description:
  - The archive holds raw records, manifest, plan, report, what the hosts said about themselves, the experiment, and the
    kit's source at the run's revision, with checksums and a Workflow Run Crate. The same run gives the same bytes.
  - A run of a changed working tree is refused, since no revision is its source.
options:
  run:
    description: A path to the directory of a run, EXPERIMENT/RUN_ID, RUN_ID, or EXPERIMENT for its newest run.
    type: str
    required: true
  reports_directory:
    description: Where runs are stored.
    type: path
    required: true
  repository:
    description: The kit's git checkout.
    type: path
    required: true
  destination:
    description: Directory of the archive; without it, the run's own parent.
    type: path
  dirty_allowed:
    description: Hand off a run of a changed working tree too; the archive says so.
    type: bool
    default: false
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Hand off the newest run of paper
  handoff:
    run: paper
    reports_directory: reports
    repository: .
"""

RETURN = r"""
path:
  description: The archive.
  returned: success
  type: path
sha256:
  description: Its digest, to be told to whoever gets it.
  returned: success
  type: str
bytes:
  description: Its size.
  returned: success
  type: int
files:
  description: Number of files in it.
  returned: success
  type: int
absent:
  description: What the run did not leave behind, one line each.
  returned: success
  type: list
  elements: str
"""

from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy.analysis import archive, handoff


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "run": {"type": "str", "required": True},
            "reports_directory": {"type": "path", "required": True},
            "repository": {"type": "path", "required": True},
            "destination": {"type": "path"},
            "dirty_allowed": {"type": "bool", "default": False},
        },
        supports_check_mode=True,
    )
    wanted = module.params
    try:
        directory = handoff.find_run(Path(wanted["reports_directory"]), wanted["run"])
        collected = handoff.collect(directory, Path(wanted["repository"]), dirty_allowed=wanted["dirty_allowed"])
        path = Path(wanted["destination"] or directory.parent) / f"{collected.top}.tar"
        data = archive.pack(collected.top, collected.files)
        changed = not path.is_file() or path.read_bytes() != data
        if changed and not module.check_mode:
            archive.write(path, collected.top, collected.files)
    except archive.ArchiveError as error:
        module.fail_json(msg=str(error))
    module.exit_json(
        changed=changed,
        path=str(path),
        sha256=archive.digest(data),
        bytes=len(data),
        files=len(collected.files) + 2,
        absent=list(collected.absent),
    )


if __name__ == "__main__":
    main()
