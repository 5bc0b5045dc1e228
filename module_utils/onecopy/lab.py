"""Provenance of a host: everything that may confound a measurement and is not fixed by the kit. What cannot be found out is absent.

Reads files below a root and asks the package manager; changes nothing.
"""

from __future__ import annotations

import gzip
import hashlib
import os
import subprocess
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, Final

from . import host_settings

PACKAGES: Final = ("qemu-system-x86", "virtiofsd", "e2fsprogs", "mmdebstrap", "systemd", "python3", "util-linux")
PROGRAMS: Final = (
    ("qemu-system-x86_64", "--version"),
    ("/usr/libexec/virtiofsd", "--version"),
    ("systemctl", "--version"),
)
# Why a copy may cost what it costs, and whether this is a guest itself.
_CPU_FLAGS: Final = ("hypervisor", "erms", "fsrm", "constant_tsc", "nonstop_tsc", "ept", "npt", "pdpe1gb", "vmx", "svm")
# Not the whole command line: it may hold addresses and keys, and a report is shown to others.
_BOOT_OPTIONS: Final = (
    *("mitigations", "transparent_hugepage", "hugepages", "hugepagesz", "default_hugepagesz", "isolcpus", "nohz_full"),
    *("idle", "intel_pstate", "amd_pstate", "processor.max_cstate", "intel_idle.max_cstate", "numa_balancing"),
    *("zswap.enabled", "psi", "nokaslr", "nosmt", "preempt"),
)
_QUEUE: Final = (
    "read_ahead_kb",
    "scheduler",
    "rotational",
    "nr_requests",
    "write_cache",
    "wbt_lat_usec",
    "max_sectors_kb",
)
_SECONDS: Final = 20
_SECTOR: Final = 512


def collect(
    store: Path | None = None, root: Path = Path("/"), run: Callable[[list[str]], str | None] | None = None
) -> dict[str, Any]:
    """All of it. ``store``: a path whose mount and device matter; ``run`` gives the output of an argv, None where it fails."""
    ask = run or _output
    facts = {
        "cpu": cpu(root),
        "kernel": kernel(root),
        "memory": memory(root),
        "settings": host_settings.current(store, root),
        "damon": damon(root),
        "cgroups": cgroups(root),
        "store": store_facts(store, root) if store else {},
        "fuse": _named(root / "proc/sys/fs/fuse", ("max_pages_limit",)),
        "load": load(root),
        "machine": machine(root),
        "distribution": _assignments(_read(root / "etc/os-release")).get("PRETTY_NAME"),
        "packages": packages(
            ask(["dpkg-query", "--show", "--showformat=${Package} ${Version} ${db:Status-Status}\\n", *PACKAGES]) or ""
        ),
        "programs": {argv[0].rpartition("/")[2]: line for argv in PROGRAMS if (line := _first_line(ask(list(argv))))},
    }
    return _without_gaps(facts)


def cpu(root: Path) -> dict[str, Any]:
    """Model, microcode, CPUs, the flags that matter here, frequency driver, clock source, what is mitigated."""
    fields: dict[str, str] = {}
    for line in _read(root / "proc/cpuinfo").splitlines():
        name, _, value = line.partition(":")
        fields.setdefault(name.strip(), value.strip())
    flags = fields.get("flags", "").split()
    devices = root / "sys/devices/system"
    mitigations = devices / "cpu/vulnerabilities"
    return {
        "model": fields.get("model name"),
        "microcode": fields.get("microcode"),
        "cpus": _read(devices / "cpu/online").strip(),
        "flags": [flag for flag in _CPU_FLAGS if flag in flags],
        "smt": _read(devices / "cpu/smt/control").strip(),
        "frequency_driver": _read(devices / "cpu/cpufreq/policy0/scaling_driver").strip(),
        "clock_source": _read(devices / "clocksource/clocksource0/current_clocksource").strip(),
        "mitigations": _named(mitigations, sorted(os.listdir(mitigations)) if mitigations.is_dir() else ()),
    }


def kernel(root: Path) -> dict[str, Any]:
    """Release, build, the boot options that matter here, and the digest of its configuration."""
    release = _read(root / "proc/sys/kernel/osrelease").strip()
    config = _bytes(root / "boot" / f"config-{release}")
    if not config and (packed := _bytes(root / "proc/config.gz")):
        config = gzip.decompress(packed)
    return {
        "release": release,
        "build": _read(root / "proc/sys/kernel/version").strip(),
        "boot_options": [
            word for word in _read(root / "proc/cmdline").split() if word.partition("=")[0] in _BOOT_OPTIONS
        ],
        "config_sha256": hashlib.sha256(config).hexdigest() if config else None,
    }


def memory(root: Path) -> dict[str, Any]:
    """Size in bytes, and swap areas (an empty list: swap is off)."""
    total = next(
        (line.split()[1] for line in _read(root / "proc/meminfo").splitlines() if line.startswith("MemTotal:")), None
    )
    swaps = [line.split() for line in _read(root / "proc/swaps").splitlines()[1:]]
    return {
        "total_bytes": int(total) * 1024 if total else None,
        "swaps": [
            {"path": area[0], "kind": area[1], "size_bytes": int(area[2]) * 1024, "used_bytes": int(area[3]) * 1024}
            for area in swaps
        ],
        "numa_nodes": _read(root / "sys/devices/system/node/online").strip(),
    }


