#!/usr/bin/python
"""Ansible module: see DOCUMENTATION."""

from __future__ import annotations

DOCUMENTATION = r"""
module: compare_experiment
short_description: Write the experiment that runs a user's own command on his own data
description:
  - Looks at the data, packs a copy of them for the KVM hosts, and writes the experiment. The data are only read.
  - Runs on the controller, with Ansible's own Python.
options:
  data:
    description: Directory with the data.
    type: path
    required: true
  command:
    description: The command, word by word. C({data}) becomes the directory of the data in a guest, C({scratch}) a place to write.
    type: list
    elements: str
    required: true
  systems:
    description: Systems to compare; empty means all that need one guest.
    type: list
    elements: str
    default: []
  path:
    description: Where the experiment is written.
    type: path
    required: true
  archives:
    description: Where packed copies of data lie, under their digest; one that is there is kept, others are removed.
    type: path
    required: true
  schema:
    description: The JSON schema of experiments.
    type: path
    required: true
attributes:
  check_mode:
    support: none
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Compare systems by a search in the mail archive
  compare_experiment:
    data: /srv/mail
    command: [grep, -rc, invoice, "{data}"]
    path: reports/compare/experiment.yml
    archives: .onecopy/own
    schema: reports/schema/experiment.schema.json
  delegate_to: localhost
"""

RETURN = r"""
lines:
  description: What will be compared, for a person.
  returned: success
  type: list
  elements: str
"""

import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy import compare, image, own_tree
from ansible.module_utils.onecopy.experiment import ExperimentError


def main() -> None:
    """Entry point."""
    words = {"type": "list", "elements": "str"}
    spec = {name: {"type": "path", "required": True} for name in ("data", "path", "archives", "schema")}
    module = AnsibleModule(
        argument_spec={**spec, "command": {**words, "required": True}, "systems": {**words, "default": []}}
    )
    wanted = module.params
    data, archives = Path(wanted["data"]), Path(wanted["archives"])
    schema = json.loads(Path(wanted["schema"]).read_text(encoding="utf-8"))
    try:
        found = own_tree.survey(data)
        # Before anything is copied: a mistake in the command or the systems is told at once.
        compare.make(data, found, "0" * 64, wanted["command"], wanted["systems"], schema)
        archive = own_tree.keep(data, archives)
        document = compare.make(data, found, archive.stem, wanted["command"], wanted["systems"], schema)
        is_new = compare.write(document, Path(wanted["path"]))
    except ExperimentError as error:
        module.fail_json(msg=str(error))
    except (own_tree.OwnTreeError, image.NoSpaceError, OSError) as error:
        module.fail_json(msg=f"compare: {error}")
    lines = [
        document["description"],
        f"{found.large_files} files from 1 MiB up ({found.large_bytes >> 20} MiB), {found.small_files} smaller ones ({found.small_bytes >> 20} MiB)",
        "the original is only read; hosts get a copy, with owners, times and modes set to fixed values",
    ]
    if not wanted["systems"]:
        lines.append(
            f"left out unless you name them: {', '.join(compare.FOR_MANY_GUESTS)}: what sets them apart takes several guests (./onecopy run density)"
        )
    if found.others:
        lines.append(f"{found.others} entries that are no files, directories or links are left out")
    module.exit_json(changed=is_new, lines=lines)


if __name__ == "__main__":
    main()
