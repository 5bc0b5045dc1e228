"""The launcher's own refusals: one line, what and the cure, nothing started."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROJECT / "onecopy", *arguments], capture_output=True, text=True, check=False, cwd="/")


@pytest.mark.parametrize("arguments", [(), ("help",), ("--help",)])
def test_help(arguments: tuple[str, ...]) -> None:
    done = launch(*arguments)
    assert done.returncode == 0
    assert "./onecopy demo" in done.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("dmeo",), "no verb 'dmeo'; see ./onecopy help"),
        (("run",), "run what? there are:"),
        (("run", "-i", "inventories/none", "smoke"), "no inventory 'inventories/none'"),
        (("run", "smoke", "-i", "inventories/none"), "no inventory 'inventories/none'"),
        (("run", "smoke", "-i"), "-i needs an inventory"),
        (("run", "no_such_experiment"), "no experiment 'no_such_experiment'"),
        (("report", "reports/example", "--against"), "--against needs a second run"),
        (("run", "none/such.yml"), "no experiment 'none/such.yml'"),
        (("compare",), "--data is missing: ./onecopy compare --data DIR"),
        (("compare", "--data"), "--data needs a value"),
        (("compare", "--data", "/tmp"), "the command is missing, after --"),
        (("compare", "--data", "/tmp", "--"), "the command is missing, after --"),
        (("compare", "--data", "/tmp", "cat"), "compare does not know 'cat'"),
        (("compare", "-i", "none", "--data", "/tmp", "--", "cat", "-i", "x"), "no inventory 'none'"),
    ],
)
def test_refusals_are_one_line(arguments: tuple[str, ...], says: str) -> None:
    done = launch(*arguments)
    assert done.returncode != 0
    assert says in done.stderr
    assert done.stderr.startswith("onecopy: ")
    assert done.stderr.count("\n") == 1
