"""The table of workloads: ordinary utilities, each with what it must read, so that one which reads nothing is found out.

A pipeline is a list of argv; standard output of the last goes nowhere. Its words may hold ``$data`` (tree a), ``$twin`` (tree b, equal to
a), ``$scratch`` and ``$large_file`` (the first big file); a word that is exactly ``$sample`` becomes 500 small files, evenly spread.
"""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

Part = Literal["all", "large", "small", "both", "sample", "some", "none"]
SAMPLE_FILES: Final = 500
VARIABLES: Final = ("data", "twin", "scratch", "large_file", "sample")
# Programs also read their libraries, locale and directory of processes; more than this beside the data is a mistake.
SLACK_BYTES: Final = 2 << 20
_RANDOM_READS: Final = 1024
_PAGE: Final = 4096
_NEW_FILES: Final = 500
_NEW_BYTES: Final = 1024


@dataclass(frozen=True, slots=True)
class Reads:
    """What a workload must read: ``part`` of the data set (``both`` trees, the ``sample`` of small files) or ``bytes`` out of that part.

    ``some``: somebody's own command, of which nobody knows what it reads; nothing is asserted then, and what it read is recorded.

    ``least`` and ``most`` bound what its processes read by read(2) and its like, as a factor of those bytes: a byte that goes through a
    pipe is read twice.
    """

    part: Part
    bytes: int | None = None
    least: float = 1.0
    most: float = 1.02

    @property
    def full(self) -> bool:
        """Whether every page of the part is read, so that copies of it can be counted."""
        return self.bytes is None and self.part in ("all", "large", "small", "both")

    @property
    def countable(self) -> bool:
        """Whether copies can be counted: of ``some``, too, since after a cold start only what was read is cached."""
        return self.full or self.part == "some"


@dataclass(frozen=True, slots=True)
class Workload:
    """One pipeline. ``exit_codes`` are the right ones, one per argv (0 where none is given); ``weight`` is its time relative to ``cat``.

    ``writes``: it leaves something in the scratch; ``written_bytes`` are the least that its processes must have written then. ``cwd``: where it runs.
    """

    pipeline: tuple[tuple[str, ...], ...]
    reads: Reads
    writes: bool = False
    exit_codes: tuple[int, ...] = ()
    weight: float = 1.0
    written_bytes: int = 0
    cwd: str = "/"

    def as_dict(self) -> dict[str, Any]:
        """The form that goes into a plan, where it needs no table any more."""
        plain = asdict(self) | {"pipeline": [list(argv) for argv in self.pipeline], "exit_codes": list(self.exit_codes)}
        return {key: value for key, value in plain.items() if key != "cwd" or value != "/"}


def _each_file(tree: str, *argv: str) -> tuple[str, ...]:
    # find hands over all files at once; a shell and its globs would stop at ARG_MAX and sort.
    return ("find", tree, "-type", "f", "-exec", *argv, "{}", "+")


_RANDOM_READ: Final = (
    "srand(shift); my $$n = shift; open(my $$f, '<:raw', shift) or die $$!; my $$pages = int((-s $$f) / 4096);"
    " for (1 .. $$n) { sysseek($$f, 4096 * int(rand($$pages)), 0); sysread($$f, my $$page, 4096) == 4096 or die $$! }"
)

_MMAP_READ: Final = (
    "import mmap, os, sys\n"
    "for path in sys.argv[1:]:\n"
    "    fd = os.open(path, os.O_RDONLY)\n"
    "    pages = memoryview(mmap.mmap(fd, 0, mmap.MAP_PRIVATE, mmap.PROT_READ))\n"
    "    for at in range(0, len(pages), 1 << 20): os.write(1, pages[at:at + (1 << 20)])\n"
    "    os.close(fd)\n"
)
_CREATE_FILES: Final = (
    "my ($$top, $$n) = @ARGV; mkdir($$top) or die $$!;"
    f" for (1 .. $$n) {{ open(my $$f, '>', qq($$top/$$_)) or die $$!; print $$f 'x' x {_NEW_BYTES}; close($$f) or die $$! }}"
)

