"""What guests boot: kernel, initramfs with the runner, and a read-only root image, made once and again only when the inputs change."""

from __future__ import annotations

import hashlib
import json
import lzma
import os
import platform
import shutil
import struct
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from . import (
    apt_sources,
    cachestat,
    cpio,
    guest_init,
    image,
    runner,
    runner_channel,
    runner_coherence,
    runner_fuse,
    runner_kernel,
    runner_workload,
)
from .commands import run

# Packages that are unpacked, not installed: a kernel's own scripts would build an initramfs that nobody boots.
_KERNEL = "linux-image-cloud-amd64"
_UNPACKED = ("busybox-static",)
# What depends on the machine or the moment of the build, or what no guest needs.
_REMOVED = (
    *("var/cache/apt", "var/lib/apt/lists", "var/log", "usr/share/doc", "usr/share/zoneinfo"),
    *("etc/apt/sources.list", "etc/apt/sources.list.d", "etc/hostname", "etc/resolv.conf", "etc/machine-id"),
)
_EXCLUDED = ("/usr/share/doc/*", "/usr/share/man/*", "/usr/share/locale/*", "/usr/share/info/*")
# Imported, so that Ansible ships them with the module that packs them.
_RUNNER: tuple[ModuleType, ...] = (
    runner,
    runner_channel,
    runner_coherence,
    runner_fuse,
    runner_kernel,
    runner_workload,
    cachestat,
)
_BUILD_VERSION = 2  # of this file's recipe: raise it when the root image of the same inputs would differ


@dataclass(frozen=True, slots=True)
class RootSpec:
    """Inputs of the root image. ``mirror`` empty: the one this machine's apt uses for ``suite``, else mmdebstrap's own default."""

    suite: str = "trixie"
    mirror: str = ""
    packages: tuple[str, ...] = ("python3",)
    size_mib: int = 384


def mmdebstrap_argv(spec: RootSpec, tree: Path, downloads: Path, mirror: str) -> list[str]:
    """The exact command: a root of essential packages, and beside it the packages to unpack."""
    # The new root's apt configuration: by its own, this machine would fetch packages of its own release.
    download = (
        f'cd "{downloads}" && export APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" && apt-get -q -o APT::Sandbox::User=root download {" ".join(_UNPACKED)} '
        f'"$(apt-cache depends {_KERNEL} | sed -n "s/^ *Depends: //p" | head -n 1)"'
    )
    argv = ["mmdebstrap", "--mode=root", "--variant=essential", "--architectures=amd64"]
    argv += [f"--include={','.join(spec.packages)}"] if spec.packages else []
    argv += [f"--dpkgopt=path-exclude={pattern}" for pattern in _EXCLUDED]
    argv += [f"--customize-hook={download}", spec.suite, str(tree)]
    return [*argv, mirror] if mirror else argv


def default_mirror(suite: str, etc_apt: Path = Path("/etc/apt")) -> str:
    """The address this machine's own apt uses for ``suite``; empty where it uses none."""
    return apt_sources.mirror_of(apt_sources.read_sources(etc_apt), suite) or ""


