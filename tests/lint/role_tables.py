"""The table of variables in each role's README, generated from its argument_specs.

``python tests/lint/role_tables.py --check`` names the tables that are not current; ``--write`` brings them up to date.
"""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

ROLES = Path(__file__).resolve().parents[2] / "roles"
MARK = "<!-- argument_specs -->"
_MARKUP = re.compile(r"\b[CBIMOV]\(([^)]*)\)")


class TableError(Exception):
    """A role whose README cannot take a table."""


def rows(options: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str, str, str]]:
    """Yield name, type, default and description of every option, nested ones below their parent."""
    for name, option in options.items():
        kind = option.get("type", "str")
        if "choices" in option:
            kind = ", ".join(f"`{choice}`" for choice in option["choices"])
        elif kind == "list":
            kind = f"list of {option.get('elements', 'any')}"
        default = "**required**" if option.get("required") else _default(option.get("default"))
        yield f"`{prefix}{name}`", kind, default, _text(option["description"])
        yield from rows(option.get("options", {}), f"{prefix}{name}.")


def _default(value: Any) -> str:
    if value is None:
        return ""
    if value in ("", [], {}):
        return "empty"
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _text(description: str | list[str]) -> str:
    text = " ".join(description) if isinstance(description, list) else description
    return " ".join(_MARKUP.sub(r"`\1`", text).replace("|", "\\|").split())


def table(specs: Mapping[str, Any]) -> str:
    """Return the table of a role's entry point ``main``."""
    lines = ["| Variable | Type | Default | Description |", "|---|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows(specs["argument_specs"]["main"].get("options", {}))]
    return "\n".join(lines)


def with_table(readme: str, generated: str) -> str:
    """Return the README with its table replaced; raise TableError where it has no place for one."""
    parts = readme.split(f"{MARK}\n")
    if len(parts) != 3:
        raise TableError(f"has no place for its table of variables: put two lines with {MARK} in")
    return f"{parts[0]}{MARK}\n{generated}\n{MARK}\n{parts[2]}"


def outdated(role: Path) -> tuple[Path, str] | None:
    """Return a role's README and what it should be, or None when it is current."""
    readme = role / "README.md"
    specs = yaml.safe_load((role / "meta/argument_specs.yml").read_text(encoding="utf-8"))
    found = readme.read_text(encoding="utf-8") if readme.exists() else ""
    wanted = with_table(found, table(specs))
    return None if found == wanted else (readme, wanted)


def main() -> int:
    """Check or write; the exit code is 1 when a table is not current."""
    parser = argparse.ArgumentParser(description=__doc__)
    action = parser.add_mutually_exclusive_group(required=True)
    action.add_argument("--check", action="store_true")
    action.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    bad = 0
    for role in sorted(path for path in ROLES.iterdir() if (path / "meta/argument_specs.yml").exists()):
        try:
            change = outdated(role)
        except TableError as error:
            print(f"roles/{role.name}/README.md {error}")
            bad += 1
            continue
        if change and write:
            change[0].write_text(change[1], encoding="utf-8")
            print(f"roles/{role.name}/README.md: written")
        elif change:
            print(f"roles/{role.name}/README.md is not current; run: python tests/lint/role_tables.py --write")
            bad += 1
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
