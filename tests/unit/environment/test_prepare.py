"""What prepare.yml refuses before it changes anything: a wrong experiment, hosts that are one machine, a machine at work."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.module_utils.onecopy import lock

PROJECT = Path(__file__).resolve().parents[3]
HOLDER = {"run_id": "R1", "experiment": "paper", "host": "box1", "since": "2026-01-01T00:00:00+00:00", "pid": 7}


def test_nobody_measures_on_a_machine_without_a_lock(run_module: Any, tmp_path: Path) -> None:
    result = run_module("machine_use_info", directory=str(tmp_path / "none"))
    boot_id = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    assert {key: result[key] for key in ("changed", "boot_id", "holder", "description")} == {
        "changed": False,
        "boot_id": boot_id,
        "holder": {},
        "description": "",
    }


def test_who_measures_is_told(run_module: Any, tmp_path: Path) -> None:
    fd = lock.acquire(tmp_path / "lock", HOLDER)
    try:
        result = run_module("machine_use_info", directory=str(tmp_path))
    finally:
        os.close(fd)
    assert result["holder"] == HOLDER
    assert result["description"] == lock.describe(HOLDER)


def play(inventory: Path, playbook: Path | str, **variables: object) -> subprocess.CompletedProcess[str]:
    extra = [word for name, value in variables.items() for word in ("-e", f"{name}={value}")]
    argv = ["ansible-playbook", "-i", str(inventory), str(playbook), *extra]
    environment = {**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "NO_COLOR": "1"}
    return subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=False, env=environment)


def write_inventory(tmp_path: Path, *hosts: str) -> Path:
    (tmp_path / "hosts.ini").write_text("\n".join(["[kvm_hosts]", *hosts, ""]))
    return tmp_path / "hosts.ini"


def here(name: str) -> str:
    """A host that is this machine."""
    return f"{name} ansible_connection=local ansible_python_interpreter={sys.executable}"


@pytest.mark.parametrize(
    ("hosts", "experiment", "says"),
    [
        (
            ["kvm1", "kvm2"],
            "experiments/smoke.yml",
            "onecopy: kvm1: kvm1 and kvm2: some of them are one machine (equal boot ids), where a second guest disturbs the first; "
            "keep one of these hosts in the inventory, or name one with --limit",
        ),
        (["kvm1"], "typo.yml", "typo.yml: unknown key 'repeets': did you mean 'repeats'?"),
    ],
)
def test_it_stops_before_the_first_change(tmp_path: Path, hosts: list[str], experiment: str, says: str) -> None:
    (tmp_path / "typo.yml").write_text((PROJECT / "experiments/smoke.yml").read_text() + "repeets: 3\n")
    file = tmp_path / experiment if experiment == "typo.yml" else PROJECT / experiment
    inventory = write_inventory(tmp_path, *map(here, hosts))
    done = play(inventory, "playbooks/prepare.yml", experiment_file=file, ansible_become=False)
    assert done.returncode != 0
    # The reason is the last line of all, by itself: nobody has to look for it among Ansible's.
    assert says in done.stderr.splitlines()[-1], done.stdout + done.stderr
    assert "TASK [Make the KVM host]" not in done.stdout
    assert "changed=0" in done.stdout


def test_a_host_that_cannot_be_reached_is_named_with_the_cure(tmp_path: Path) -> None:
    inventory = write_inventory(tmp_path, "kvm1 ansible_host=127.0.0.1 ansible_port=9 ansible_user=root")
    done = play(inventory, "playbooks/prepare.yml", experiment_file=PROJECT / "experiments/smoke.yml")
    assert done.returncode != 0
    last = done.stderr.splitlines()[-1]
    assert last.startswith("onecopy: kvm1: cannot be reached: ")
    assert "Connection refused" in last
    assert last.endswith(
        "look whether address, port, user and key in the inventory are right, and whether the host is up"
    )


def test_a_command_that_failed_is_named_with_its_last_word(tmp_path: Path) -> None:
    tasks = "[{ansible.builtin.command: {argv: [sh, -c, 'echo waiting; echo status: error >&2; exit 3']}}]"
    (tmp_path / "play.yml").write_text(f"- {{hosts: kvm_hosts, gather_facts: false, tasks: {tasks}}}\n")
    done = play(write_inventory(tmp_path, here("kvm1")), tmp_path / "play.yml")
    assert done.returncode != 0
    expected = "onecopy: kvm1: sh -c 'echo waiting; echo status: error >&2; exit 3': rc 3: status: error"
    assert done.stderr.splitlines()[-1] == expected
