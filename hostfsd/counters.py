"""Counters. Each queue's thread owns one set, so that counting takes no lock; sets are summed when somebody asks."""

from collections.abc import Iterable

from hostfsd.fuse import OP_COUNT, OP_NAMES


class Counters:
    """What one thread has served. `requests` is indexed by FUSE request number; number 0 counts unknown ones."""

    __slots__ = ("bad_chains", "errors", "interrupts", "read_bytes", "requests", "write_bytes")

    def __init__(self) -> None:
        self.requests = [0] * OP_COUNT
        self.errors = 0
        self.bad_chains = 0
        self.read_bytes = 0
        self.write_bytes = 0
        self.interrupts = 0


def total(sets: Iterable[Counters]) -> dict[str, object]:
    """Sum sets: requests by name (only those seen), bytes of READ and WRITE, error answers, interrupts sent."""
    requests = [0] * OP_COUNT
    errors = bad_chains = read_bytes = write_bytes = interrupts = 0
    for counters in sets:
        requests = [a + b for a, b in zip(requests, counters.requests, strict=True)]
        errors += counters.errors
        bad_chains += counters.bad_chains
        read_bytes += counters.read_bytes
        write_bytes += counters.write_bytes
        interrupts += counters.interrupts
    return {
        "requests": {OP_NAMES.get(number, "UNKNOWN"): count for number, count in enumerate(requests) if count},
        "requests_total": sum(requests),
        "errors": errors,
        "bad_chains": bad_chains,
        "read_bytes": read_bytes,
        "write_bytes": write_bytes,
        "interrupts": interrupts,
    }
