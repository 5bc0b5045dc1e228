"""Several hosts run one plan: made from what all of them can do, it is found again by each of them."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.module_utils.onecopy import plan, run_directory, several_hosts
from ansible.module_utils.onecopy.systems import SYSTEMS
from test_prepare import here, play, write_inventory

PROJECT = Path(__file__).resolve().parents[3]
EXPERIMENT = yaml.safe_load((PROJECT / "experiments/density.yml").read_text())
NEEDS = sorted({need for system in SYSTEMS.values() for need in system.needs})
NO_SHMEM = "QEMU 8.2 does not know vhost-user shared memory"


def able(memory_mib: int = 32000, accelerator: str = "tcg", **missing: str) -> dict[str, Any]:
    """Capabilities of a host; ``missing``: why by need."""
    needs = {need: {"supported": need not in missing, "reason": missing.get(need, "")} for need in NEEDS}
    return {"accelerator": accelerator, "accelerator_reason": "for tests", "memory_mib": memory_mib, **needs}


# Debian 13 with much memory, and Ubuntu 24.04, whose QEMU is too old for myfs, with less.
TWO = {"kvm1": able(), "kvm2": able(memory_mib=3000, vhost_user_shmem=NO_SHMEM)}


def test_one_host_alone_keeps_what_it_said() -> None:
    assert several_hosts.common({"kvm2": TWO["kvm2"]}) == TWO["kvm2"]


def test_what_one_host_cannot_run_is_unsupported_with_its_name_and_the_least_memory_counts() -> None:
    made = plan.make_plan(EXPERIMENT, several_hosts.common(TWO))
    reasons = {item["label"]: item["reason"] for item in made["unsupported"]}
    assert reasons == dict.fromkeys(("myfs", "myfs_every_file"), f"vhost_user_shmem: kvm2: {NO_SHMEM}")
    assert {trial["guests"] for trial in made["trials"]} == {1, 2, 4}
    assert {item["reason"] for item in made["excluded"] if item.get("guests") == 8} == {
        "8 guests may need 3072 MiB, and kvm2 has 3000 MiB: fewer guests, or smaller ones"
    }


def test_what_a_probe_says_nothing_about_is_not_supported() -> None:
    silent = {key: value for key, value in TWO["kvm1"].items() if key != "virtiofsd"}
    found = several_hosts.common({"kvm1": TWO["kvm1"], "kvm2": silent})
    assert found["virtiofsd"] == {"supported": False, "reason": "kvm2: the host's probe says nothing about it"}


def test_the_order_of_hosts_does_not_matter_and_they_find_one_run(tmp_path: Path) -> None:
    found = []
    for hosts in (TWO, dict(reversed(TWO.items()))):
        made = plan.make_plan(EXPERIMENT, several_hosts.common(hosts))
        found.append(
            run_directory.find_or_start(tmp_path, made, list(hosts), PROJECT, now=datetime(2026, 1, 2, tzinfo=UTC))
        )
    (first, was_there), (second, was_there_then) = found
    assert (first, was_there, was_there_then) == (second, False, True)
    assert [path.name for path in (tmp_path / "density").iterdir()] == [first.run_id]
    for host in TWO:
        assert not first.is_finished()
        first.update_host(host, lambda entry: entry.update(finished_at="now"))
    assert first.is_finished()


def test_emulated_guests_beside_others_are_refused_in_one_line() -> None:
    with pytest.raises(several_hosts.MixedHostsError, match=r"\A[^\n]*kvm on kvm1, kvm3; tcg on kvm2[^\n]*--limit\Z"):
        several_hosts.common({"kvm1": able(accelerator="kvm"), "kvm2": able(), "kvm3": able(accelerator="kvm")})


def planned(tmp_path: Path, hosts: dict[str, dict[str, Any]]) -> tuple[str, dict[str, Any]]:
    """What the role's own tasks say and plan for hosts that are this machine, each with a state directory of its own."""
    lines = []
    for name, capabilities in hosts.items():
        state = tmp_path / name
        (state / "guest").mkdir(parents=True)
        guest = {need: capabilities.pop(need) for need in NEEDS if need.startswith("guest_")}
        (state / "capabilities.json").write_text(json.dumps(capabilities))
        (state / "guest/manifest.json").write_text(json.dumps({"capabilities": guest}))
        lines.append(f"{here(name)} experiment_state_directory={state}")
    keep = {
        "content": "{{ __experiment_plan.plan | to_json }}",
        "dest": f"{tmp_path}/{{{{ inventory_hostname }}}}.json",
    }
    tasks = [
        {"ansible.builtin.include_role": {"name": "experiment", "tasks_from": "plan"}},
        {"ansible.builtin.copy": keep},
    ]
    playbook = tmp_path / "play.yml"
    playbook.write_text(json.dumps([{"hosts": "kvm_hosts", "gather_facts": False, "tasks": tasks}]))
    done = play(write_inventory(tmp_path, *lines), playbook, experiment_file=PROJECT / "experiments/density.yml")
    plans = {name: json.loads((tmp_path / f"{name}.json").read_text()) for name in hosts if not done.returncode}
    return done.stdout + done.stderr, plans


def test_the_role_plans_once_for_all_hosts_of_the_play(tmp_path: Path) -> None:
    hosts = {"kvm1": able(), "kvm2": able(memory_mib=3000, vhost_user_shmem=NO_SHMEM)}
    said, plans = planned(tmp_path, hosts)
    assert plans, said
    assert plans["kvm1"] == plans["kvm2"] == plan.make_plan(EXPERIMENT, several_hosts.common(TWO))


def test_the_role_refuses_mixed_accelerators(tmp_path: Path) -> None:
    said, plans = planned(tmp_path, {"kvm1": able(accelerator="kvm"), "kvm2": able()})
    assert not plans
    assert "these hosts cannot run one plan: kvm on kvm1; tcg on kvm2" in said.splitlines()[-1]
