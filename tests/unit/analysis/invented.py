"""Invented runs.

Plausible numbers that nobody measured, for tests alone. Every one says so in its experiment, host and manifest.
"""

from __future__ import annotations

import json
import random
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import ansible.module_utils

PROJECT = Path(__file__).resolve().parents[3]
if __name__ == "__main__":
    # Under pytest tests/conftest.py does this.
    ansible.module_utils.__path__.append(str(PROJECT / "module_utils"))

from ansible.module_utils.onecopy.analysis import reporting
from ansible.module_utils.onecopy.plan import make_plan
from ansible.module_utils.onecopy.systems import SYSTEMS

RUN_ID = "20110401T000000Z-invented"
HOST = "invented-host"
PAGES = {"all": 8192, "large": 6144, "small": 2048}
LOGICAL = {
    "hfs": (1.0, 0.0),
    "gfs": (1.0, 1.0),
    "gfs_direct": (0.0, 1.0),
    "virtiofs_never": (1.0, 0.0),
    "gfs_pmem_dax": (1.0, 0.0),
    "gfs_pmem_erofs": (1.0, 0.0),
    "myfs": (1.0, 0.0),
}
SECONDS = {
    "hfs": 0.1,
    "gfs": 1.0,
    "gfs_direct": 1.3,
    "virtiofs_never": 2.4,
    "virtiofs_auto": 1.6,
    "virtiofs_always": 1.5,
    "gfs_pmem_dax": 0.7,
    "gfs_pmem_erofs": 0.8,
    "myfs": 0.6,
}
WEIGHTS = {
    "cat": 1.0,
    "find": 0.3,
    "grep": 1.4,
    "tar": 1.7,
    "sha256sum": 2.1,
    "wc": 0.8,
    "gzip": 5.5,
    "cp": 2.2,
    "du": 0.25,
    "diff": 2.4,
}

Change = Callable[[dict[str, Any]], None]


def experiment(**changes: Any) -> dict[str, Any]:
    document = {
        "name": "invented",
        "description": "Numbers that nobody measured",
        "seed": 2011,
        "repeats": 3,
        "guest": {"memory_mib": 384, "cpus": 1},
        "dataset": {
            "name": "invented",
            "large_mib": 24,
            "large_files": 3,
            "small_mib": 8,
            "small_files": 997,
            "seed": 1,
        },
        "systems": [
            "hfs",
            "gfs",
            {"system": "gfs", "label": "gfs_again"},
            "gfs_direct",
            "virtiofs_never",
            "virtiofs_auto",
            "virtiofs_always",
        ],
        "host_cache": ["cold", "warm"],
        "guest_cache": ["cold"],
        "residency": ["cat"],
        "timed": ["cat", "find", "grep"],
        "timeout_seconds": 120,
    }
    return document | changes


def capabilities(accelerator: str = "tcg", *, supported: bool = True) -> dict[str, Any]:
    names = sorted({need for system in SYSTEMS.values() for need in system.needs})
    return {"accelerator": accelerator} | {
        name: {"supported": supported or name == "qemu", "reason": "invented: not on this host"} for name in names
    }


def manifest(accelerator: str = "tcg", **changes: Any) -> dict[str, Any]:
    document = {
        "schema": 1,
        "run_id": RUN_ID,
        "experiment": "invented",
        "note": "an invented run for tests: nobody measured these numbers",
        "accelerator": accelerator,
        "seed": 2011,
        "controller": {"git_revision": "0" * 40, "git_dirty": False, "python": "3.11.2"},
        "hosts": {
            HOST: {
                "cpu_model": "Invented CPU at 1 GHz",
                "kernel": "6.12.0-invented",
                "versions": {
                    "qemu": "QEMU emulator version 11.1.3 (invented)",
                    "virtiofsd": "virtiofsd 1.13.2 (invented)",
                },
                "guest": {"root_sha256": "a" * 64, "kernel": "6.12.0-invented", "suite": "trixie"},
                "store_mount": "rw,noatime",
                "boots": [
                    {
                        "label": "gfs",
                        "system": "gfs",
                        "boot_id": "boot-0-gfs",
                        "command_lines": {
                            "qemu": ["qemu-system-x86_64", "-accel", accelerator, "-drive", "if=none,id=data"]
                        },
                    }
                ],
            }
        },
    }
    return document | changes


