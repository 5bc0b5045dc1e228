"""Which of the pages that guests have read are merged, by the frames behind them: what else comes and goes in the guests' memory does not count.

The guests' memory is private, as KSM needs it. Needs CAP_SYS_ADMIN.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from . import page_frames
from .cachestat import PAGE_SIZE

# The frame behind every page of each guest's memory, 0 where none is; and some of these pages, by number.
Frames = Sequence[Sequence[int]]
Places = Sequence[set[int]]


class ReadPages:
    """Pages that hold ``wanted`` content (digests of the manifest) in these QEMUs' guests from now on. Make it before they are read.

    To see the frames takes milliseconds, to look for the pages by content a second: that may be done once, at the end.
    Raises PageFramesError, OSError.
    """

    def __init__(self, qemu_pids: Sequence[int], wanted: set[bytes]) -> None:
        self._wanted = wanted
        self._memories = [(pid, *page_frames.private_memory(pid)) for pid in qemu_pids]
        self._left_over = self._find()  # a free page keeps what it once held

    def frames(self) -> Frames:
        """The frames at this moment."""
        return [page_frames.frames(str(pid), start, (end - start) // PAGE_SIZE) for pid, start, end in self._memories]

    def places(self) -> Places:
        """Where the pages are that were read since. Call it while the guests still cache them."""
        return [now - before for now, before in zip(self._find(), self._left_over, strict=True)]

    def _find(self) -> Places:
        size = page_frames.digest_size(self._wanted)
        return [
            {
                number
                for number, _, page in page_frames.mapped_pages(pid, start, end)
                if page_frames.page_digest(page, size) in self._wanted
            }
            for pid, start, end in self._memories
        ]


def merged(frames: Frames, places: Places) -> int:
    """How many of the ``places`` lay in a frame that stands behind another page of the guests, too."""
    used = Counter(frame for memory in frames for frame in memory if frame)
    return sum(used[memory[number]] > 1 for memory, numbers in zip(frames, places, strict=True) for number in numbers)


def distinct(frames: Frames, places: Places) -> int:
    """How many frames stand behind all ``places``."""
    return len({memory[number] for memory, numbers in zip(frames, places, strict=True) for number in numbers})
