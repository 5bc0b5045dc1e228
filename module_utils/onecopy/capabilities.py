"""What a KVM host can run, and why not where it cannot: ``capabilities.json``, read by the plan."""

from __future__ import annotations

import json
import os
import re
import subprocess
import tempfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from . import data_images, device_limit, vhost_user_probe

# Options that the kit's unit of virtiofsd uses; asked of --help, since versions and forks differ.
VIRTIOFSD_OPTIONS = ("--socket-path", "--shared-dir", "--cache", "--sandbox", "--socket-group")
Capability = dict[str, Any]
# Found by making something for a moment: a loop device, a limit, units, a mount. Where nothing may be made, "tried" is false.
TRIED = ("device_limit", "erofs")
NOT_TRIED = "not tried: preflight only reads, and telling needs a loop device"


def options_in_help(text: str) -> list[str]:
    """Return the long options that a ``--help`` text names, in order."""
    return list(dict.fromkeys(re.findall(r"(?<![\w-])--[a-z][a-z0-9-]+", text)))


def virtiofsd(binary: str, help_text: str | None, version: str = "") -> Capability:
    """Judge virtiofsd by its ``--help``; None means that it is not there."""
    if help_text is None:
        return {"supported": False, "reason": f"{binary} is not installed"}
    options = options_in_help(help_text)
    missing = [option for option in VIRTIOFSD_OPTIONS if option not in options]
    if missing:
        return {"supported": False, "reason": f"{binary} has no {', '.join(missing)}"}
    return {"supported": True, "reason": "", "binary": binary, "version": version, "options": options}


def devices_in_help(text: str) -> set[str]:
    """Return the device names in QEMU's ``-device help``."""
    return set(re.findall(r'^name "([^"]+)"', text, re.MULTILINE))


def qemu(binary: str, version_text: str | None, device_text: str | None) -> dict[str, Capability]:
    """Judge QEMU's devices by ``-device help``; None means that it is not there."""
    if version_text is None or device_text is None:
        absent = {"supported": False, "reason": f"{binary} is not installed"}
        return {"qemu": absent, "virtio_pmem": dict(absent)}
    version = version_text.splitlines()[0].removeprefix("QEMU emulator version ") if version_text else ""
    has_pmem = "virtio-pmem-pci" in devices_in_help(device_text)
    return {
        "qemu": {"supported": True, "reason": "", "binary": binary, "version": version},
        "virtio_pmem": {"supported": has_pmem, "reason": "" if has_pmem else f"{binary} has no device virtio-pmem-pci"},
    }


def _said(argv: list[str]) -> str | None:
    try:
        done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20)
    except (FileNotFoundError, PermissionError):
        return None
    return done.stdout + done.stderr


def first_existing(paths: Iterable[str]) -> str:
    """Return the first path that is an executable, or the first one when none is."""
    choices = list(paths)
    return next((path for path in choices if os.access(path, os.X_OK)), choices[0])


def discover(
    *,
    qemu_binary: str,
    virtiofsd_paths: Iterable[str],
    accelerator: str,
    accelerator_reason: str,
    known: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """Ask this host's programs; return the document of ``capabilities.json``.

    With ``known``, an earlier document or an empty one, nothing is made on the host, not for a moment either: what only a try tells is
    as it was found then, or not tried.
    """
    daemon = first_existing(virtiofsd_paths)
    found = qemu(qemu_binary, _said([qemu_binary, "--version"]), _said([qemu_binary, "-device", "help"]))
    document: dict[str, Any] = {"accelerator": accelerator, "accelerator_reason": accelerator_reason, **found}
    document |= _tried() if known is None else _as_known(known)
    document["memory_mib"] = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") >> 20
    document["virtiofsd"] = virtiofsd(daemon, _said([daemon, "--help"]), (_said([daemon, "--version"]) or "").strip())
    if found["qemu"]["supported"]:
        shmem = vhost_user_probe.probe(qemu_binary)
        document["vhost_user_shmem"] = {"supported": shmem.supported, "reason": "" if shmem.supported else shmem.reason}
    else:
        document["vhost_user_shmem"] = dict(found["qemu"])
    return document


def _tried() -> dict[str, Capability]:
    can_limit, reason = device_limit.probe(Path(tempfile.gettempdir()))
    no_erofs = data_images.why_no_erofs()
    return {
        "device_limit": {"supported": can_limit, "reason": reason},
        "erofs": {"supported": not no_erofs, "reason": no_erofs},
    }


def _as_known(known: Mapping[str, Any]) -> dict[str, Capability]:
    absent: dict[str, Capability] = {}
    no_erofs = data_images.why_no_mkfs_erofs()
    if no_erofs:
        absent["erofs"] = {"supported": False, "reason": no_erofs}
    return {
        need: absent.get(need) or known.get(need) or {"supported": False, "tried": False, "reason": NOT_TRIED}
        for need in TRIED
    }


def read(path: Path) -> dict[str, Any]:
    """The document that ``write`` left; empty where there is none."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}
    return document if isinstance(document, dict) else {}


def write(path: Path, document: Mapping[str, Any], *, check_mode: bool = False) -> bool:
    """Bring ``path`` to ``document``; return whether it differed."""
    text = json.dumps(document, indent=2, sort_keys=True) + "\n"
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return False
    if not check_mode:
        partial = path.with_name(f"{path.name}.partial")
        partial.write_text(text, encoding="utf-8")
        partial.replace(path)
    return True