def records(
    plan: Mapping[str, Any], *, noise: float = 0.02, seed: int = 1, host: str = HOST, change: Change | None = None
) -> list[dict[str, Any]]:
    """One finished record per trial of the plan; ``change`` may alter each of them."""
    generator = random.Random(seed)
    luck: dict[str, float] = {}
    made = []
    for trial in plan["trials"]:
        boot = luck.setdefault(trial["block"], generator.gauss(0, noise))
        record = _record(plan, trial, host, boot, generator, noise=noise)
        if change:
            change(record)
        made.append(record)
    return made


def store(
    directory: Path, plan: Mapping[str, Any], made: list[dict[str, Any]], document: Mapping[str, Any] | None = None
) -> Path:
    """Write a run as the kit stores it."""
    directory.mkdir(parents=True, exist_ok=True)
    (directory / "plan.json").write_text(json.dumps(plan, indent=1, sort_keys=True))
    (directory / "manifest.json").write_text(
        json.dumps(document or manifest(plan["accelerator"]), indent=1, sort_keys=True)
    )
    (directory / "results.jsonl").write_text("".join(json.dumps(record, sort_keys=True) + "\n" for record in made))
    return directory


def plan(accelerator: str = "tcg", **changes: Any) -> dict[str, Any]:
    return make_plan(experiment(**changes), capabilities(accelerator))


def _record(
    plan: Mapping[str, Any], trial: Mapping[str, Any], host: str, boot: float, generator: random.Random, *, noise: float
) -> dict[str, Any]:
    seconds = (
        SECONDS[trial["system"]] * WEIGHTS.get(trial["workload"], 1.0) * (1 + boot + generator.gauss(0, noise / 3))
    )
    if trial["host_cache"] == "warm":
        seconds *= 0.7
    reached = {"pages": PAGES["all"], "resident_pages": PAGES["all"] if trial["host_cache"] == "warm" else 0}
    record = {
        "schema": 2,
        "run_id": RUN_ID,
        "experiment": plan["experiment"],
        "host": host,
        **trial,
        "accelerator": "none" if trial["system"] == "hfs" else plan["accelerator"],
        "started_at": "2011-04-01T00:00:00Z",
        "boot_id": f"boot-{trial['block']}",
        "status": "ok",
        "reached": {"tries": 1, "host": reached},
        "result": {
            "wall_seconds": round(seconds, 6),
            "exit_codes": [0],
            "wanted_bytes": PAGES["all"] * 4096,
            "read_bytes": PAGES["all"] * 4096,
        },
    }
    if trial["kind"] == "residency":
        on_host, in_guest = LOGICAL.get(trial["system"], (1.0, 1.0))
        record["copies"] = {
            part: {
                "accessed_pages": pages,
                "host_pages": int(pages * on_host),
                "guest_pages": int(pages * in_guest),
                "daemon_pages": 0,
            }
            for part, pages in PAGES.items()
        }
        if trial["host_cache"] == "cold":
            record["copies"]["all"]["physical_pages"] = int(PAGES["all"] * (on_host + in_guest)) + 3
        record |= {"extra_pages": generator.randint(0, 3), "overhead_pages": 900 if trial["system"] == "gfs" else 10}
        record["ledger"] = _ledger(trial, PAGES["all"] * 4096, on_host, in_guest)
    elif trial["system"] != "hfs":
        block = SYSTEMS[trial["system"]].path == "block"
        record["io_path"] = {
            "guest": {"read_requests": 512 if block else 20, "read_bytes": (PAGES["all"] if block else 200) * 4096},
            "qemu_block": {
                "read_requests": 500 if block else 18,
                "read_bytes": (PAGES["all"] if block else 200) * 4096,
            },
            "qemu": {"cpu_seconds": round(seconds / 2, 6)},
            "host": {"cpu_seconds": round(seconds, 6), "steal_seconds": 0.01},
        }
    return record


