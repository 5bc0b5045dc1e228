"""Counting cached pages side by side with vmtouch and fincore: same files, same moment, interleaved rounds."""

from __future__ import annotations

import json
import os
import re
import shutil
import statistics
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from . import cachestat, page_cache

TOOLS: Final = ("vmtouch", "fincore")
WANTED_FACTOR: Final = 1.5
_CHUNK: Final = 4 << 20
# fincore takes its files as arguments: as many at a time as a command line holds with ease.
_ARGUMENTS: Final = 2000


class BenchError(Exception):
    """The bench cannot run; one line."""


@dataclass(frozen=True, slots=True)
class Case:
    """What is counted: ``files`` files of ``bytes_each`` bytes, all of them warm."""

    name: str
    files: int
    bytes_each: int


CASES: Final = (Case("one file of 1 GiB", 1, 1 << 30), Case("4,000 files of 30 kB", 4000, 30_000))


def run(case: Case, directory: Path, rounds: int = 15) -> dict[str, Any]:
    """Make the files below ``directory`` (removed again), warm them, and count them ``rounds`` times by each way in turn.

    Returns per way ``seconds_median``, ``seconds_min``, ``resident_pages``; for the tools ``times_slower``, by the medians. A tool's time
    holds its start, as its users pay it. Raises BenchError when a tool is missing or the files do not stay in memory, OSError.
    """
    missing = [tool for tool in TOOLS if shutil.which(tool) is None]
    if missing:
        raise BenchError(f"{', '.join(missing)}: not installed: install the packages vmtouch and util-linux-extra")
    top = directory / "onecopy-bench"
    try:
        _make(top, case)
        # Written pages stay in the cache, but for a few that the kernel reclaims on the way.
        page_cache.bring([str(top)], "resident")
        return _compare(case, top, rounds)
    except page_cache.PageCacheError as error:
        raise BenchError(str(error)) from error
    finally:
        shutil.rmtree(top, ignore_errors=True)


def is_fast(result: Mapping[str, Any]) -> bool:
    """Whether both tools took at least WANTED_FACTOR times as long, with the same answer."""
    return bool(result["is_same_answer"]) and all(
        result["ways"][tool]["times_slower"] >= WANTED_FACTOR for tool in TOOLS
    )


def describe(result: Mapping[str, Any]) -> list[str]:
    """Lines for a person."""
    lines = [f"{result['case']}, {result['rounds']} rounds, {result['method']}"]
    for name, way in result["ways"].items():
        slower = f"  {way['times_slower']:.2f} times as long" if "times_slower" in way else ""
        lines.append(
            f"  {name:<16} {way['seconds_median'] * 1000:9.3f} ms median {way['seconds_min'] * 1000:9.3f} ms best{slower}"
        )
    return [*lines, "  same answer" if result["is_same_answer"] else "  THE ANSWERS DIFFER"]


def vmtouch_pages(output: str) -> int:
    """Resident pages, from vmtouch's ``Resident Pages: 262144/262144  1G/1G  100%``."""
    found = re.search(r"Resident Pages: (\d+)/", output)
    if found is None:
        raise BenchError(f"vmtouch said nothing of resident pages: {output.strip()[-200:]}")
    return int(found.group(1))


def fincore_pages(output: str) -> int:
    """Resident pages of all files, from fincore's JSON."""
    return sum(int(file["pages"]) for file in json.loads(output)["fincore"])


def _compare(case: Case, top: Path, rounds: int) -> dict[str, Any]:
    paths = list(cachestat.walk_files(str(top)))
    ways: dict[str, Callable[[], int]] = {
        "page_cache_info": lambda: page_cache.count([str(top)]).resident_pages,
        "vmtouch": lambda: vmtouch_pages(_output(["vmtouch", "-f", str(top)])),
        "fincore": lambda: sum(
            fincore_pages(_output(["fincore", "--json", "--bytes", *paths[start : start + _ARGUMENTS]]))
            for start in range(0, len(paths), _ARGUMENTS)
        ),
    }
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    pages: dict[str, set[int]] = {name: set() for name in ways}
    for _ in range(rounds):
        for name, way in ways.items():
            started = time.perf_counter()
            answer = way()
            seconds[name].append(time.perf_counter() - started)
            pages[name].add(answer)
    result: dict[str, Any] = {
        name: {
            "seconds_median": statistics.median(seconds[name]),
            "seconds_min": min(seconds[name]),
            "resident_pages": sorted(pages[name]),
        }
        for name in ways
    }
    for tool in TOOLS:
        result[tool]["times_slower"] = result[tool]["seconds_median"] / result["page_cache_info"]["seconds_median"]
    return {
        "case": case.name,
        "rounds": rounds,
        "method": cachestat.method(),
        "is_same_answer": len(set.union(*pages.values())) == 1,
        "ways": result,
    }


def _make(top: Path, case: Case) -> None:
    """Files with data (a hole has no pages), written out, so that all pages are clean and resident."""
    shutil.rmtree(top, ignore_errors=True)
    block = os.urandom(_CHUNK)
    for number in range(case.files):
        path = top / f"{number // 100:03}" / f"file-{number:05}"
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(path, "wb") as file:
            for offset in range(0, case.bytes_each, _CHUNK):
                file.write(block[: min(_CHUNK, case.bytes_each - offset)])
    fd = os.open(top, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
    for path_name in cachestat.walk_files(str(top)):
        fd = os.open(path_name, os.O_RDONLY)
        try:
            os.fsync(fd)
            cachestat.prefetch(fd)
        finally:
            os.close(fd)


def _output(argv: list[str]) -> str:
    answer = subprocess.run(argv, capture_output=True, text=True, check=False)
    if answer.returncode:
        raise BenchError(f"{argv[0]}: rc {answer.returncode}: {answer.stderr.strip()[-300:]}")
    return answer.stdout
