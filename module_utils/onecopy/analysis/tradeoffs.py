"""What guests give up where they share: four questions, one answer per system under test. Of the paths themselves, not of any run."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, NamedTuple


class TradeOff(NamedTuple):
    """``copies``: what N guests on one data set hold by design, before anything is overwritten."""

    copies: str
    isolation: str
    coherence: str
    writing: str
    side_channels: str


_OWN: Final = "own data: nothing to keep coherent"
_READ_ONLY: Final = "read-only"
_HOST_CACHE: Final = "timing of the host's cache"
_FRAMES: Final = "timing of shared frames and of the host's cache"

TRADE_OFFS: Final[Mapping[str, TradeOff]] = {
    "gfs_private": TradeOff("2N", "kept", _OWN, "own copy", "none"),
    "gfs_shared_base": TradeOff("N + 1", "kept", _OWN, "own overlay, which only grows", _HOST_CACHE),
    "gfs_direct": TradeOff("N", "kept", _READ_ONLY, "none", "none"),
    "gfs_ksm": TradeOff(
        "N, merged 1", "kept", _OWN, "own copy; a write unmerges", "timing of writes tells what others hold"
    ),
    "gfs_pmem_cow": TradeOff("1", "kept", _OWN, "own page, lost with the guest", _FRAMES),
    "gfs_pmem_dax": TradeOff("1", "root in a guest can alter the image", _READ_ONLY, "none", _FRAMES),
    "gfs_pmem_erofs": TradeOff("1", "root in a guest can alter the image", _READ_ONLY, "none, by design", _FRAMES),
    "gfs": TradeOff("N + 1", "kept", _READ_ONLY, "none", _HOST_CACHE),
    "virtiofs_never": TradeOff("1", "of files, by the daemon", "every read asks", "one file for all", _HOST_CACHE),
    "virtiofs_auto": TradeOff("N + 1", "of files, by the daemon", "checked at open", "one file for all", _HOST_CACHE),
    "virtiofs_always": TradeOff(
        "N + 1", "of files, by the daemon", "none: changes are not seen", "one file for all", _HOST_CACHE
    ),
    "myfs": TradeOff(
        "1", "root in a guest can alter mapped files", "one page: a write is seen by all", "one file for all", _FRAMES
    ),
}
