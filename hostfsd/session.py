"""The FUSE session: takes a request to its operation, and an operation's result or error back to the guest."""

import struct
import traceback
from collections.abc import Callable

from hostfsd import fuse, op_files, op_mapping, op_names, op_nodes
from hostfsd.backend import Aborted
from hostfsd.counters import Counters
from hostfsd.export import Export
from hostfsd.request import Request
from hostfsd.virtqueue import Chain

Handler = Callable[[Export, Request, Counters], bytes | int]

_UNANSWERED = {fuse.Op.FORGET, fuse.Op.BATCH_FORGET, fuse.Op.INTERRUPT, fuse.Op.NOTIFY_REPLY}
_REFUSED = {fuse.Op.IOCTL: 25}  # ENOTTY; every other request that is not listed gets ENOSYS


def _table() -> list[Handler | None]:
    table: list[Handler | None] = [None] * fuse.OP_COUNT
    for handlers in (op_nodes.HANDLERS, op_names.HANDLERS, op_files.HANDLERS, op_mapping.HANDLERS):
        for op, handler in handlers.items():
            table[op] = handler
    return table


class Session:
    """Serves the requests of one guest; `serve` may run in several threads at once."""

    def __init__(self, export: Export) -> None:
        self.export = export
        self._table = _table()
        self._writes = {op for op in fuse.Op if op.name in _CHANGING}

    def serve(self, chain: Chain, counters: Counters) -> int:
        """Serve one request and return how many bytes were written for the guest.

        Raises BadChain for what is no request, Aborted when it must be served again later.
        """
        request = Request(chain)
        op = request.op
        handler = self._table[op] if op < fuse.OP_COUNT else None
        counters.requests[op if op in fuse.OP_NAMES else 0] += 1
        error, data = 0, b""
        try:
            if handler is None:
                raise OSError(_REFUSED.get(op, 38), "not supported")
            if self.export.policy.readonly and op in self._writes:
                raise OSError(30, "read-only share")
            result = handler(self.export, request, counters)
            if isinstance(result, int):
                return request.answer_placed(result)
            data = result
        except OSError as problem:
            error = -(problem.errno or 5)
        except Aborted:
            counters.requests[op] -= 1
            raise
        except (ValueError, OverflowError, struct.error):
            error = -22  # too short, or a number out of the range that the system call takes
        except Exception:
            # A bug of this daemon must cost one request, not the guest's mount.
            traceback.print_exc()
            error = -5
        if op in _UNANSWERED:
            return 0
        if error:
            counters.errors += 1
            if not -4096 < error < 0:
                error = -5
            data = b""
        return request.answer(error, data)

    def finish(self) -> None:
        """Bring everything that the guest stored to the files. Raises OSError."""
        self.export.window.store_all()


_CHANGING = {
    "SETATTR", "SYMLINK", "MKNOD", "MKDIR", "UNLINK", "RMDIR", "RENAME", "RENAME2", "LINK", "WRITE", "SETXATTR",
    "REMOVEXATTR", "CREATE", "FALLOCATE", "COPY_FILE_RANGE",
}  # fmt: skip
