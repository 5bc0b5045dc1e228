"""experiments/claims.yml, checked whole before anything is judged by it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

from ..systems import SYSTEMS
from .metrics import metric

SCHEMA: Final = 1
_CLAIM_KEYS: Final = {"id", "text", "comparisons", "awaits", "means", "contradictory"}
_COMPARISON_KEYS: Final = {"name", "metric", "of", "to", "within", "workloads", "decides", "reaches"}
_SIDE_KEYS: Final = {"system", "host_cache", "guest_cache", "best", "label"}


class ClaimsError(Exception):
    """The claims say something that makes no sense; the text is one line: file, place, what."""


def load(path: Path) -> dict[str, Any]:
    """The claims at ``path``. Raises ClaimsError."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ClaimsError(f"{path}: cannot be read: {' '.join(str(error).split())}") from None
    return check(document, str(path))


def check(document: Any, name: str) -> dict[str, Any]:
    """``document`` itself when every key and name of it is known. Raises ClaimsError."""
    if not isinstance(document, dict) or set(document) != {"schema", "thresholds", "claims"}:
        raise ClaimsError(f"{name}: must hold the keys schema, thresholds and claims")
    if document["schema"] != SCHEMA:
        raise ClaimsError(f"{name}: format version {document['schema']!r}: this kit reads version {SCHEMA}")
    seen: set[str] = set()
    for claim in document["claims"]:
        place = f"{name}: {_name(claim, 'id', 'a claim without id')}"
        _known(place, claim, _CLAIM_KEYS, {"id", "text", "comparisons"})
        if claim["id"] in seen:
            raise ClaimsError(f"{place}: the id is taken")
        seen.add(claim["id"])
        if not claim["comparisons"] and "awaits" not in claim:
            raise ClaimsError(f"{place}: has no comparison and does not say what it awaits")
        for comparison in claim["comparisons"]:
            _check_comparison(f"{place}: {_name(comparison, 'name', 'a comparison without name')}", comparison)
    return document


def _check_comparison(place: str, comparison: dict[str, Any]) -> None:
    _known(place, comparison, _COMPARISON_KEYS, {"name", "metric", "of", "within"})
    try:
        metric(comparison["metric"])
    except ValueError as error:
        raise ClaimsError(f"{place}: {error}") from None
    for side in ("of", "to"):
        if side in comparison:
            _known(f"{place}: {side}", comparison[side], _SIDE_KEYS, {"system"})
            if comparison[side]["system"] not in SYSTEMS:
                raise ClaimsError(f"{place}: {side}: unknown system {comparison[side]['system']!r}")
    bounds = comparison["within"]
    if not isinstance(bounds, list) or len(bounds) != 2 or bounds == [None, None]:
        raise ClaimsError(f"{place}: within must be [at least, at most], of which one may be ~")
    numbers = [bound for bound in bounds if bound is not None]
    measured = metric(comparison["metric"])
    if "to" in comparison and (measured.per_guest or measured.is_spread):
        raise ClaimsError(f"{place}: to: {measured.title} is a level: give of alone")
    if "reaches" in comparison and (
        "to" not in comparison or bounds[0] is not None or not 0 < comparison["reaches"] <= bounds[1]
    ):
        raise ClaimsError(f"{place}: reaches is for a ratio that is at most something, and lies below that")
    if "to" in comparison and min(numbers) <= 0:
        raise ClaimsError(f"{place}: within: a ratio's bounds are above zero")
    if sorted(numbers) != numbers:
        raise ClaimsError(f"{place}: within: at least {numbers[0]} is above at most {numbers[1]}")


def _name(found: Any, key: str, otherwise: str) -> str:
    return str(found.get(key, otherwise)) if isinstance(found, dict) else otherwise


def _known(place: str, found: Any, allowed: set[str], required: set[str]) -> None:
    if not isinstance(found, dict):
        raise ClaimsError(f"{place}: must be a dictionary")
    unknown, missing = sorted(set(found) - allowed), sorted(required - set(found))
    if unknown:
        raise ClaimsError(f"{place}: unknown key {unknown[0]!r}: known: {', '.join(sorted(allowed))}")
    if missing:
        raise ClaimsError(f"{place}: key {missing[0]!r} is missing")
