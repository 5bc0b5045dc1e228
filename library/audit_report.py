#!/usr/bin/python
"""Write audits of hosts as JSON, as a page and as a table."""

from __future__ import annotations

DOCUMENTATION = r"""
---
module: audit_report
short_description: Write audits of hosts as JSON, as a page and as a table
description:
  - Writes C(audit.json), C(audit.html) (one file that needs nothing else) and C(audit.md), and returns a table for
    the terminal.
  - Runs on the controller.
options:
  audits:
    description: What M(audit_info) returned, one per host.
    type: list
    elements: dict
    required: true
  directory:
    description: Where the files go. Made when missing.
    type: path
    required: true
  templates:
    description: Directory of the report's templates.
    type: path
    required: true
  summaries:
    description:
      - C(summary.json) of stored runs whose measured copies are quoted beside each advice, the first one's that has them.
      - One that is missing is left out.
    type: list
    elements: path
    default: []
attributes:
  check_mode:
    support: full
author: onecopy authors (@onecopy)
"""

EXAMPLES = r"""
- name: Write the audit
  audit_report:
    audits: "{{ ansible_play_hosts | map('extract', hostvars, ['__audit', 'audit']) }}"
    directory: "{{ playbook_dir }}/../reports/audit"
    templates: "{{ playbook_dir }}/../roles/report/templates"
  delegate_to: localhost
  run_once: true
"""

RETURN = r"""
table:
  description: One line per guest and per host.
  returned: always
  type: str
files:
  description: The files that hold the audit.
  returned: always
  type: list
  elements: str
"""

import json
from pathlib import Path

from ansible.module_utils.basic import AnsibleModule
from ansible.module_utils.onecopy.analysis import audit_document, report


def main() -> None:
    """Entry point."""
    module = AnsibleModule(
        argument_spec={
            "audits": {"type": "list", "elements": "dict", "required": True},
            "directory": {"type": "path", "required": True},
            "templates": {"type": "path", "required": True},
            "summaries": {"type": "list", "elements": "path", "default": []},
        },
        supports_check_mode=True,
    )
    params = module.params
    audits, directory = params["audits"], Path(params["directory"])
    try:
        summaries = [path for path in map(Path, params["summaries"]) if path.is_file()]
        measured = [json.loads(path.read_text(encoding="utf-8")) for path in summaries]
        pages = report.render(audit_document.document(audits, measured), Path(params["templates"]))
        wanted = {directory / name.replace("report", "audit"): text for name, text in pages.items()}
        wanted[directory / "audit.json"] = json.dumps(audits, indent=1, sort_keys=True) + "\n"
        stale = [
            path for path, text in wanted.items() if not path.is_file() or path.read_text(encoding="utf-8") != text
        ]
        if not module.check_mode:
            directory.mkdir(parents=True, exist_ok=True)
            for path in stale:
                path.write_text(wanted[path], encoding="utf-8")
    except (OSError, ValueError) as error:
        module.fail_json(msg=f"the audit cannot be written to {directory}: {error}")
    module.exit_json(changed=bool(stale), table=audit_document.terminal_table(audits), files=sorted(map(str, wanted)))


if __name__ == "__main__":
    main()
