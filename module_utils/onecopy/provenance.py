"""What a KVM host is and runs, for the manifest. What cannot be found out is absent."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import lab, paused_units, storage_ledger
from .paths import HostPaths
from .slices import machine_id


def host_facts(paths: HostPaths, dataset: str) -> dict[str, Any]:
    """Kernel, distribution, processor, memory, programs with versions, store, guest and data set; all that module lab_info tells; storage."""
    facts: dict[str, Any] = {"machine_id": machine_id(), "kernel": os.uname().release, "cpus": os.cpu_count()}
    facts["distribution"] = _field(Path("/etc/os-release"), "PRETTY_NAME=", "=").strip('"')
    facts["cpu_model"] = _field(Path("/proc/cpuinfo"), "model name", ":")
    facts["memory"] = _field(Path("/proc/meminfo"), "MemTotal", ":")
    facts["versions"] = {
        name: version
        for name, argv in (
            ("qemu", ["qemu-system-x86_64", "--version"]),
            ("virtiofsd", ["/usr/libexec/virtiofsd", "--version"]),
            ("python", ["/usr/bin/python3", "--version"]),
            ("systemd", ["systemctl", "--version"]),
        )
        if (version := _first_line(argv))
    }
    facts["store_mount"] = _mount_of(paths.store)
    for name, file in (
        ("capabilities", paths.capabilities),
        ("guest", paths.guest / "manifest.json"),
    ):
        facts[name] = _json(file)
    images = _json(paths.image_manifest(dataset)) or {}
    facts["images"] = {
        system: entry["sha256"] for system, entry in images.items() if isinstance(entry, dict) and "sha256" in entry
    }
    facts["cpus_allowed"] = _field(Path("/proc/1/status"), "Cpus_allowed_list", ":")
    facts["paused_units"] = paused_units.read_record(paths.state / "paused_units.json")
    facts["lab"] = lab.collect(paths.store)
    facts["storage"] = _storage(paths, dataset, [system for system in images if system in facts["images"]])
    return {name: value for name, value in facts.items() if value not in (None, "", {})}


def _storage(paths: HostPaths, dataset: str, systems: Sequence[str]) -> dict[str, Any] | None:
    """The storage ledger of everything that holds the data set's bytes, once: trials only read it."""
    images = {system: path for system in systems if (path := paths.image(dataset, system)).is_file()}
    try:
        return storage_ledger.snapshot(paths.store, {dataset: str(paths.share(dataset))}, images)
    except (OSError, storage_ledger.StorageError):
        return None


def _first_line(argv: list[str]) -> str | None:
    try:
        answer = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = answer.stdout.splitlines()
    return lines[0].strip() if answer.returncode == 0 and lines else None


def _field(path: Path, start: str, separator: str) -> str:
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    line = next((line for line in text.splitlines() if line.startswith(start)), "")
    return line.partition(separator)[2].strip()


def _mount_of(path: Path) -> str | None:
    """The mount point's line of /proc/self/mounts."""
    lines = Path("/proc/self/mounts").read_text(encoding="utf-8", errors="replace").splitlines()
    return next((line for line in reversed(lines) if line.split()[1] == str(path)), None)


def _json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
