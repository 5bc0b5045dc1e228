"""The launcher's own refusals: one line, what and the cure, nothing started."""

from __future__ import annotations

import signal
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[3]


def launch(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([PROJECT / "onecopy", *arguments], capture_output=True, text=True, check=False, cwd="/")


@pytest.mark.parametrize("signal", [signal.SIGHUP, signal.SIGINT, signal.SIGTERM])
def test_what_is_promised_for_the_end_is_done_when_a_signal_brings_it(signal: int, tmp_path: Path) -> None:
    opening = (PROJECT / "onecopy").read_text().split("help()")[0]
    script = tmp_path / "onecopy"
    script.write_text(f"{opening}\ntrap 'echo box stopped' EXIT\necho ready\nsleep 0.5; sleep 0.5; sleep 60\n")
    with subprocess.Popen(["sh", script], stdout=subprocess.PIPE, text=True, start_new_session=True) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == "ready\n"
        shell.send_signal(signal)
        assert shell.stdout.read() == "box stopped\n"
    assert shell.returncode == 128 + signal


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
