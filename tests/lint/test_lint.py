"""The linters, each as one test; what they check is set in pyproject.toml, .ansible-lint and .yamllint."""

from __future__ import annotations

import collections
import itertools
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import role_tables
import yaml

PROJECT = Path(__file__).resolve().parents[2]
ROLES = sorted(path for path in (PROJECT / "roles").iterdir() if (path / "tasks").is_dir())


def run(*argv: str) -> None:
    """Run a linter in the project; its output is the failure."""
    # ansible-lint has no option for it: the scenarios' playbooks name hosts of the scenarios' inventory.
    environment = {**os.environ, "NO_COLOR": "1", "ANSIBLE_INVENTORY": "molecule/shared/inventory/two.yml"}
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, f"{' '.join(argv)}\n{done.stdout[-6000:]}\n{done.stderr[-3000:]}"


@pytest.mark.parametrize(
    "argv",
    [
        ("ruff", "check", "."),
        ("ruff", "format", "--check", "."),
        ("mypy",),
        ("yamllint", "--strict", "."),
        ("ansible-lint",),
        ("dash", "-n", "onecopy"),
        ("dash", "-n", ".ci/run"),
        (sys.executable, "tests/lint/role_tables.py", "--check"),
        (sys.executable, "-m", "compileall", "-q", "callback_plugins", "action_plugins", "library"),
    ],
    ids=lambda argv: " ".join(Path(word).name for word in argv),
)
def test_linter(argv: tuple[str, ...]) -> None:
    run(*argv)


def _load(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8")) or {}


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_input_of_a_role_is_declared_and_named_after_it(role: Path) -> None:
    options = _load(role / "meta/argument_specs.yml")["argument_specs"]["main"]["options"]
    optional = {name for name, option in options.items() if not option.get("required")}
    defaults = _load(role / "defaults/main.yml")
    assert set(defaults) == optional
    assert all(name.startswith(f"{role.name}_") for name in options)
    assert role.name in (PROJECT / "roles" / role.name / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("role", ROLES, ids=lambda role: role.name)
def test_every_default_has_a_comment(role: Path) -> None:
    lines = (role / "defaults/main.yml").read_text(encoding="utf-8").splitlines()
    for before, line in itertools.pairwise(lines):
        if line[:1].isalpha():
            assert before.startswith("#"), f"roles/{role.name}/defaults/main.yml: {line.split(':')[0]} has no comment"


def tracked(*patterns: str) -> list[Path]:
    """Return the files that belong to the project: tracked, or new and not ignored."""
    argv = ["git", "ls-files", "--cached", "--others", "--exclude-standard", "--", *patterns]
    listed = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=True).stdout.splitlines()
    return [PROJECT / name for name in listed if (PROJECT / name).is_file()]


def test_no_file_is_too_long() -> None:
    long = [
        (str(path.relative_to(PROJECT)), count)
        for path in tracked("*.py", "*.yml", "*.j2")
        if (count := len(path.read_text().splitlines())) > 400
    ]
    assert not long


@pytest.mark.parametrize(
    ("word", "why"),
    [
        ("ignore" + "_errors:", "failure must not be reported as success"),
        ("failed_when: " + "false", "failure must not be reported as success"),
        ("pk" + "ill -f", "processes are ended by pid"),
        ("kill" + "all", "processes are ended by pid"),
        ("hosts: " + "all", "plays name their group"),
        ("deb." + "debian.org", "mirrors come from the machine's own configuration"),
        ("pypi" + ".org", "registries come from the machine's own configuration"),
        ("python" + "hosted", "registries come from the machine's own configuration"),
    ],
)
def test_what_is_never_written(word: str, why: str) -> None:
    found = [
        f"{path.relative_to(PROJECT)}:{number}"
        for path in tracked("*.py", "*.yml", "*.yaml", "*.sh", "*.j2", "*.txt", "*.in", "*.toml", "onecopy", ".ci/run")
        for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").splitlines(), 1)
        if word in line
    ]
    assert not found, f"{word}: {why}"


def test_no_two_test_files_have_one_name() -> None:
    """The full test collects all of them at once, and pytest then stops at the second one."""
    ours = [path for path in tracked("test_*.py") if "molecule" not in path.parts]
    assert not [name for name, times in collections.Counter(path.name for path in ours).items() if times > 1]


def test_a_role_without_a_place_for_its_table_is_told() -> None:
    with pytest.raises(role_tables.TableError):
        role_tables.with_table("# role\n", "table")
    assert role_tables.with_table(f"a\n{role_tables.MARK}\nold\n{role_tables.MARK}\nb\n", "new") == (
        f"a\n{role_tables.MARK}\nnew\n{role_tables.MARK}\nb\n"
    )
