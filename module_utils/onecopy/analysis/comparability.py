"""May two runs be compared? Only when nothing but what is under test differs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

# What must be equal, by its place in the manifest (with the run's plan in it): of the run, and of every host.
_MUST_AGREE = {
    "accelerator": "accelerator",
    "data set": "plan.dataset",
    "guest": "plan.guest",
    "kit revision": "controller.git_revision",
    "uncommitted changes": "controller.git_dirty",
}
_HOST_MUST_AGREE = {
    "CPU": "cpu_model",
    "kernel": "kernel",
    "QEMU": "versions.qemu",
    "guest image": "guest.root_sha256",
    "guest kernel": "guest.kernel",
}


class NotComparableError(Exception):
    """Two runs differ in what must agree; the text is one line that names all of it and the cure."""


@dataclass(frozen=True, slots=True)
class Difference:
    """One thing that must agree and does not; ``None`` when a run does not say."""

    what: str
    first: str | None
    second: str | None

    def __str__(self) -> str:
        return f"{self.what}: {self.first or 'not recorded'} against {self.second or 'not recorded'}"


def differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> list[Difference]:
    """Everything that keeps the runs of two manifests from being compared; a manifest may hold the run's ``plan``.

    What neither of them records is no difference.
    """
    found = [
        Difference(what, *values)
        for what, path in _MUST_AGREE.items()
        if len(set(values := (_value(first, path), _value(second, path)))) > 1
    ]
    return found + list(_host_differences(first, second))


def require_comparable(first: Mapping[str, Any], second: Mapping[str, Any], *, anyway: bool = False) -> list[str]:
    """Warnings to print on top of a comparison; none when the runs are comparable.

    Raises NotComparableError for runs that are not, unless the user wants the comparison ``anyway``.
    """
    found = [str(difference) for difference in differences(first, second)]
    if found and not anyway:
        raise NotComparableError(
            f"the runs are not comparable: {'; '.join(found)}: repeat one of them, or compare them --anyway"
        )
    return [f"not comparable, compared all the same: {text}" for text in found]


def _host_differences(first: Mapping[str, Any], second: Mapping[str, Any]) -> Iterator[Difference]:
    """Runs of one host each are compared whatever the hosts are called; otherwise host by host."""
    hosts, others = first.get("hosts", {}), second.get("hosts", {})
    if len(hosts) == len(others) == 1:
        pairs = [("", next(iter(hosts.values())), next(iter(others.values())))]
    else:
        names = sorted({*hosts, *others})
        pairs = [(f" of {name}", hosts.get(name, {}), others.get(name, {})) for name in names]
    for suffix, one, other in pairs:
        for what, path in _HOST_MUST_AGREE.items():
            values = _value(one, path), _value(other, path)
            if values[0] != values[1]:
                yield Difference(what + suffix, *values)


def _value(document: Mapping[str, Any], path: str) -> str | None:
    value: Any = document
    for step in path.split("."):
        value = value.get(step) if isinstance(value, Mapping) else None
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {item}" for name, item in value.items())
    return None if value is None else str(value)
