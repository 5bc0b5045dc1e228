"""Rebuild what a run found from its raw records alone, offline, and compare it with what was stored."""

from __future__ import annotations

import json
from typing import Any

import yaml

from . import claims
from .stored_run import Run
from .summary import dump, summarise


def rebuilt_summary(run: Run, text: bytes) -> bytes:
    """The bytes of summary.json that ``run`` gives when it is judged by ``text``, the content of
    experiments/claims.yml.

    Raises ClaimsError.
    """
    try:
        document = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise claims.ClaimsError(f"claims.yml: is not YAML: {' '.join(str(error).split())}") from None
    return dump(summarise(run, claims.check(document, "claims.yml"))).encode()


def first_difference(stored: bytes, rebuilt: bytes) -> str:
    """Where two JSON documents differ first, with both values; empty when the bytes are equal."""
    if stored == rebuilt:
        return ""
    try:
        return _difference(json.loads(stored), json.loads(rebuilt), "") or "only the layout of the text differs"
    except ValueError:
        return "the stored one is not JSON"


def _difference(stored: Any, rebuilt: Any, place: str) -> str:
    if isinstance(stored, dict) and isinstance(rebuilt, dict):
        for key in sorted({*stored, *rebuilt}):
            if key not in stored or key not in rebuilt:
                return f"{place}.{key}: only in the {'rebuilt' if key in rebuilt else 'stored'} one".lstrip(".")
            if found := _difference(stored[key], rebuilt[key], f"{place}.{key}"):
                return found
        return ""
    if isinstance(stored, list) and isinstance(rebuilt, list) and len(stored) == len(rebuilt):
        pairs = enumerate(zip(stored, rebuilt, strict=True))
        return next(
            (found for index, (one, other) in pairs if (found := _difference(one, other, f"{place}[{index}]"))), ""
        )
    return "" if stored == rebuilt else f"{place}: stored {_short(stored)}, rebuilt {_short(rebuilt)}".lstrip(".")


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