def inputs_digest(spec: RootSpec) -> str:
    """What decides whether the root image is made again."""
    text = json.dumps([_BUILD_VERSION, asdict(spec), guest_init.MOUNT_POINTS, guest_init.ALL_MODULES], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def runner_files() -> dict[str, bytes]:
    """The runner as it is shipped: path → content. Read through the import system, since Ansible runs modules out of a zip archive."""
    files = {"main.py": guest_init.RUNNER_MAIN.encode(), "onecopy/__init__.py": b""}
    for module in _RUNNER:
        assert module.__spec__
        assert module.__spec__.loader
        source = module.__spec__.loader.get_source(module.__name__)  # type: ignore[attr-defined]
        files[f"onecopy/{module.__name__.rpartition('.')[2]}.py"] = source.encode()
    return files


def base_entries(downloads: Path) -> tuple[dict[str, cpio.Entry], str]:
    """The initramfs without the runner, from the unpacked packages; and the kernel's release."""
    modules = next((downloads / "unpacked/usr/lib/modules").iterdir())
    entries = {
        "bin/busybox": cpio.file(_busybox(downloads).read_bytes(), 0o755),
        "dev/console": cpio.character_device(5, 1),
        **{name: cpio.directory() for name in ("proc", "sys", "run", "root")},
    }
    for name in guest_init.ALL_MODULES:
        path = next(modules.rglob(f"{name}.ko*"), None)
        if path is None:
            continue  # built in, or merged with another: kernels differ
        content = path.read_bytes()
        entries[f"modules/{name}.ko"] = cpio.file(lzma.decompress(content) if path.suffix == ".xz" else content)
    return entries, modules.name


def runner_entries(files: Mapping[str, bytes]) -> dict[str, cpio.Entry]:
    """The second half of the initramfs: what changes more often than a kernel."""
    entries = {f"onecopy/runner/{path}": cpio.file(content) for path, content in files.items()}
    first, second = guest_init.INITRAMFS.encode(), guest_init.INIT.encode()
    return {**entries, "init": cpio.file(first, 0o755), "onecopy/init": cpio.file(second)}


def is_current(spec: RootSpec, guest: Path) -> bool:
    """Whether the root image was made from these inputs."""
    manifest = read_manifest(guest)
    return manifest.get("inputs") == inputs_digest(spec) and all(
        (guest / name).exists() for name in ("vmlinuz", "initrd.base", "root.img")
    )


def is_runner_current(guest: Path) -> bool:
    """Whether initrd and runner directory hold this version's runner."""
    manifest = read_manifest(guest)
    is_same = bool(manifest.get("runner") == _runner_digest(runner_files()))
    return is_same and "capabilities" in manifest and (guest / "initrd").exists()


def read_manifest(guest: Path) -> dict[str, Any]:
    """guest/manifest.json; empty where there is none."""
    try:
        manifest = json.loads((guest / "manifest.json").read_text())
    except (FileNotFoundError, ValueError):
        return {}
    return manifest if isinstance(manifest, dict) else {}


def build(spec: RootSpec, guest: Path, progress: Callable[[str], None] = lambda line: None) -> dict[str, Any]:
    """Make kernel, initramfs base and root image below ``guest``; return the new manifest. Raises CommandError, NoSpaceError."""
    if platform.machine() != "x86_64":
        raise OSError(f"guests are x86_64, this machine is {platform.machine()}")
    started, began = time.monotonic(), time.time()
    guest.mkdir(parents=True, exist_ok=True)
    image.require_space(guest, 600 << 20)
    work = guest / "build"
    image.remove(work)
    tree, downloads = work / "tree", work / "downloads"
    downloads.mkdir(parents=True)
    try:
        progress(f"building a {spec.suite} root")
        mirror = spec.mirror or default_mirror(spec.suite)
        run(
            mmdebstrap_argv(spec, tree, downloads, mirror),
            env={**os.environ, "LC_ALL": "C.UTF-8"},
            timeout_seconds=1800,
        )
        for package in sorted(downloads.glob("*.deb")):
            run(["dpkg-deb", "-x", str(package), str(downloads / "unpacked")])
        entries, release = base_entries(downloads)
        packages = run(
            ["dpkg-query", f"--admindir={tree}/var/lib/dpkg", "-W", "-f", "${Package} ${Version}\\n"]
        ).splitlines()
        packages += sorted(path.name for path in downloads.glob("*.deb"))
        _trim(tree)
        epoch = settle_times(tree, began)
        root = image.ImageSpec(
            f"root {spec.suite}", spec.size_mib, 16384, journal=False, label="onecopy-root", epoch=epoch
        )
        image.make(root, guest / "root.img", tree)
        (guest / "initrd.base").write_bytes(cpio.pack(entries))
        shutil.copyfile(next((downloads / "unpacked/boot").glob("vmlinuz-*")), guest / "vmlinuz")
        shutil.copyfile(next((downloads / "unpacked/boot").glob("config-*")), guest / "config")
        _write_elf_kernel(guest)
    finally:
        image.remove(work)
    manifest = {
        "inputs": inputs_digest(spec),
        "suite": spec.suite,
        "include": list(spec.packages),
        "kernel": release,
        "packages": packages,
        "root_sha256": image.digest(guest / "root.img"),
        "vmlinuz_sha256": image.digest(guest / "vmlinuz"),
        "build_seconds": round(time.monotonic() - started, 1),
    }
    _write_manifest(guest, manifest)
    return manifest


def pack_runner(guest: Path) -> dict[str, Any]:
    """Write initrd (base + runner) and the runner's directory for the ``hfs`` chroot; return the new manifest."""
    files = runner_files()
    content = (guest / "initrd.base").read_bytes() + cpio.pack(runner_entries(files))
    (guest / "initrd.partial").write_bytes(content)
    (guest / "initrd.partial").rename(guest / "initrd")
    image.remove(guest / "runner")
    for path, source in files.items():
        (guest / "runner" / path).parent.mkdir(parents=True, exist_ok=True)
        (guest / "runner" / path).write_bytes(source)
    manifest = {
        **read_manifest(guest),
        "capabilities": kernel_capabilities((guest / "config").read_text(encoding="ascii")),
        "runner": _runner_digest(files),
        "initrd_sha256": hashlib.sha256(content).hexdigest(),
    }
    _write_manifest(guest, manifest)
    return manifest


def kernel_capabilities(config: str) -> dict[str, dict[str, Any]]:
    """What systems under test need of the guests' kernel, from its configuration: in the form of capabilities.json."""
    wanted = ("CONFIG_EROFS_FS", "CONFIG_FS_DAX")
    lines = set(config.splitlines())
    missing = [name for name in wanted if not {f"{name}=y", f"{name}=m"} & lines]
    reason = f"the guests' kernel was built without {' and '.join(missing)}" if missing else ""
    return {"guest_erofs": {"supported": not missing, "reason": reason}}


def find_unlike(packages: Iterable[str], wanted: Iterable[str]) -> str | None:
    """One line on how ``packages`` (NAME VERSION, or a file that was unpacked) differ from ``wanted``; None when they are the same."""
    here, there = set(packages), set(wanted)
    if here == there:
        return None
    only_here, only_there = sorted(here - there), sorted(there - here)
    sides = [f"{', '.join(side[:3])}{' …' if side[3:] else ''}" or "nothing" for side in (only_here, only_there)]
    return f"{len(only_there)} of {len(there)} packages cannot be had as wanted: {sides[0]} instead of {sides[1]}"


def find_missing_program(command: str, root: Path, tree: Path, suite: str, packages: Sequence[str]) -> str | None:
    """One line where ``command`` is neither a program of the guests' ``root`` nor, relative, one of the data in ``tree``; else None."""
    if "/" in command and not command.startswith("/"):
        candidates = [tree / command]
    elif command.startswith("/"):
        candidates = [root / command.lstrip("/")]
    else:
        candidates = [root / place / command for place in ("usr/local/bin", "usr/bin", "bin", "usr/sbin", "sbin")]
    # A link in the root points into the root, where this machine cannot follow it.
    if any(path.is_symlink() or (path.is_file() and os.access(path, os.X_OK)) for path in candidates):
        return None
    named = ", ".join(packages) or "no others"
    return (
        f"{command!r} is not in the guest image (Debian {suite}: essential packages, and {named}) nor a program in the data: "
        "name the package that has it with --packages, or use another command"
    )


def _runner_digest(files: Mapping[str, bytes]) -> str:
    return hashlib.sha256(cpio.pack(runner_entries(files))).hexdigest()


def kernel_payload(bzimage: bytes) -> bytes:
    """The compressed ELF kernel inside a bzImage (Linux boot protocol 2.08 and later), without the size that ends it."""
    if bzimage[0x202:0x206] != b"HdrS":
        raise ValueError("not a bzImage")
    setup_sectors = bzimage[0x1F1] or 4
    offset, length = struct.unpack_from("<II", bzimage, 0x248)
    start = (setup_sectors + 1) * 512 + offset
    return bzimage[start : start + length - 4]


def _write_elf_kernel(guest: Path) -> None:
    """Unpack the kernel where that is possible: QEMU then starts it directly, and an emulated guest need not unpack it (2 s of 8)."""
    payload = kernel_payload((guest / "vmlinuz").read_bytes())
    (guest / "vmlinux").unlink(missing_ok=True)
    if payload.startswith(b"\xfd7zXZ"):
        (guest / "vmlinux").write_bytes(lzma.decompress(payload))
    elif payload.startswith(b"\x28\xb5\x2f\xfd") and shutil.which("zstd"):
        (guest / "vmlinux.zst").write_bytes(payload)
        run(["zstd", "-q", "-d", "--rm", "-f", str(guest / "vmlinux.zst"), "-o", str(guest / "vmlinux")])


def kernel_path(guest: Path) -> Path:
    """What QEMU is given as ``-kernel``."""
    unpacked = guest / "vmlinux"
    return unpacked if unpacked.exists() else guest / "vmlinuz"


def _busybox(downloads: Path) -> Path:
    found = [path for path in (downloads / "unpacked").rglob("busybox") if path.is_file() and os.access(path, os.X_OK)]
    return found[0]


def _trim(tree: Path) -> None:
    """Remove what would make two builds differ or what no guest needs, add the mount points of a read-only root."""
    for name in _REMOVED:
        image.remove(tree / name)
    for path in tree.glob("var/**/*-old"):
        image.remove(path)
    for name in guest_init.MOUNT_POINTS:
        (tree / name).mkdir(exist_ok=True)


def settle_times(tree: Path, began: float) -> int:
    """Give everything that was written since ``began`` (seconds since 1970) the time of the newest packaged file; return that time.

    A function of the packages alone; any earlier time would make Python take its compiled modules for outdated.
    """
    entries = [os.path.join(top, name) for top, directories, names in os.walk(tree) for name in (*directories, *names)]
    times = {path: os.lstat(path).st_mtime for path in (str(tree), *entries)}
    packaged = [moment for moment in times.values() if moment < began]
    if not packaged:
        raise OSError(f"{tree}: holds no file older than its build: is this machine's clock right?")
    newest = int(max(packaged))
    for path, moment in times.items():
        if moment > newest:
            os.utime(path, (newest, newest), follow_symlinks=False)
    return newest


def _write_manifest(guest: Path, manifest: Mapping[str, Any]) -> None:
    partial = guest / "manifest.json.partial"
    partial.write_text(json.dumps(manifest, indent=1, sort_keys=True) + "\n")
    partial.rename(guest / "manifest.json")
