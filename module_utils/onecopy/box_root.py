"""The base root file system of a box: a Debian made by mmdebstrap, kept under the digest of its inputs."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from .commands import run

# udev and tmpfiles inside a box act on the machine's nodes when these are bound in: so a box makes nodes of its own.
DEVICES = (
    "c! /dev/kvm 0660 root kvm - 10:232",
    "c! /dev/fuse 0666 root root - 10:229",
    "c! /dev/loop-control 0660 root disk - 10:237",
    *(f"b! /dev/loop{i} 0660 root disk - 7:{i}" for i in range(8)),
)

# On a machine with udev the group comes with it.
GROUPS = "g kvm - -\n"

# systemd-nspawn covers the boot id; a host's boot id has to tell which machine it is.
BOOT_ID_UNIT = """\
[Unit]
Description=Show the machine's boot id
DefaultDependencies=no
Before=systemd-journald.service sysinit.target
ConditionPathIsMountPoint=/proc/sys/kernel/random/boot_id

[Service]
Type=oneshot
ExecStart=/usr/bin/umount /proc/sys/kernel/random/boot_id

[Install]
WantedBy=sysinit.target
"""

# udev would act on the machine's devices; a box's host key is made before it starts.
MASKED = ("systemd-udevd.service", "sshd-keygen.service")

# Seconds to wait for another instance that shares the package cache.
APT_CONFIGURATION = 'APT::Install-Recommends "false";\nDPkg::Lock::Timeout "120";\nBinary::apt-get::Acquire::Languages "none";\nAcquire::Languages "none";\n'


@dataclass(frozen=True, slots=True)
class RootSpec:
    """Everything a base root is made from."""

    suite: str
    packages: tuple[str, ...]
    sources: tuple[str, ...]

    def digest(self) -> str:
        """Return 16 hex digits that change whenever the result would."""
        inputs = json.dumps(
            [
                asdict(self),
                mmdebstrap_argv(self, Path("ROOT")),
                DEVICES,
                GROUPS,
                BOOT_ID_UNIT,
                MASKED,
                APT_CONFIGURATION,
            ],
            sort_keys=True,
        )
        return hashlib.sha256(inputs.encode()).hexdigest()[:16]


def mmdebstrap_argv(spec: RootSpec, target: Path) -> list[str]:
    """Return the argv; the sources come by standard input, or from mmdebstrap's built-in default when there are none."""
    argv = [
        "mmdebstrap",
        "--variant=apt",
        "--format=directory",
        "--skip=cleanup/apt/lists",
        f"--include={','.join(spec.packages)}",
        spec.suite,
        str(target),
    ]
    return [*argv, "-"] if spec.sources else argv


def customize(root: Path) -> None:
    """Turn a fresh Debian into a box's base root."""
    _write(root / "etc/tmpfiles.d/onecopy-box.conf", "\n".join(DEVICES) + "\n")
    _write(root / "etc/systemd/system/onecopy-boot-id.service", BOOT_ID_UNIT)
    _write(root / "etc/apt/apt.conf.d/50onecopy-box", APT_CONFIGURATION)
    _write(root / "etc/sysusers.d/onecopy-box.conf", GROUPS)
    run(["systemd-sysusers", f"--root={root}"])
    run(["systemctl", f"--root={root}", "--quiet", "enable", "onecopy-boot-id.service", "ssh.service"])
    run(["systemctl", f"--root={root}", "--quiet", "mask", *MASKED])
    for key in (root / "etc/ssh").glob("ssh_host_*"):
        key.unlink()


def _write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def base_path(directory: Path, spec: RootSpec) -> Path:
    """Return where the base root of ``spec`` lies below ``directory``."""
    return directory / f"base-{spec.digest()}"


def outdated(directory: Path, keep: Path) -> list[Path]:
    """Return base roots (whole or torn) below ``directory`` other than ``keep``."""
    return [path for path in sorted(directory.glob("base-*")) if path != keep]


def build(spec: RootSpec, directory: Path) -> Path:
    """Make the base root of ``spec``; a build that is broken off leaves nothing that looks whole."""
    target = base_path(directory, spec)
    partial = target.with_name(f"{target.name}.partial")
    directory.mkdir(parents=True, exist_ok=True)
    remove_trees([partial])
    run(
        mmdebstrap_argv(spec, partial),
        stdin="".join(f"{line}\n" for line in spec.sources),
        env=dict(os.environ, LC_ALL="C.UTF-8"),
    )
    customize(partial)
    partial.rename(target)
    remove_trees(outdated(directory, target))
    return target


def remove_trees(paths: Sequence[Path]) -> None:
    """Remove directories that are there; refuse one that still has something mounted in it."""
    with open("/proc/self/mounts", encoding="utf-8") as table:
        mounted = [line.split()[1].replace("\\040", " ") for line in table]
    for path in paths:
        inside = [point for point in mounted if point.startswith(f"{path.resolve()}/")]
        if inside:
            raise OSError(f"{path}: not removed, {inside[0]} is mounted in it")
        if path.exists():
            shutil.rmtree(path)