def damon(root: Path) -> dict[str, Any]:
    """DAMON's threads and their states: one that runs may reclaim pages behind a trial's back."""
    top = root / "sys/kernel/mm/damon/admin/kdamonds"
    states = [_read(path / "state").strip() for path in sorted(top.glob("[0-9]*"))]
    modules = {
        name: _read(root / "sys/module" / name / "parameters/enabled").strip()
        for name in ("damon_reclaim", "damon_lru_sort", "damon_stat")
    }
    return {"kdamonds": states if top.is_dir() else None, **modules}


def cgroups(root: Path) -> dict[str, Any]:
    """Layout (unified, hybrid or legacy), and the controllers of both versions."""
    top = root / "sys/fs/cgroup"
    mounts = [line.split() for line in _read(root / "proc/self/mounts").splitlines()]
    legacy = sorted(
        {name for mount in mounts if mount[2] == "cgroup" for name in mount[3].split(",") if (top / name).is_dir()}
    )
    is_unified = (top / "cgroup.controllers").exists()
    has_unified = is_unified or (top / "unified").is_dir()
    return {
        "layout": "unified" if is_unified else "hybrid" if has_unified else "legacy" if legacy else None,
        "controllers": _read(top / ("cgroup.controllers" if is_unified else "unified/cgroup.controllers")).split(),
        "legacy_controllers": legacy,
    }


def store_facts(store: Path, root: Path = Path("/")) -> dict[str, Any]:
    """File system and options of the mount that ``store`` lies on, its device's queue, and what a loop device is backed by."""
    best: list[str] = []
    for line in _read(root / "proc/self/mounts").splitlines():
        fields = line.split()
        point = fields[1].encode("ascii", "replace").decode("unicode_escape")
        if store.is_relative_to(point) and (not best or len(point) >= len(best[1])):
            best = [fields[0], point, *fields[2:]]
    number = os.stat(store).st_dev
    device = root / f"sys/dev/block/{os.major(number)}:{os.minor(number)}"
    # A partition has its queue one level up.
    queue = device / "queue" if (device / "queue").is_dir() else device.resolve().parent / "queue"
    facts: dict[str, Any] = {"device": dict(_named(queue, _QUEUE))}
    if best:
        facts |= {"source": best[0], "mount_point": best[1], "file_system": best[2], "options": best[3]}
    if (device / "loop").is_dir():
        facts["loop"] = _named(device / "loop", ("backing_file", "dio"))
    return facts


def load(root: Path) -> dict[str, Any]:
    """What else goes on: load averages, seconds since boot, CPU seconds stolen since boot."""
    averages = _read(root / "proc/loadavg").split()[:3]
    ticks = _read(root / "proc/stat").partition("\n")[0].split()
    uptime = _read(root / "proc/uptime").split()
    return {
        "averages": [float(word) for word in averages],
        "uptime_seconds": float(uptime[0]) if uptime else None,
        "steal_seconds": int(ticks[8]) / os.sysconf("SC_CLK_TCK") if len(ticks) > 8 else None,
    }


def machine(root: Path) -> dict[str, Any]:
    """Maker and product by the firmware, boot id, and the container that this is."""
    dmi = _named(root / "sys/class/dmi/id", ("sys_vendor", "product_name", "bios_version"))
    return {
        **dmi,
        "boot_id": _read(root / "proc/sys/kernel/random/boot_id").strip(),
        "container": _read(root / "run/systemd/container").strip(),
    }


def packages(text: str) -> dict[str, str]:
    """Versions of the packages that are installed, from dpkg-query's lines of package, version and status."""
    words = (line.split() for line in text.splitlines())
    return {word[0]: word[1] for word in words if len(word) == 3 and word[2] == "installed"}


def _named(directory: Path, names: Iterable[str]) -> dict[str, str]:
    return {name: text for name in names if (text := _read(directory / name).strip())}


def _assignments(text: str) -> dict[str, str]:
    return {name: value.strip("\"'") for name, _, value in (line.partition("=") for line in text.splitlines())}


def _read(path: Path) -> str:
    return _bytes(path).decode("utf-8", "replace")


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def _output(argv: list[str]) -> str | None:
    try:
        answer = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=_SECONDS)
    except (OSError, subprocess.TimeoutExpired):
        return None
    # dpkg-query answers for the packages that it knows, and fails because of the others.
    return answer.stdout or None


def _first_line(text: str | None) -> str | None:
    lines = (text or "").splitlines()
    return lines[0].strip() if lines else None


def _without_gaps(facts: dict[str, Any]) -> dict[str, Any]:
    """Drop what is unknown, at every level; an empty list is an answer (no swap, no flag)."""
    cleaned = {name: _without_gaps(value) if isinstance(value, dict) else value for name, value in facts.items()}
    return {name: value for name, value in cleaned.items() if value is not None and value not in ("", {})}
