"""Which mirrors a machine's own apt uses: read from its sources, both formats."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Source:
    """One address of one enabled ``deb`` entry, with everything it serves."""

    uri: str
    suites: tuple[str, ...]
    components: tuple[str, ...]


def parse_one_line(text: str) -> Iterator[Source]:
    """Yield the sources of a ``.list`` file: ``deb [options] URI SUITE COMPONENT…``."""
    for line in text.splitlines():
        words = line.partition("#")[0].split()
        if not words or words[0] != "deb":
            continue
        words = words[1:]
        if words and words[0].startswith("["):
            end = next((i for i, word in enumerate(words) if word.endswith("]")), len(words))
            words = words[end + 1 :]
        if len(words) >= 2:
            yield Source(words[0], (words[1],), tuple(words[2:]))


def parse_deb822(text: str) -> Iterator[Source]:
    """Yield the sources of a ``.sources`` file: stanzas of ``Key: value`` with continuation lines."""
    for stanza in _stanzas(text):
        if "deb" not in stanza.get("types", "").split() or stanza.get("enabled", "yes").lower() in {"no", "false", "0"}:
            continue
        for uri in stanza.get("uris", "").split():
            yield Source(uri, tuple(stanza.get("suites", "").split()), tuple(stanza.get("components", "").split()))


def _stanzas(text: str) -> Iterator[dict[str, str]]:
    stanza: dict[str, str] = {}
    key = ""
    for line in [*text.splitlines(), ""]:
        if line.startswith("#"):
            continue
        if not line.strip():
            if stanza:
                yield stanza
            stanza, key = {}, ""
        elif line[0].isspace():
            stanza[key] = f"{stanza.get(key, '')} {line.strip()}"
        else:
            name, _, value = line.partition(":")
            key = name.strip().lower()
            stanza[key] = value.strip()


def read_sources(etc_apt: Path = Path("/etc/apt"), exclude: Iterable[str] = ()) -> list[Source]:
    """Return every enabled source below ``etc_apt`` but those in the files named by ``exclude``, in apt's order of reading."""
    passed_over = {etc_apt / name for name in exclude}
    found: list[Source] = []
    for path in (etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*"))):
        if path.suffix in {".list", ".sources"} and path.is_file() and path not in passed_over:
            parse = parse_one_line if path.suffix == ".list" else parse_deb822
            found.extend(parse(path.read_text(encoding="utf-8", errors="replace")))
    return found


def mirror_of(sources: Iterable[Source], suite: str) -> str | None:
    """Return the address that serves ``main`` of ``suite``, or None."""
    return next((s.uri for s in sources if suite in s.suites and "main" in s.components), None)


def sources_list(suite: str, mirror: str | None, security_mirror: str | None, keyring: str) -> list[str]:
    """Return one-line entries for a Debian ``suite``; none without a mirror, so that the tool's own default holds."""
    if mirror is None:
        return []
    option = f"[signed-by={keyring}] " if keyring else ""
    lines = [f"deb {option}{mirror} {suite} main", f"deb {option}{mirror} {suite}-updates main"]
    if security_mirror is not None:
        lines.append(f"deb {option}{security_mirror} {suite}-security main")
    return lines


def os_release(text: str) -> dict[str, str]:
    """Parse ``/etc/os-release``."""
    pairs = (line.partition("=") for line in text.splitlines() if "=" in line and not line.startswith("#"))
    return {key.strip(): value.strip().strip("\"'") for key, _, value in pairs}


def debian_mirrors(release: dict[str, str], sources: Iterable[Source]) -> tuple[str | None, str | None]:
    """Return the (archive, security) mirrors that a Debian machine uses for its own release; none for other systems."""
    if release.get("ID") != "debian":
        return None, None
    codename = release.get("VERSION_CODENAME", "")
    known = list(sources)
    return mirror_of(known, codename), mirror_of(known, f"{codename}-security")


@dataclass(frozen=True, slots=True)
class Suite:
    """One more suite of a Debian's own mirror, from which ``source_packages`` (and nothing else by itself) are taken."""

    name: str
    source_packages: tuple[str, ...]

    def pin(self) -> str:
        """Return the preferences: a suite such as backports is otherwise never chosen."""
        packages = " ".join(f"src:{name}" for name in self.source_packages)
        return f"Package: {packages}\nPin: release n={self.name}\nPin-Priority: 500\n"


def suite_files(
    suite: Suite, sources: Iterable[Source], release: dict[str, str], mirror: str, keyring: str
) -> dict[str, str]:
    """Return the files below ``/etc/apt`` that make ``suite`` available: its pin, and an entry where none of ``sources`` serves it.

    Raises ValueError when no mirror is known.
    """
    known = list(sources)
    files = {"preferences.d/onecopy": suite.pin()}
    if mirror_of(known, suite.name) is None:
        uri = mirror or debian_mirrors(release, known)[0]
        if uri is None:
            raise ValueError(f"no mirror for {suite.name}: this host's apt sources name none for its own release")
        files["sources.list.d/onecopy.list"] = f"deb [signed-by={keyring}] {uri} {suite.name} main\n"
    return files


def write_files(
    directory: Path, names: Iterable[str], wanted: dict[str, str], *, check_mode: bool = False
) -> list[str]:
    """Bring the files ``names`` below ``directory`` to ``wanted``; those it does not have are removed. Return what changed."""
    changed = []
    for name in names:
        path = directory / name
        found = path.read_text(encoding="utf-8") if path.exists() else None
        if found == wanted.get(name):
            continue
        changed.append(str(path))
        if check_mode:
            continue
        if name in wanted:
            path.write_text(wanted[name], encoding="utf-8")
        else:
            path.unlink()
    return changed
