"""FUSE messages (Linux' include/uapi/linux/fuse.h, protocol 7.38): numbers, layouts, and the attributes of a file."""

import os
import stat
import struct
from enum import IntEnum

MAJOR, MINOR = 7, 38
ROOT = 1
MAX_WRITE = 1 << 20
MAX_PAGES = 256
MAX_NAME = 255
MAX_XATTR = 65536
MAX_ARGUMENTS = 160 * 1024  # the largest request without data: SETXATTR with a full value, or a long BATCH_FORGET


class Op(IntEnum):
    """Request numbers."""

    LOOKUP = 1
    FORGET = 2
    GETATTR = 3
    SETATTR = 4
    READLINK = 5
    SYMLINK = 6
    MKNOD = 8
    MKDIR = 9
    UNLINK = 10
    RMDIR = 11
    RENAME = 12
    LINK = 13
    OPEN = 14
    READ = 15
    WRITE = 16
    STATFS = 17
    RELEASE = 18
    FSYNC = 20
    SETXATTR = 21
    GETXATTR = 22
    LISTXATTR = 23
    REMOVEXATTR = 24
    FLUSH = 25
    INIT = 26
    OPENDIR = 27
    READDIR = 28
    RELEASEDIR = 29
    FSYNCDIR = 30
    GETLK = 31
    SETLK = 32
    SETLKW = 33
    ACCESS = 34
    CREATE = 35
    INTERRUPT = 36
    BMAP = 37
    DESTROY = 38
    IOCTL = 39
    POLL = 40
    NOTIFY_REPLY = 41
    BATCH_FORGET = 42
    FALLOCATE = 43
    READDIRPLUS = 44
    RENAME2 = 45
    LSEEK = 46
    COPY_FILE_RANGE = 47
    SETUPMAPPING = 48
    REMOVEMAPPING = 49
    SYNCFS = 50
    TMPFILE = 51
    STATX = 52


OP_COUNT = 64
OP_NAMES = {int(op): op.name for op in Op}

# INIT flags
ASYNC_READ, ATOMIC_O_TRUNC, BIG_WRITES = 1 << 0, 1 << 3, 1 << 5
AUTO_INVAL_DATA, DO_READDIRPLUS, READDIRPLUS_AUTO = 1 << 12, 1 << 13, 1 << 14
ASYNC_DIO, PARALLEL_DIROPS, INIT_MAX_PAGES = 1 << 15, 1 << 18, 1 << 22
MAP_ALIGNMENT, INIT_EXT = 1 << 26, 1 << 30
HAS_INODE_DAX = 1 << 1  # of the second flag word
PAGE_SHIFT = 12

# answers to OPEN
FOPEN_DIRECT_IO, FOPEN_KEEP_CACHE, FOPEN_CACHE_DIR, FOPEN_NOFLUSH = 1 << 0, 1 << 1, 1 << 3, 1 << 5

ATTR_DAX = 1 << 1
NO_DAX = 1 << 63  # a threshold that no file reaches

# SETATTR
FATTR_MODE, FATTR_UID, FATTR_GID, FATTR_SIZE = 1, 2, 4, 8
FATTR_ATIME, FATTR_MTIME, FATTR_FH, FATTR_ATIME_NOW, FATTR_MTIME_NOW = 16, 32, 64, 128, 256

SETUPMAPPING_WRITE = 1
FSYNC_DATA = 1

IN_HEADER = struct.Struct("<IIQQIIIHH")
OUT_HEADER = struct.Struct("<IiQ")
INIT_IN = struct.Struct("<IIII")
INIT_OUT = struct.Struct("<IIIIHHIIHHII6I")
ATTR = struct.Struct("<6Q10I")
ENTRY = struct.Struct("<4Q2I")
ATTR_OUT = struct.Struct("<QII")
SETATTR_IN = struct.Struct("<IIQQQQQQIIIIIIII")
MKNOD_IN = struct.Struct("<IIII")
CREATE_IN = struct.Struct("<IIII")
RENAME2_IN = struct.Struct("<QII")
OPEN_OUT = struct.Struct("<QII")
READ_IN = struct.Struct("<QQIIQII")
WRITE_IN = struct.Struct("<QQIIQII")
HANDLE_IN = struct.Struct("<QII")
HANDLE = struct.Struct("<Q")
STATFS_OUT = struct.Struct("<5Q4I6I")
PAIR32 = struct.Struct("<II")
PAIR64 = struct.Struct("<QQ")
WORD32 = struct.Struct("<I")
FALLOCATE_IN = struct.Struct("<QQQII")
LSEEK_IN = struct.Struct("<QQII")
COPY_IN = struct.Struct("<7Q")
SETUPMAPPING_IN = struct.Struct("<5Q")
DIRENT = struct.Struct("<QQII")
HOST_DIRENT = struct.Struct("<QqHB")

_SECOND = 10**9
_NOT_NAMES = {b".", b".."}


def device_number(rdev: int) -> int:
    """Encode a device number as the kernel does on the wire (new_encode_dev)."""
    major, minor = os.major(rdev), os.minor(rdev)
    return (minor & 0xFF) | (major << 8) | ((minor & ~0xFF) << 12)


def device_from_wire(number: int) -> int:
    return os.makedev((number & 0xFFF00) >> 8, (number & 0xFF) | ((number >> 12) & 0xFFF00))


def attributes(status: os.stat_result, dax_threshold: int) -> bytes:
    """Pack struct fuse_attr. A regular file of `dax_threshold` bytes or more carries the DAX flag."""
    atime, atime_ns = divmod(status.st_atime_ns, _SECOND)
    mtime, mtime_ns = divmod(status.st_mtime_ns, _SECOND)
    ctime, ctime_ns = divmod(status.st_ctime_ns, _SECOND)
    mode, size, rdev = status.st_mode, status.st_size, status.st_rdev
    dax = ATTR_DAX if size >= dax_threshold and stat.S_ISREG(mode) else 0
    return ATTR.pack(
        status.st_ino, size, status.st_blocks,
        atime & 0xFFFFFFFFFFFFFFFF, mtime & 0xFFFFFFFFFFFFFFFF, ctime & 0xFFFFFFFFFFFFFFFF,
        atime_ns, mtime_ns, ctime_ns, mode, status.st_nlink, status.st_uid, status.st_gid,
        device_number(rdev) if rdev else 0, status.st_blksize, dax,
    )  # fmt: skip


def dirent(inode: int, offset: int, kind: int, name: bytes) -> bytes:
    """Pack struct fuse_dirent, padded to 8 bytes."""
    return DIRENT.pack(inode, offset, len(name), kind) + name + b"\0" * (-len(name) % 8)


def name_of(data: bytes) -> bytes:
    """Return a name that is safe to use in a directory. Raises OSError for one that could lead elsewhere."""
    name, end, _ = data.partition(b"\0")
    return checked(name) if end else invalid()


def names_of(data: bytes) -> tuple[bytes, bytes]:
    """Return two strings, each ended by a zero byte; the caller checks those that are names."""
    parts = data.split(b"\0", 2)
    if len(parts) < 3:
        invalid()
    return parts[0], parts[1]


def checked(name: bytes) -> bytes:
    if not name or b"/" in name or name in _NOT_NAMES:
        invalid()
    if len(name) > MAX_NAME:
        raise OSError(36, "name too long")
    return name


def invalid() -> bytes:
    raise OSError(22, "invalid request")
