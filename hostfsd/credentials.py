"""Acting as the guest's user while something is created, so that it is owned rightly from its first moment."""

from collections.abc import Iterator
from contextlib import contextmanager

from hostfsd import libc

CHOWN, DAC_OVERRIDE, FOWNER, FSETID = 1 << 0, 1 << 1, 1 << 3, 1 << 4
SETGID, SETUID, MKNOD, SETFCAP, SYS_ADMIN = 1 << 6, 1 << 7, 1 << 27, 1 << 31, 1 << 21

KEPT = CHOWN | DAC_OVERRIDE | FOWNER | FSETID | SETGID | SETUID | MKNOD | SETFCAP
# The guest's kernel has checked the permission already, with groups that the host does not know.
_AS_USER = SETGID | SETUID | DAC_OVERRIDE


class Credentials:
    """Switches the calling thread; does nothing when the daemon does not run as root (tests)."""

    def __init__(self, kept: int) -> None:
        self.kept = kept

    @contextmanager
    def of(self, uid: int, gid: int) -> Iterator[None]:
        if not self.kept or not (uid or gid):
            yield
            return
        libc.set_fs_group(gid)
        if uid:
            libc.set_fs_user(uid)
            libc.set_capabilities(_AS_USER, self.kept)
        try:
            yield
        finally:
            if uid:
                libc.set_capabilities(self.kept, self.kept)
                libc.set_fs_user(0)
            libc.set_fs_group(0)
