"""Where everything lies on a KVM host."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

RUNTIME = Path("/run/onecopy")
MACHINE = Path("/run/onecopy-machine")


@dataclass(frozen=True, slots=True)
class HostPaths:
    """Paths below one KVM host's state directory (role kvm_host's ``kvm_host_state_directory``)."""

    state: Path = Path("/var/lib/onecopy")

    @property
    def store(self) -> Path:
        """Mount point of the kit's own ext4."""
        return self.state / "store"

    @property
    def store_backing(self) -> Path:
        """The file behind the kit's own ext4, unless a device was given."""
        return self.state / "store.ext4"

    @property
    def guest(self) -> Path:
        """Kernel, initrd and root image that guests boot."""
        return self.state / "guest"

    @property
    def capabilities(self) -> Path:
        """What this host can run, and why not where it cannot (JSON)."""
        return self.state / "capabilities.json"

    def share(self, dataset: str) -> Path:
        """Root of a data set's share: ``data`` (read-only by agreement) and ``scratch``."""
        return self.store / "shares" / dataset

    def image(self, dataset: str, system: str) -> Path:
        """The data set as a file-system image: one copy per system."""
        return self.store / "images" / dataset / f"{system}.img"

    def own_image(self, guest: str, kind: str) -> Path:
        """A guest's own image: a whole ``copy``, or an ``overlay`` on the common one."""
        return self.store / "own" / f"{guest}.{'raw' if kind == 'copy' else 'qcow2'}"

    def dataset_manifest(self, dataset: str) -> Path:
        """Files, sizes, digests of the data set."""
        return self.state / "manifests" / f"{dataset}.json"

    def image_manifest(self, dataset: str) -> Path:
        """Digest of every image and the byte ranges in which the parts' data lie."""
        return self.state / "manifests" / f"{dataset}.images.json"

    def run(self, run_id: str) -> Path:
        """Plan and records of one run."""
        return self.state / "runs" / run_id
