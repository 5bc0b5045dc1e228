"""What several KVM hosts can all do: they run one plan at the same time, so that their results can stand in one report."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any


class MixedHostsError(Exception):
    """Hosts that cannot run one plan; one line."""


def common(hosts: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """The capabilities from which the one plan of ``hosts`` (inventory name → capabilities) is made, in the form of a host's own.

    A need is met where every host meets it; the reason begins with the name of the one that does not. ``memory_mib`` is the least, and
    ``memory_host`` says whose; a host alone keeps its document as it is. Raises MixedHostsError where some emulate guests and others do not.
    """
    if len(hosts) == 1:
        return dict(next(iter(hosts.values())))
    _refuse_mixed_accelerators(hosts)
    documents = list(hosts.values())
    found: dict[str, Any] = {"accelerator": documents[0]["accelerator"]}
    memory = {host: document["memory_mib"] for host, document in hosts.items() if "memory_mib" in document}
    if memory:
        found["memory_host"] = min(memory, key=lambda host: memory[host])
        found["memory_mib"] = memory[found["memory_host"]]
    needs = {key for document in documents for key, value in document.items() if isinstance(value, Mapping)}
    return found | {need: _everywhere(hosts, need) for need in sorted(needs)}


def why_lacking(capabilities: Mapping[str, Any], need: str) -> str | None:
    """Why a host with these ``capabilities`` lacks what a system needs, or None."""
    found = capabilities.get(need, {"supported": False, "reason": "the host's probe says nothing about it"})
    return None if found["supported"] else found.get("reason") or "not there"


def _refuse_mixed_accelerators(hosts: Mapping[str, Mapping[str, Any]]) -> None:
    by_accelerator: dict[str, list[str]] = {}
    for host, document in hosts.items():
        by_accelerator.setdefault(str(document["accelerator"]), []).append(host)
    if len(by_accelerator) > 1:
        sides = "; ".join(f"{name} on {', '.join(found)}" for name, found in sorted(by_accelerator.items()))
        raise MixedHostsError(
            f"these hosts cannot run one plan: {sides}: what an emulated guest (tcg) is given to do, and its times, are others; "
            "run each kind on its own with --limit"
        )


def _everywhere(hosts: Mapping[str, Mapping[str, Any]], need: str) -> dict[str, Any]:
    reasons = [f"{host}: {why}" for host, document in hosts.items() if (why := why_lacking(document, need)) is not None]
    return {"supported": not reasons, "reason": "; ".join(reasons)}