WORKLOADS: Final[dict[str, Workload]] = {
    "cat": Workload((_each_file("$data", "cat"),), Reads("all")),
    "cp": Workload((("cp", "-r", "$data", "$scratch/copy"),), Reads("all"), writes=True, weight=2.0),
    "large_files": Workload((_each_file("$data/large", "cat"),), Reads("large")),
    # A pattern that never occurs: at a hit, grep with its output on /dev/null stops reading.
    "grep": Workload(
        (("grep", "-r", "-F", "No line of the data set says THIS", "$data"),), Reads("all"), exit_codes=(1,)
    ),
    "find": Workload((("find", "$data", "-type", "f", "-size", "+0"),), Reads("none"), weight=0.3),
    # Written to /dev/null, GNU tar would skip the reading; cat reads all of it again, from the pipe, with tar's own headers.
    "tar": Workload((("tar", "cf", "-", "-C", "$data", "."), ("cat",)), Reads("all", least=2.0, most=2.2), weight=1.6),
    "sha256sum": Workload((_each_file("$data", "sha256sum"),), Reads("all")),
    "wc": Workload((_each_file("$data", "wc", "-l"),), Reads("all"), weight=0.7),
    "du": Workload((("du", "-s", "$data"),), Reads("none"), weight=0.3),
    "diff": Workload((("diff", "-r", "$data", "$twin"),), Reads("both", most=1.1), weight=1.2),
    "gzip": Workload((_each_file("$data", "gzip", "-c"),), Reads("all"), weight=6.0),
    "small_files": Workload((("cat", "$sample"),), Reads("sample", most=1.05)),
    # perl starts in a tenth of Python's time, and both seed the same everywhere.
    "random_read": Workload(
        (("perl", "-e", _RANDOM_READ, "2011", str(_RANDOM_READS), "$large_file"),),
        Reads("large", bytes=_RANDOM_READS * _PAGE),
        weight=2.0,
    ),
    # Mapped, and from there into a pipe: cat counts what came out of page faults. A private mapping is one that every path allows.
    "mmap_read": Workload(
        (_each_file("$data/large", "python3", "-SEc", _MMAP_READ), ("cat",)), Reads("large"), weight=2.0
    ),
    "ls_recursive": Workload((("ls", "-lR", "$data"),), Reads("none"), weight=0.4),
    "write_fsync": Workload(
        (("dd", "if=/dev/zero", "of=$scratch/written", "bs=65536", "count=64", "conv=fsync", "status=none"),),
        Reads("none", bytes=4 << 20),
        writes=True,
        written_bytes=4 << 20,
    ),
    # A journal: every record is on the disk before the next is written.
    "append_fsync": Workload(
        (("dd", "if=/dev/zero", "of=$scratch/journal", "bs=4096", "count=64", "oflag=dsync", "status=none"),),
        Reads("none", bytes=64 * _PAGE),
        writes=True,
        written_bytes=64 * _PAGE,
    ),
    "create_files": Workload(
        (("perl", "-e", _CREATE_FILES, "$scratch/new", str(_NEW_FILES)),),
        Reads("none"),
        writes=True,
        written_bytes=_NEW_FILES * _NEW_BYTES,
    ),
}


@dataclass(frozen=True, slots=True)
class Places:
    """Where a boot sees the data, and which files stand for the variables."""

    data: str
    twin: str
    scratch: str
    large_file: str
    sample: Sequence[str] = field(default_factory=tuple)


def parse(name: str, definition: Mapping[str, Any]) -> Workload:
    """A workload from an experiment's (schema-checked) definition; ValueError says what is wrong with it."""
    reads = definition["reads"]
    least = float(reads.get("least", 1.0))
    most = float(reads.get("most", least + 0.02))
    if most < least:
        raise ValueError(f"workloads.{name}.reads: most {most:g} is below least {least:g}")
    if reads["part"] == "none" and "least" in reads:
        raise ValueError(f"workloads.{name}.reads: part none reads nothing, so least means nothing")
    pipeline = tuple(tuple(argv) for argv in definition["pipeline"])
    exit_codes = tuple(definition.get("exit_codes", ()))
    if exit_codes and len(exit_codes) != len(pipeline):
        raise ValueError(f"workloads.{name}.exit_codes: {len(exit_codes)} given for {len(pipeline)} programs: one each")
    cwd = definition.get("cwd", "/")
    words = [(f"pipeline[{position}]", word) for position, argv in enumerate(pipeline) for word in argv]
    for place, word in [*words, ("cwd", cwd)]:
        try:
            template = string.Template(word)
            known = template.is_valid() and set(template.get_identifiers()) <= set(VARIABLES)
        except ValueError:
            known = False
        if not known:
            raise ValueError(
                f"workloads.{name}.{place}: {word!r} has an unknown variable: known: "
                f"{', '.join('$' + known_name for known_name in VARIABLES)}; write $$ for a dollar sign"
            )
    bounds = Reads(reads["part"], reads.get("bytes"), least, most)
    return Workload(
        pipeline,
        bounds,
        bool(definition.get("writes", False)),
        exit_codes,
        float(definition.get("weight", 1.0)),
        int(definition.get("written_bytes", 0)),
        cwd,
    )


def from_plan(definition: Mapping[str, Any]) -> Workload:
    """The inverse of Workload.as_dict."""
    return Workload(
        tuple(tuple(argv) for argv in definition["pipeline"]),
        Reads(**definition["reads"]),
        definition["writes"],
        tuple(definition["exit_codes"]),
        definition["weight"],
        definition.get("written_bytes", 0),  # plans of older runs have none
        definition.get("cwd", "/"),
    )


def command_line(workload: Workload, places: Places) -> list[list[str]]:
    """The pipeline with its variables filled in."""
    values = _values(places)
    pipeline = []
    for argv in workload.pipeline:
        words: list[str] = []
        for word in argv:
            words += places.sample if word == "$sample" else [string.Template(word).substitute(values)]
        pipeline.append(words)
    return pipeline


def working_directory(workload: Workload, places: Places) -> str:
    """Where the pipeline runs, its variables filled in."""
    return string.Template(workload.cwd).substitute(_values(places))


def _values(places: Places) -> dict[str, str]:
    return {"data": places.data, "twin": places.twin, "scratch": places.scratch, "large_file": places.large_file}


def bytes_missed(reads: Reads, wanted_bytes: int, read_bytes: int) -> str | None:
    """None when ``read_bytes`` is what reading ``wanted_bytes`` must show; otherwise one line that says how far off it is."""
    if reads.part == "some":
        return None
    least = int(reads.least * wanted_bytes) if reads.part != "none" else 0
    most = int(reads.most * wanted_bytes) + SLACK_BYTES
    if least <= read_bytes <= most:
        return None
    return f"read {read_bytes} bytes where {least} to {most} were expected ({wanted_bytes} bytes of the data set are wanted)"
