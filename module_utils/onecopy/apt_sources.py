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


def read_sources(etc_apt: Path = Path("/etc/apt")) -> list[Source]:
    """Return every enabled source below ``etc_apt``, in apt's order of reading."""
    found: list[Source] = []
    for path in (etc_apt / "sources.list", *sorted((etc_apt / "sources.list.d").glob("*"))):
        if path.suffix in {".list", ".sources"} and path.is_file():
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
