"""The semantic gap: after a guest has evicted half of what it read, what can its host say about which pages the guest caches?

A page is *cached by the guest* when an access of it reaches nobody else. Page caches tell it themselves (mincore in the guest); for DAX files it is
tried out afterwards: a range that the guest still has asks for no new mapping. Every guess of the host is a set of (file, page), held against that.
"""

from __future__ import annotations

import os
import random
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, NamedTuple

from .. import block_reads, cachestat, data_images, io_path, qemu
from ..host_data import READ_PARTS, ImageData, ShareData
from ..systems import System
from .scene import Probe, Probed, ProbeError, Scene

_CALL_SECONDS: Final = 120.0
_PARTS: Final = ("all", "large", "small")
# Outside these shares nothing can be learnt: everything, or nothing, is a right answer.
_KEPT_LEAST, _KEPT_MOST = 0.1, 0.9

Page = tuple[str, int]
Pages = set[Page]
Spans = Iterable[tuple[int, int]]


class _File(NamedTuple):
    """One file of the data set: its name from the top of the data, its part and place therein, its size in bytes."""

    name: str
    part: str
    position: int
    size: int

    @property
    def pages(self) -> int:
        return -(-self.size // cachestat.PAGE_SIZE)


def run(scene: Scene) -> Probed:
    """Precision and recall of each guess that a host of this system can make; a guess that names no page has no precision."""
    files = [
        _File(name, part, position, size)
        for part in READ_PARTS[scene.parameters["part"]]
        for position, (name, size) in enumerate(scene.context.dataset.files[part])
    ]
    seen = _Onlooker(scene, files)
    scene.reach("cold", "cold")
    seen.start()
    part = scene.parameters["part"]
    scene.read(scene.boot, "" if part == "all" else part)
    seen.stop()
    _evict(scene, files)
    guesses = seen.guesses()
    cached = _cached(scene, files)
    total = sum(file.pages for file in files)
    if not _KEPT_LEAST <= len(cached) / total <= _KEPT_MOST:
        raise ProbeError(f"the guest caches {len(cached)} of {total} pages after evicting: nothing to tell apart")
    metrics: dict[str, float] = {"read_pages": total, "cached_pages": len(cached)}
    for name, guess in guesses.items():
        right = len(guess & cached)
        metrics[f"{name}_recall_ratio"] = right / len(cached)
        if guess:
            metrics[f"{name}_precision_ratio"] = right / len(guess)
    return Probed(metrics, notes=seen.notes)


class _Onlooker:
    """What a host can know of one guest's reading, with no help from inside the guest."""

    def __init__(self, scene: Scene, files: Sequence[_File]) -> None:
        self.scene = scene
        self.files = files
        self.notes = ""
        self._passed: set[int] | None = None
        data = scene.data
        # Looked up before the caches are made cold: mounting the image reads of it.
        self._extents = (
            {
                name: extents
                for part in READ_PARTS[scene.parameters["part"]]
                for name, extents in data_images.file_extents(data.image, part).items()
            }
            if isinstance(data, ImageData)
            else {}
        )

    def start(self) -> None:
        """Watch what passes, where requests pass QEMU."""
        if not isinstance(self.scene.data, ImageData):
            return
        try:
            block_reads.start(self._monitor, self._log)
        except block_reads.TraceError as error:
            self.notes = f"no guess by what passes: {error}"

    def stop(self) -> None:
        """End watching."""
        data = self.scene.data
        if not isinstance(data, ImageData) or self.notes:
            return
        marker = data.image.stat().st_size // cachestat.PAGE_SIZE - 1
        disk = self.scene.boot.plan.data_mounts[0].source
        where = [f"bs={cachestat.PAGE_SIZE}", "count=1", f"skip={marker}", "iflag=direct"]
        self.scene.run(self.scene.boot, ["dd", f"if={disk}", "of=/dev/null", *where])
        block_reads.stop(self._monitor)
        try:
            self._passed = block_reads.pages(self._log.read_text(errors="replace"), marker)
        except (OSError, block_reads.TraceError) as error:
            self.notes = f"no guess by what passes: {error}"
        self._log.unlink(missing_ok=True)

    def guesses(self) -> dict[str, Pages]:
        """Guesses by name.

        ``image``: the image as a row of blocks, which names no file. ``extents``: a host that knows ext4 looks where the resident blocks of the image
        belong. ``passed``: it takes for cached what it saw pass, as Geiger does where no block comes a second time. ``files``: the pages of the shared
        files that it caches itself. ``maps``: what the daemon shows in the guest's DAX window.
        """
        data = self.scene.data
        if isinstance(data, ImageData):
            found: dict[str, Pages] = {"image": set(), "extents": self._of_blocks(_expand(_runs(str(data.image))))}
            return found if self._passed is None else found | {"passed": self._of_blocks(self._passed)}
        assert isinstance(data, ShareData)
        paths = {file.name: str(data.root / file.name) for file in self.files}
        found = {"files": {(name, page) for name, path in paths.items() for page in _expand(_runs(path))}}
        if self.scene.system.path == "hostfsd":
            found["maps"] = _shown(self.scene, self.files, paths)
        return found

    def _of_blocks(self, blocks: Collection[int]) -> Pages:
        known = set(blocks)
        return {
            (name, (extent.logical + offset) // cachestat.PAGE_SIZE)
            for name, extents in self._extents.items()
            for extent in extents
            for offset in range(0, extent.length, cachestat.PAGE_SIZE)
            if (extent.physical + offset) // cachestat.PAGE_SIZE in known
        }

    @property
    def _log(self) -> Any:
        return self.scene.boot.plan.directory / "reads.log"

    def _monitor(self, line: str) -> str:
        monitor = self.scene.boot.qmp
        assert monitor is not None
        return str(qemu.qmp(monitor, "human-monitor-command", **{"command-line": line}))


def _evict(scene: Scene, files: Sequence[_File]) -> None:
    """Let the guest drop a random half: runs of pages, or whole files where it maps them."""
    chance = random.Random(f"{scene.context.plan['seed']}/{scene.trial['id']}")
    runner = scene.boot.runner
    held = runner.call("resident_runs", _CALL_SECONDS, parts=sorted({file.part for file in files}))
    mapped = [file for file in files if held[file.part][str(file.position)] is None]
    length = scene.parameters["run_pages"] * cachestat.PAGE_SIZE
    ranges: dict[str, list[list[int]]] = {}
    for file in chance.sample(mapped, len(mapped) // 2):
        ranges.setdefault(file.part, []).append([file.position, 0, file.size])
    for file in (file for file in files if file not in set(mapped)):
        for offset in range(0, file.size, length):
            if chance.random() < 0.5:
                ranges.setdefault(file.part, []).append([file.position, offset, length])
    if runner.call("evict", _CALL_SECONDS, ranges=ranges)["let_go"]:
        runner.call("drop", _CALL_SECONDS, what=2)


def _cached(scene: Scene, files: Sequence[_File]) -> Pages:
    """The truth. Asked last: trying out what is mapped maps it."""
    held = scene.boot.runner.call("resident_runs", _CALL_SECONDS, parts=sorted({file.part for file in files}))
    cached: Pages = set()
    for file in files:
        runs = held[file.part].get(str(file.position))
        cached |= {
            (file.name, page) for page in (_tried(scene, file) if runs is None else _expand(runs)) if page < file.pages
        }
    return cached


def _tried(scene: Scene, file: _File) -> Iterator[int]:
    """Pages of a DAX file that the guest reads without asking for a mapping."""
    tree, _, rest = file.name.partition("/")
    path = f"{scene.boot.data_roots[tree]}/{rest}"
    size = int(_window(scene)["range_bytes"])
    for offset in range(0, file.size, size):
        before = _mappings(scene)
        scene.run(
            scene.boot, ["dd", f"if={path}", "of=/dev/null", "bs=1", "count=1", f"skip={offset}", "iflag=skip_bytes"]
        )
        if _mappings(scene) == before:
            yield from range(offset // cachestat.PAGE_SIZE, (offset + size) // cachestat.PAGE_SIZE)


def _shown(scene: Scene, files: Sequence[_File], paths: Mapping[str, str]) -> Pages:
    window = _window(scene)
    size = int(window["range_bytes"])
    shown: Mapping[str, Sequence[int]] = window["shown"]
    found: Pages = set()
    for file in files:
        status = os.stat(paths[file.name])
        for offset in shown.get(f"{status.st_dev}:{status.st_ino}", ()):
            end = min(offset + size, file.size)
            found |= {
                (file.name, page) for page in range(offset // cachestat.PAGE_SIZE, -(-end // cachestat.PAGE_SIZE))
            }
    return found


def _window(scene: Scene) -> Mapping[str, Any]:
    window: Mapping[str, Any] = io_path.ask(scene.boot.plan.stats)["window"]
    return window


def _mappings(scene: Scene) -> int:
    return int(io_path.ask(scene.boot.plan.stats)["requests"].get("SETUPMAPPING", 0))


def _runs(path: str) -> list[tuple[int, int]]:
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        return cachestat.resident_runs(fd)
    finally:
        os.close(fd)


def _expand(runs: Spans) -> set[int]:
    return {page for first, count in runs for page in range(first, first + count)}


def _unsuitable(system: System, parameters: Mapping[str, Any]) -> str | None:
    if parameters["part"] not in _PARTS:
        return f"part {parameters['part']!r} is not known: {', '.join(_PARTS)}"
    if system.path == "pmem":
        return "the guest keeps no page of its own: it maps the host's pages of the image"
    if system.virtiofs_cache == "never":
        return "with cache=never the guest keeps no pages"
    return None


PROBE: Final = Probe(
    "semantic_gap", run, parameters={"part": "large", "run_pages": 16}, unsuitable=_unsuitable, seconds=5.0
)