def _ledger(trial: Mapping[str, Any], data: int, on_host: float, in_guest: float) -> dict[str, Any]:
    """Memory of a machine of 4 GiB, of which the host itself uses 256 MiB and a QEMU 64 MiB."""
    mib = 1 << 20
    is_cold, has_guest = trial["host_cache"] == "cold", trial["system"] != "hfs"
    cache = int(data * on_host)
    grown = int(data * in_guest) if has_guest else 0
    change = {
        "cache_bytes": cache if is_cold else 0,
        "kernel_bytes": mib // 4,
        "guest_memory_bytes": grown,
        "qemu_bytes": 4096 if has_guest else 0,
        "daemon_bytes": 0,
        "merged_bytes": 0,
        "others_bytes": 8192,
        "outside_bytes": 3 * mib,
        "remainder_bytes": mib // 2,
    }

    def table(share: int) -> dict[str, Any]:
        guests = [{"used_bytes": 64 * mib, "cache_bytes": grown * share, "free_bytes": 0}] if has_guest else []
        qemu = [{"used_bytes": 64 * mib}] if has_guest else []
        host = {"used_bytes": 256 * mib, "cache_bytes": cache * (share if is_cold else 1)}
        others = sum(sum(party.values()) for party in (*guests, *qemu, host))
        return {
            "total_bytes": 4096 * mib,
            "merged_bytes": 0,
            "guests": guests,
            "qemu": qemu,
            "daemons": [],
            "host": host | {"free_bytes": 4096 * mib - others},
        }

    return {
        "before": table(0),
        "after": table(1),
        "change": {"used_and_cache_bytes": sum(change.values()), **change},
        "is_closed": True,
    }


def golden_run() -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """Plan and records of tests/golden/invented.

    Two boots of everything, one system unsupported, three trials gone wrong, one whose memory does not add up.
    """
    systems = [*experiment()["systems"], "myfs"]
    able = capabilities() | {"vhost_user_shmem": {"supported": False, "reason": "invented: this QEMU cannot"}}
    made = make_plan(experiment(systems=systems, timed=["cat", "find"], repeats=2), able)

    def go_wrong(record: dict[str, Any]) -> None:
        status, reason, message = {
            3: ("failed", "daemon_died", "invented: virtiofsd ended by signal 9"),
            17: ("invalid", "state_missed", "invented: host 8190 of 8192 pages"),
            29: ("timeout", "workload_timeout", "invented: find was ended after 120 s"),
        }.get(record["order"], ("ok", "", ""))
        if status != "ok":
            record |= {"status": status, "reason": reason, "message": message}
            for key in ("result", "copies", "io_path", "ledger", "extra_pages", "overhead_pages"):
                record.pop(key, None)
        if "ledger" in record and (record["label"], record["repeat"], record["host_cache"]) == (
            "gfs_direct",
            1,
            "cold",
        ):
            for name in ("used_and_cache_bytes", "remainder_bytes"):
                record["ledger"]["change"][name] -= 64 << 20
            record["ledger"]["is_closed"] = False

    return made, records(made, change=go_wrong)


def main(directory: Path) -> None:
    made, found = golden_run()
    store(directory, made, found)
    claims = PROJECT / "experiments" / "claims.yml"
    report = reporting.make(directory, claims, PROJECT / "roles" / "report" / "templates")
    for name in ("summary.json", "report.md"):
        (directory / name).write_text(report.files[name])


if __name__ == "__main__":
    main(Path(sys.argv[1]))
