"""What a host can measure, and why not the rest: read from its capabilities and its kernel, changing nothing."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from . import apt_sources, cachestat
from .systems import SYSTEMS

SUPPORTED = {("debian", "13"), ("ubuntu", "24.04"), ("ubuntu", "26.04")}
NEEDED_MIB = 6144
NEEDED_DISK_MIB = 8192


@dataclass(frozen=True, slots=True)
class Host:
    """What was read of a host; a setting that the host does not have is absent."""

    release: Mapping[str, str]
    kernel: str
    residency_by: str
    memory_mib: int
    disk_mib: int
    swap_mib: int
    settings: Mapping[str, str] = field(default_factory=dict)


# Setting → (file below /sys, value that does not disturb, what to do otherwise).
SETTINGS: Mapping[str, tuple[str, tuple[str, ...], str]] = {
    "KSM": ("kernel/mm/ksm/run", ("0",), "a run sets it to 0 and back; on Ubuntu QEMU's package switches it on"),
    "frequency governor": (
        "devices/system/cpu/cpu0/cpufreq/scaling_governor",
        ("performance",),
        "times vary with it: cpupower frequency-set -g performance",
    ),
    "turbo": ("devices/system/cpu/intel_pstate/no_turbo", ("1",), "times vary with it: write 1 for timed claims"),
    "SMT": (
        "devices/system/cpu/smt/control",
        ("off", "notsupported", "notimplemented"),
        "guests share cores: pin vCPUs",
    ),
}


def read(root: Path = Path("/"), state: Path = Path("/var/lib")) -> Host:
    """Read this host; ``root`` is where /etc, /proc and /sys lie."""
    memory = {
        line.split(":")[0]: int(line.split()[1]) // 1024
        for line in (root / "proc/meminfo").read_text(encoding="ascii").splitlines()
        if line.endswith("kB")
    }
    settings = {}
    for name, (path, _, _) in SETTINGS.items():
        if (root / "sys" / path).exists():
            settings[name] = (root / "sys" / path).read_text(encoding="ascii").strip()
    return Host(
        release=apt_sources.os_release((root / "etc/os-release").read_text(encoding="utf-8")),
        kernel=(root / "proc/sys/kernel/osrelease").read_text(encoding="ascii").strip(),
        residency_by=cachestat.method(),
        memory_mib=memory["MemAvailable"],
        disk_mib=shutil.disk_usage(state).free >> 20,
        swap_mib=memory["SwapTotal"],
        settings=settings,
    )


def lines(host: Host, capabilities: Mapping[str, Any]) -> list[str]:
    """Return the findings, one line each: what works, what does not and why, what disturbs and what to do."""
    found = [f"accelerator {capabilities['accelerator']}: {capabilities['accelerator_reason']}"]
    if capabilities["accelerator"] == "tcg":
        found.append("times are not claims here: guests are emulated; copies, memory and request counts are claims")
    for system in SYSTEMS.values():
        # What the guests' kernel can do is not the host's to say.
        needs = [need for need in system.needs if not need.startswith("guest_")]
        found.append(f"{system.name}: {_answer([capabilities[need] for need in needs])}")
    found.append(f"the store's device slowed down: {_answer([capabilities['device_limit']])}")
    distribution = (host.release.get("ID", "?"), host.release.get("VERSION_ID", "?"))
    if distribution not in SUPPORTED:
        found.append(
            f"{' '.join(distribution)}: no table of packages; use Debian 13, Ubuntu 24.04 or 26.04, or the box"
        )
    if host.residency_by != "cachestat":
        found.append(f"kernel {host.kernel} has no cachestat: mincore answers, some 15 times slower (6.5 has it)")
    if host.memory_mib < NEEDED_MIB:
        found.append(
            f"{host.memory_mib} MiB of memory available: {NEEDED_MIB} MiB are needed for guests, images and cache"
        )
    if host.disk_mib < NEEDED_DISK_MIB:
        found.append(f"{host.disk_mib} MiB free on disk: {NEEDED_DISK_MIB} MiB are needed for store and images")
    if host.swap_mib:
        found.append(f"{host.swap_mib} MiB of swap: pages may leave memory unseen; swapoff -a for a measurement")
    for name, value in host.settings.items():
        _, quiet, cure = SETTINGS[name]
        if value not in quiet:
            found.append(f"{name} is {value}: {cure}")
    return found


def _answer(needs: Sequence[Mapping[str, Any]]) -> str:
    """Yes where every need is there; otherwise why not, or that it was not tried."""
    unsupported = [capability for capability in needs if not capability["supported"]]
    surely = [capability for capability in unsupported if capability.get("tried", True)]
    reasons = "; ".join(dict.fromkeys(capability["reason"] for capability in surely or unsupported))
    return f"no: {reasons}" if surely else reasons or "yes"


def look(capabilities: Mapping[str, Any]) -> list[str]:
    """Read this host and return the findings."""
    return lines(read(), capabilities)
