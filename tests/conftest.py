"""The project's Python under the name that Ansible gives it."""

from __future__ import annotations

from pathlib import Path

import ansible.module_utils

PROJECT = Path(__file__).resolve().parent.parent
ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))
