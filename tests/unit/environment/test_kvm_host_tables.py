"""Role kvm_host reads the right table for each distribution, and refuses the others: with the facts that Ansible gives there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

PROJECT = Path(__file__).resolve().parents[3]
ROLE = PROJECT / "roles/kvm_host"
FACTS = {
    "trixie": ("Debian", "13"),
    "noble": ("Ubuntu", "24"),
    "resolute": ("Ubuntu", "26"),
    "bookworm": ("Debian", "12"),
    "jammy": ("Ubuntu", "22"),
    "fedora": ("Fedora", "42"),
}
COMMON = ["virtiofsd", "mmdebstrap", "e2fsprogs", "busybox-static", "cpio", "zstd", "kmod"]
PLAY: list[dict[str, Any]] = [
    {
        "hosts": "all_kinds",
        "gather_facts": False,
        "tasks": [
            {
                "ansible.builtin.set_fact": {
                    "distribution": "{{ fixture[0] }}",
                    "distribution_major_version": "{{ fixture[1] }}",
                    "cacheable": True,
                }
            },
            {"ansible.builtin.include_role": {"name": "kvm_host", "tasks_from": "facts", "public": True}},
            {
                "ansible.builtin.copy": {
                    "dest": "{{ answers }}/{{ inventory_hostname }}.json",
                    "content": "{{ {'packages': __kvm_host_qemu_packages + __kvm_host_common_packages, 'suite': __kvm_host_suite, "
                    "'pinned': __kvm_host_suite_source_packages} | to_json }}",
                }
            },
        ],
    }
]


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> tuple[dict[str, Any], str]:
    """What the role read by host, and what was said about those that it refused."""
    directory = tmp_path_factory.mktemp("tables")
    hosts = {
        name: {"ansible_connection": "local", "ansible_python_interpreter": sys.executable, "fixture": list(fixture)}
        for name, fixture in FACTS.items()
    }
    (directory / "hosts.yml").write_text(yaml.safe_dump({"all_kinds": {"hosts": hosts}}))
    (directory / "play.yml").write_text(yaml.safe_dump(PLAY))
    environment = {**os.environ, "ANSIBLE_CONFIG": str(PROJECT / "ansible.cfg"), "NO_COLOR": "1"}
    argv = [
        "ansible-playbook",
        "-i",
        str(directory / "hosts.yml"),
        str(directory / "play.yml"),
        "-e",
        f"answers={directory}",
    ]
    done = subprocess.run(argv, cwd=PROJECT, capture_output=True, text=True, check=False, env=environment)
    found = {path.stem: json.loads(path.read_text()) for path in directory.glob("*.json")}
    return found, done.stderr


def test_debian_takes_qemu_from_backports_and_pins_what_belongs_to_it(answers: tuple[dict[str, Any], str]) -> None:
    assert answers[0]["trixie"]["suite"] == "trixie-backports"
    assert answers[0]["trixie"]["pinned"] == ["qemu", "seabios", "ipxe"]


@pytest.mark.parametrize("host", ["trixie", "noble", "resolute"])
def test_every_table_names_qemu_and_what_all_need(answers: tuple[dict[str, Any], str], host: str) -> None:
    packages = answers[0][host]["packages"]
    assert packages[:2] == ["qemu-system-x86", "qemu-utils"]
    assert set(COMMON) <= set(packages)
    assert len(set(packages)) == len(packages)


@pytest.mark.parametrize("host", ["noble", "resolute"])
def test_ubuntu_takes_no_suite_beside_its_own(answers: tuple[dict[str, Any], str], host: str) -> None:
    assert (answers[0][host]["suite"], answers[0][host]["pinned"]) == ("", [])


@pytest.mark.parametrize(
    ("host", "called"), [("bookworm", "Debian-12"), ("jammy", "Ubuntu-22"), ("fedora", "Fedora-42")]
)
def test_what_no_table_serves_is_one_line_with_the_cure(
    answers: tuple[dict[str, Any], str], host: str, called: str
) -> None:
    found, said = answers
    assert host not in found
    wanted = f"onecopy: {host}: {called} cannot be a KVM host of the kit; use one of Debian-13, Ubuntu-24, Ubuntu-26, or the box (inventories/box)"
    assert wanted in said.splitlines()


def test_what_ubuntu_runs_by_itself_is_paused() -> None:
    paused = yaml.safe_load((ROLE / "defaults/main.yml").read_text())["kvm_host_paused_units"]
    assert {
        *("apt-daily.timer", "apt-daily-upgrade.timer", "unattended-upgrades.service"),
        *("snapd.socket", "snapd.service", "plocate-updatedb.timer", "motd-news.timer", "fwupd-refresh.timer"),
    } <= set(paused)
