"""Files by which somebody else can tell later what a KVM host was: package list, kernel configurations, digests of the
data set.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .commands import CommandError, run
from .paths import HostPaths

PACKAGES_ARGV = ("dpkg-query", "--show", "--showformat", "${Package} ${Version} ${Architecture} ${db:Status-Abbrev}\\n")


def collect(paths: HostPaths, dataset: str, root: Path = Path("/")) -> tuple[dict[str, str], dict[str, str]]:
    """Texts by file name, and for each file that could not be had the reason. ``root`` is where /boot and /proc lie."""
    texts: dict[str, str] = {}
    absent: dict[str, str] = {}
    sources: dict[str, Callable[[], str]] = {
        "packages.txt": _packages,
        "kernel.config": lambda: kernel_config(os.uname().release, root),
        "guest-kernel.config": lambda: _text(paths.guest / "config"),
        "dataset.json": lambda: dataset_digests(paths.dataset_manifest(dataset)),
    }
    for name, read in sources.items():
        try:
            texts[name] = read()
        except (OSError, ValueError, CommandError) as error:
            absent[name] = " ".join(str(error).split())
    return texts, absent


def kernel_config(release: str, root: Path = Path("/")) -> str:
    """Configuration of the running kernel ``release``. Raises FileNotFoundError where the machine does not show it."""
    try:
        return _text(root / "boot" / f"config-{release}")
    except FileNotFoundError:
        pass
    try:
        return gzip.decompress((root / "proc" / "config.gz").read_bytes()).decode("utf-8", errors="replace")
    except FileNotFoundError:
        raise FileNotFoundError(f"neither /boot/config-{release} nor /proc/config.gz is there") from None


def dataset_digests(manifest: Path) -> str:
    """The data set's manifest without the digests of single pages, and the digest of the whole manifest."""
    content = manifest.read_bytes()
    document = {
        "manifest_sha256": hashlib.sha256(content).hexdigest(),
        "manifest": _without(json.loads(content), "page_digests"),
    }
    return json.dumps(document, indent=1, sort_keys=True) + "\n"


def _packages() -> str:
    return "".join(f"{line}\n" for line in sorted(run(list(PACKAGES_ARGV)).splitlines()))


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace")


def _without(document: Any, name: str) -> Any:
    if isinstance(document, dict):
        return {key: _without(value, name) for key, value in document.items() if key != name}
    return [_without(value, name) for value in document] if isinstance(document, list) else document
