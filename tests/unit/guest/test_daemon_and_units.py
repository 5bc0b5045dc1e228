"""Daemons by the options they have; systemd units that show the exact command line."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from ansible.module_utils.onecopy import daemon, units

PROJECT = Path(__file__).resolve().parents[3]
DATA = PROJECT / "tests/data"
HELP = (DATA / "environment/virtiofsd-help-1.13.2.txt").read_text()


def test_the_options_of_a_real_virtiofsd() -> None:
    options = daemon.parse_options(HELP)
    assert {
        "--socket-path",
        "--shared-dir",
        "--cache",
        "--sandbox",
        "--inode-file-handles",
        "--rlimit-nofile",
    } <= options
    assert "--help" in options
    assert "--never" not in options


def test_the_exact_command_of_virtiofsd() -> None:
    argv = daemon.virtiofsd_argv(Path("/v"), daemon.parse_options(HELP), Path("/share"), Path("/s"), "never")
    assert argv == [
        *("/v", "--socket-path", "/s", "--shared-dir", "/share", "--cache", "never", "--sandbox=namespace"),
        *("--inode-file-handles=never", "--thread-pool-size=0", "--rlimit-nofile=0", "--log-level=warn"),
    ]


def test_an_older_virtiofsd_gets_only_what_it_knows() -> None:
    options = {"--socket-path", "--shared-dir", "--cache", "--sandbox"}
    argv = daemon.virtiofsd_argv(Path("/v"), options, Path("/share"), Path("/s"), "auto")
    assert argv == ["/v", "--socket-path", "/s", "--shared-dir", "/share", "--cache", "auto", "--sandbox=namespace"]


def test_a_virtiofsd_without_cache_modes_is_refused() -> None:
    with pytest.raises(daemon.DaemonError, match="has no --cache"):
        daemon.virtiofsd_argv(Path("/v"), {"--socket-path", "--shared-dir"}, Path("/share"), Path("/s"), "auto")


def test_a_missing_virtiofsd_is_named_with_the_places() -> None:
    with pytest.raises(daemon.DaemonError, match=r"not installed.*/nowhere/virtiofsd"):
        daemon.find_virtiofsd(["/nowhere/virtiofsd"])


def test_the_exact_command_of_hostfsd() -> None:
    argv = daemon.hostfsd_argv(
        Path("/h.pyz"),
        Path("/share"),
        Path("/s"),
        Path("/t"),
        "onecopy",
        window_mib=512,
        inode_dax_kib=1024,
        cache="auto",
        queues=2,
    )
    assert argv == [
        *(
            "/usr/bin/python3",
            "/h.pyz",
            "--socket",
            "/s",
            "--shared-dir",
            "/share",
            "--tag",
            "onecopy",
            "--window",
            "512M",
        ),
        *("--inode-dax", "1024K", "--cache", "auto", "--queues", "2", "--stats-socket", "/t"),
    ]


def test_hostfsd_accepts_that_command(tmp_path: Path) -> None:
    argv = daemon.hostfsd_argv(
        Path("/h"), tmp_path, Path("/s"), Path("/t"), "tag", window_mib=512, inode_dax_kib=1024, cache="auto", queues=1
    )
    script = "import sys; from hostfsd.cli import parse; print(parse(sys.argv[1:]).window)"
    command = [sys.executable, "-c", script, *argv[2:]]
    done = subprocess.run(command, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.stdout == f"{512 << 20}\n", done.stderr


@pytest.mark.parametrize(
    "argument", ["plain", "with space", 'a "quote"', "100%", "$HOME", "back\\slash", "", "semi;colon", "it's"]
)
def test_every_argument_survives_systemd(argument: str) -> None:
    """Undone the way systemd.syntax(7) says: specifiers and variables first, then shell-like quotes."""
    undone = shlex.split(units.quote(argument).replace("%%", "%").replace("$$", "$"))
    assert undone == [argument]


def test_a_drop_in_replaces_the_command_and_reads_well() -> None:
    text = units.drop_in(["/bin/q", "-name", "x y", "-smp", "1"], ["ReadWritePaths=/r"], ["BindsTo=d.service"])
    assert text == (
        '[Unit]\nBindsTo=d.service\n\n[Service]\nExecStart=\nExecStart=/bin/q \\\n    -name "x y" \\\n    -smp 1\nReadWritePaths=/r\n'
    )


def test_the_state_of_units_is_read() -> None:
    dead = units.parse_state(
        "MainPID=0\nResult=signal\nExecMainExitTimestampMonotonic=77\nExecMainStatus=9\nActiveState=failed\n"
    )
    assert dead == units.State("failed", "signal", None, 9, 77)
    assert not dead.is_running
    alive = units.parse_state(
        "MainPID=12\nResult=success\nExecMainExitTimestampMonotonic=0\nExecMainStatus=0\nActiveState=active\n"
    )
    assert alive == units.State("active", "success", 12, 0, None)
    assert alive.is_running


def test_installed_drop_ins_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.service.d").mkdir()
    (tmp_path / "a.service.d/boot.conf").touch()
    (tmp_path / "b.service.d").mkdir()
    assert units.installed(["a.service", "b.service", "c.service"], tmp_path) == ["a.service"]


def test_the_process_that_serves_is_the_last_of_a_chain(tmp_path: Path) -> None:
    for pid, name, parent in ((10, "virtiofsd", 1), (11, "a) b (c", 10), (20, "qemu", 1), (21, "x", 20), (22, "y", 20)):
        (tmp_path / str(pid)).mkdir()
        (tmp_path / str(pid) / "stat").write_text(f"{pid} ({name}) S {parent} {pid} 0 0")
    assert units.last_child(10, tmp_path) == 11
    assert units.last_child(11, tmp_path) == 11
    assert units.last_child(20, tmp_path) == 20
