"""The sandbox: the daemon sees nothing but the shared directory, and keeps only the capabilities that files need."""

import os
import resource

from hostfsd import libc
from hostfsd.credentials import KEPT, SYS_ADMIN

MAX_FILES = 1 << 20
_PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS, _PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 24, 38, 47, 4


def raise_file_limit() -> int:
    """Raise the soft limit of open files to the hard one, at most MAX_FILES; return it."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = MAX_FILES if hard == resource.RLIM_INFINITY else min(hard, MAX_FILES)
    resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
    return limit


def enter(shared: str, readonly: bool, trusted_xattr: bool) -> tuple[str, int]:
    """Confine this process (one thread so far) to `shared`; return the new path of it and the kept capabilities.

    Afterwards the working directory is a detached copy of /proc/self/fd: a descriptor's number is a path to its file.
    Raises OSError when a step is refused; needs root.
    """
    libc.unshare(libc.CLONE_NEWNS | libc.CLONE_NEWIPC | libc.CLONE_NEWNET)
    libc.mount(b"none", b"/", libc.MS_REC | libc.MS_PRIVATE)
    # Not recursive: what is mounted below the directory is not part of the share.
    target = os.fsencode(shared)
    libc.mount(target, target, libc.MS_BIND)
    flags = libc.MS_NOSUID | libc.MS_NODEV | libc.MS_NOEXEC | (libc.MS_RDONLY if readonly else 0)
    libc.mount(b"none", target, libc.MS_REMOUNT | libc.MS_BIND | flags)
    descriptors = libc.clone_tree(b"/proc/self/fd")
    os.chdir(shared)
    libc.pivot_root(b".", b".")
    libc.umount(b".", libc.MNT_DETACH)
    os.fchdir(descriptors)
    os.close(descriptors)
    kept = KEPT | (SYS_ADMIN if trusted_xattr else 0)
    _drop_capabilities(kept)
    os.umask(0)
    return "/", kept


def stay(shared: str) -> tuple[str, int]:
    """Do without confinement (tests, machines without namespaces); return what `enter` returns."""
    os.chdir("/proc/self/fd")
    os.umask(0)
    return shared, KEPT if os.geteuid() == 0 else 0


def _drop_capabilities(kept: int) -> None:
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL)
    number = 0
    while True:
        try:
            if not kept >> number & 1:
                libc.prctl(_PR_CAPBSET_DROP, number)
        except OSError:
            break  # beyond the last capability that this kernel has
        number += 1
    libc.set_capabilities(kept, kept)
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1)
