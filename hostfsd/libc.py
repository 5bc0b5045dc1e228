"""System calls that Python's os module lacks, as typed functions. Every failure is an OSError with the call's errno."""

import contextlib
import ctypes
import os

AT_FDCWD = -100
MNT_DETACH = 2
MS_RDONLY, MS_NOSUID, MS_NODEV, MS_NOEXEC, MS_REMOUNT, MS_BIND = 1, 2, 4, 8, 32, 4096
MS_REC, MS_PRIVATE = 16384, 1 << 18
CLONE_NEWNS, CLONE_NEWIPC, CLONE_NEWNET = 0x00020000, 0x08000000, 0x40000000
UTIME_NOW, UTIME_OMIT = (1 << 30) - 1, (1 << 30) - 2
IN_MODIFY, IN_ATTRIB, IN_Q_OVERFLOW, IN_IGNORED = 0x2, 0x4, 0x4000, 0x8000
FALLOC_KEEP_SIZE = 0x01
FALLOC_MODES = FALLOC_KEEP_SIZE | 0x02 | 0x08 | 0x10 | 0x20  # keep size, punch hole, collapse, zero and insert range

_OPEN_TREE_CLONE = 1
_LINUX_CAPABILITY_VERSION_3 = 0x20080522
_SYSCALLS = {"x86_64": {"pivot_root": 155, "getdents64": 217}, "aarch64": {"pivot_root": 41, "getdents64": 61}}
_SYS_OPEN_TREE = 428

# glibc loads it when a thread ends, which Python's do when the daemon ends: the sandbox has none, and the daemon would be aborted.
with contextlib.suppress(OSError):
    ctypes.CDLL("libgcc_s.so.1")

_libc = ctypes.CDLL(None, use_errno=True)
_syscall = _libc.syscall
_syscall.restype = ctypes.c_long
_libc.fallocate.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_int64, ctypes.c_int64]
_libc.fallocate64.argtypes = _libc.fallocate.argtypes
_numbers = _SYSCALLS.get(os.uname().machine, {})


class _Timespec(ctypes.Structure):
    _fields_ = [("seconds", ctypes.c_int64), ("nanoseconds", ctypes.c_int64)]


def _check(result: int) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return result


def _number(name: str) -> int:
    try:
        return _numbers[name]
    except KeyError:
        raise OSError(38, f"{name}: no system call number known for {os.uname().machine}") from None


def renameat2(old_dir: int, old: bytes, new_dir: int, new: bytes, flags: int) -> None:
    _check(_libc.renameat2(old_dir, old, new_dir, new, ctypes.c_uint(flags)))


def fallocate(fd: int, mode: int, offset: int, length: int) -> None:
    _check(_libc.fallocate64(fd, mode, offset, length))


def syncfs(fd: int) -> None:
    _check(_libc.syncfs(fd))


def utimensat(dir_fd: int, path: bytes, atime: tuple[int, int], mtime: tuple[int, int]) -> None:
    """Set both times, each (seconds, nanoseconds or UTIME_NOW or UTIME_OMIT); follows a link."""
    _check(_libc.utimensat(dir_fd, path, (_Timespec * 2)(_Timespec(*atime), _Timespec(*mtime)), 0))


class DirectoryReader:
    """Reads raw linux_dirent64 records, for their stable offsets, which os.scandir hides."""

    def __init__(self, size: int = 32768) -> None:
        self._buffer = ctypes.create_string_buffer(size)
        self._call = _number("getdents64")

    def read(self, fd: int) -> bytes:
        """Return the next records; empty at the end."""
        size = _check(_syscall(self._call, fd, self._buffer, len(self._buffer)))
        return ctypes.string_at(self._buffer, size)


def set_fs_user(uid: int) -> None:
    """Change this thread's file-system user: not 0 drops the capabilities on files, 0 restores them."""
    _libc.setfsuid(ctypes.c_uint(uid))


def set_fs_group(gid: int) -> None:
    _libc.setfsgid(ctypes.c_uint(gid))


def set_capabilities(effective: int, permitted: int) -> None:
    """Set this thread's capability sets (bit masks); inheritable becomes empty."""
    header = (ctypes.c_uint32 * 2)(_LINUX_CAPABILITY_VERSION_3, 0)
    low, high = 0xFFFFFFFF, 32
    data = (ctypes.c_uint32 * 6)(effective & low, permitted & low, 0, effective >> high, permitted >> high, 0)
    _check(_libc.capset(header, data))


def prctl(option: int, value: int = 0) -> int:
    zero = ctypes.c_ulong(0)
    return _check(_libc.prctl(option, ctypes.c_ulong(value), zero, zero, zero))


def unshare(flags: int) -> None:
    _check(_libc.unshare(flags))


def mount(source: bytes, target: bytes, flags: int) -> None:
    _check(_libc.mount(source, target, None, ctypes.c_ulong(flags), None))


def umount(target: bytes, flags: int) -> None:
    _check(_libc.umount2(target, flags))


def pivot_root(new_root: bytes, put_old: bytes) -> None:
    _check(_syscall(_number("pivot_root"), new_root, put_old))


def clone_tree(path: bytes) -> int:
    """Return a descriptor of a detached copy of the mount at a directory, whose `..` leads nowhere."""
    return _check(_syscall(_SYS_OPEN_TREE, AT_FDCWD, path, _OPEN_TREE_CLONE | os.O_CLOEXEC))


def inotify_init() -> int:
    return _check(_libc.inotify_init1(os.O_CLOEXEC))


def inotify_add(fd: int, path: bytes, mask: int) -> int:
    return _check(_libc.inotify_add_watch(fd, path, mask))


def inotify_remove(fd: int, watch: int) -> None:
    _check(_libc.inotify_rm_watch(fd, watch))
