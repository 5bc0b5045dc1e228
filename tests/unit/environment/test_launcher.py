"""The launcher's own refusals: one line, what and the cure, nothing started."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import shutil
import signal
import subprocess
import time
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
    # Whoever runs the tests in the background may have had signals ignored, and a shell cannot trap what it was started ignoring.
    argv = ["env", "--default-signal=HUP,INT,TERM", "sh", str(script)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, start_new_session=True) as shell:
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
        (("faults", "many"), "'many' is no number above 0"),
        (("faults", "0"), "'0' is no number above 0"),
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


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout whose environment is ready and whose ansible-playbook tells which of the launcher's descriptors it got; the caller is root."""
    shutil.copy(PROJECT / "onecopy", tmp_path)
    for name in ("requirements", "inventories", "experiments"):
        (tmp_path / name).symlink_to(PROJECT / name)
    programs = tmp_path / ".onecopy/venv/bin"
    programs.mkdir(parents=True)
    for name, script in (
        ("id", "echo 0"),
        ("ansible-playbook", f'ls /proc/$$/fd >{tmp_path}/descriptors; echo "played $*" | tee -a {tmp_path}/played'),
    ):
        (programs / name).write_text(f"#!/bin/sh\n{script}\n")
        (programs / name).chmod(0o755)
    stamp = "(cat requirements/run.txt requirements/run.txt; python3 -V) | cksum"
    stamp = subprocess.run(stamp, shell=True, cwd=tmp_path, capture_output=True, text=True, check=True).stdout
    (programs.parent / "stamps").write_text(stamp)
    return tmp_path


def launch_in(checkout: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    path = f"{checkout / '.onecopy/venv/bin'}:{os.environ['PATH']}"
    argv = [checkout / "onecopy", *arguments]
    return subprocess.run(argv, capture_output=True, text=True, check=False, env={**os.environ, "PATH": path})


@pytest.mark.parametrize(
    ("user", "says"),
    [
        ("1000", "'bench' needs root: run it as root or install sudo"),
        ("0", "missing: mmdebstrap systemd-container"),
    ],
)
def test_no_root_and_no_packages_are_one_line(checkout: Path, tmp_path: Path, user: str, says: str) -> None:
    """On a machine that has neither sudo nor apt-get nor the tools of the box."""
    programs = tmp_path / "programs"
    programs.mkdir()
    for name in ("sh", "cat", "dirname", "readlink", "grep", "cksum", "mkdir", "flock", "python3"):
        (programs / name).symlink_to(str(shutil.which(name)))
    (programs / "id").write_text(f"#!/bin/sh\necho {user}\n")
    (programs / "id").chmod(0o755)
    shutil.move(checkout / ".onecopy/venv/bin/id", tmp_path / "id")
    argv = [checkout / "onecopy", "bench"]
    done = subprocess.run(argv, capture_output=True, text=True, check=False, env={"PATH": str(programs)})
    assert done.returncode == 1
    assert done.stderr.startswith(f"onecopy: {says}")
    assert done.stderr.count("\n") == 1
    assert not (checkout / "descriptors").exists()


@pytest.mark.parametrize("arguments", [("demo",), ("run", "smoke"), ("shell", "gfs"), ("bench",), ("teardown",)])
def test_a_second_controller_in_one_checkout_is_refused(checkout: Path, arguments: tuple[str, ...]) -> None:
    with (checkout / ".onecopy/lock").open("w") as held:
        held.write("./onecopy run, pid 7\n")
        held.flush()
        fcntl.flock(held, fcntl.LOCK_EX)
        done = launch_in(checkout, *arguments)
    assert done.returncode == 1
    assert done.stderr == (
        "onecopy: another controller (./onecopy run, pid 7) works in this checkout: wait for its end, or end it\n"
    )
    assert not (checkout / "descriptors").exists()


def test_teardown_removes_its_state_and_a_second_one_finds_nothing(checkout: Path) -> None:
    done = launch_in(checkout, "teardown")
    assert (done.returncode, done.stderr) == (0, "")
    assert "played -i inventories/box playbooks/box.yml -e box_state=absent -e box_purge_enabled=true" in done.stdout
    # The lock must not live on in what a killed launcher leaves behind.
    assert "9" not in (checkout / "descriptors").read_text().split()
    assert not (checkout / ".onecopy").exists()
    again = launch_in(checkout, "teardown")
    assert (again.returncode, again.stdout) == (0, "onecopy: nothing to remove\n")


@pytest.mark.parametrize(
    ("arguments", "inventory"), [((), "inventories/this"), (("-i", "inventories/lab"), "inventories/lab")]
)
def test_an_audit_looks_at_this_machine_unless_told_otherwise(
    checkout: Path, arguments: tuple[str, ...], inventory: str
) -> None:
    done = launch_in(checkout, "audit", *arguments)
    assert (done.returncode, done.stderr) == (0, "")
    assert f"played -i {inventory} playbooks/audit.yml" in done.stdout


# Sets and reads the terminal as ssh does, which only programs in its foreground may, and outlives it.
CONSOLE = """#!/bin/sh
stty -echo
echo $$ >console
ls /proc/$$/fd >console-descriptors
echo ready
read -r typed
echo "typed: $typed"
[ "$typed" != leave ] || exit 3
exec sleep 60
"""


def wait_for(words: str, terminal: int) -> None:
    seen, deadline = "", time.monotonic() + 30
    while words not in seen:
        assert select.select([terminal], [], [], max(0, deadline - time.monotonic()))[0], seen
        seen += os.read(terminal, 65536).decode()


@pytest.mark.parametrize(("ending", "status"), [("leave", 3), ("hang up", 129), ("end", 143)])
def test_a_shell_has_the_terminal_and_its_guest_ends_with_it(checkout: Path, ending: str, status: int) -> None:
    programs = checkout / ".onecopy/venv/bin"
    (checkout / ".onecopy/shell").write_text(CONSOLE)
    # On a machine without the box's tools, which nothing here uses, they are "installed".
    (programs / "apt-get").write_text("#!/bin/sh\n")
    for script in (checkout / ".onecopy/shell", programs / "apt-get"):
        script.chmod(0o755)
    terminal, end = pty.openpty()
    argv = ["setsid", "--ctty", "env", "--default-signal=HUP,INT,TERM", checkout / "onecopy", "shell", "gfs"]
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}"}
    launcher = subprocess.Popen(argv, stdin=end, stdout=end, stderr=end, env=environment)
    os.close(end)
    wait_for("ready", terminal)
    os.write(terminal, f"{ending}\n".encode())
    wait_for(f"typed: {ending}", terminal)
    if ending == "end":
        launcher.terminate()
    if ending == "hang up":
        os.close(terminal)
    assert launcher.wait(10) == status
    if ending != "hang up":
        wait_for("the box is stopped", terminal)
        os.close(terminal)
    assert not Path("/proc", (checkout / "console").read_text().strip()).exists()
    assert not {"3", "9"} & set((checkout / "console-descriptors").read_text().split())
    assert (checkout / "played").read_text().splitlines()[-2:] == [
        "played -i inventories/box playbooks/shell.yml -e shell_state=stopped",
        "played -i inventories/box playbooks/box.yml -e box_state=stopped",
    ]
