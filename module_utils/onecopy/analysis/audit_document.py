"""Audits of hosts as a document in the report's style, and as a table for a terminal."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from .document import Block, Cell, Code, Column, Document, Section, Table, Text, Tone, text_row

Audit = Mapping[str, Any]
_MIB = 1 << 20
_NOT_HAD = "n/a"
_LIMITS = {
    "host_cache": "what the host caches",
    "guest_memory": "the guest's backed memory",
    "guest_cache": "the guest's page cache",
}
_FOOTER = "Made by onecopy from one look at running hosts, without touching them or their guests."
_BOUND = (
    "Every figure of duplication is an upper bound: bytes in the host's page cache that a guest's storage path lets it "
    "cache as well, limited by what the guest's memory can hold. What a guest really caches is seen only where balloon "
    "statistics were switched on already."
)


def mebibytes(count: int | None) -> str:
    """``12.3``; n/a where there is no figure."""
    return _NOT_HAD if count is None else f"{count / _MIB:,.1f}"


def measured_effect(summary: Mapping[str, Any] | None, before: str, after: str) -> str | None:
    """``copies 2.00 → 1.00`` as a stored run measured them (all data, guest cold, fewest guests); None where it did
    not.
    """
    if summary is None:
        return None
    found: dict[str, tuple[int, str, float]] = {}
    for entry in summary.get("copies", []):
        if entry["part"] != "all" or entry.get("guest_cache") != "cold" or "copies" not in entry:
            continue
        key = (entry.get("guests", 1), entry.get("host_cache", ""), float(entry["copies"]))
        if entry["system"] not in found or key < found[entry["system"]]:
            found[entry["system"]] = key
    if before not in found or after not in found:
        return None
    return f"copies {found[before][2]:.2f} → {found[after][2]:.2f}, {before} against {after} in run {summary['run_id']}"


def terminal_table(audits: Sequence[Audit]) -> str:
    """One line per guest and per host, in columns; MiB."""
    rows = [("host", "guest", "backed", "images cached", "shares cached", "guest cache", "twice at most", "to try")]
    for audit in audits:
        host = audit["host"]["name"]
        for guest in audit["guests"]:
            rows.append((host, *_guest_line(guest)))
        verdict = audit["verdict"]
        known = [guest["memory"].get("backed_bytes") for guest in audit["guests"]]
        rows.append(
            (
                host,
                f"all {len(audit['guests'])}",
                mebibytes(None if None in known else sum(known)),
                mebibytes(audit["images_host_cached_bytes"]),
                mebibytes(audit["shares_host_cached_bytes"]),
                "",
                mebibytes(verdict["duplicated_at_most_bytes"]) + ("" if verdict["complete"] else " (incomplete)"),
                verdict["short"],
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = []
    for row in rows:
        cells = [
            text.rjust(width) if 2 <= n <= 6 else text.ljust(width)
            for n, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(["MiB; 'twice at most' is an upper bound", *lines])


def document(audits: Sequence[Audit], summary: Mapping[str, Any] | None = None) -> Document:
    """The page: hosts, guests with advice, images, shares, what could not be had. ``summary`` is a run's, for measured
    effects.
    """
    facts = [
        ("hosts", ", ".join(audit["host"]["name"] for audit in audits)),
        ("guests", str(sum(len(audit["guests"]) for audit in audits))),
        ("held twice at most", f"{mebibytes(_total(audits))} MiB"),
    ]
    opening = [Text(_BOUND, "open")]
    if not any(audit["guests"] for audit in audits):
        opening.append(Text("No QEMU runs on these hosts.", "warning"))
    sections = [_hosts(audits), _advice(audits, summary), _images(audits), _shares(audits), _gaps(audits)]
    return Document(
        "onecopy: audit of running hosts",
        "What hosts cache of their guests' storage, and what guests can hold again",
        facts,
        opening,
        [section for section in sections if section.blocks],
        footer=_FOOTER,
    )


def _total(audits: Sequence[Audit]) -> int:
    return sum(audit["verdict"]["duplicated_at_most_bytes"] for audit in audits)


def _guest_line(guest: Mapping[str, Any]) -> tuple[str, ...]:
    verdict = guest["verdict"]
    shares = {share["directory"]: share.get("host_cached_bytes") for share in guest["shares"] if "directory" in share}
    subject = f": {verdict['subject'].rpartition('/')[2]}" if "subject" in verdict else ""
    return (
        guest["name"],
        mebibytes(guest["memory"].get("backed_bytes")),
        mebibytes(_sum(image.get("host_cached_bytes") for image in guest["images"])) if guest["images"] else "-",
        mebibytes(_sum(shares.values())) if guest["shares"] else "-",
        mebibytes(guest["guest_cache"].get("bytes")),
        mebibytes(verdict["duplicated_at_most_bytes"]) + ("" if verdict["complete"] else " (incomplete)"),
        verdict["short"] + subject,
    )


def _sum(values: Any) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def _advice_text(verdict: Mapping[str, Any]) -> str:
    subject = f" [{verdict['subject']}]" if "subject" in verdict else ""
    return f"{verdict['try_this']}{subject}"


def _host_advice(verdict: Mapping[str, Any]) -> str:
    if verdict["setting"] == "none":
        return f"nothing: {verdict['reason']}"
    return f"{verdict['try_this']}; ends at most {mebibytes(verdict['saves_at_most_bytes'])} MiB"


def _hosts(audits: Sequence[Audit]) -> Section:
    right = ("guests", "memory", "images cached", "shares cached", "held twice at most")
    columns = [
        Column("host"),
        *(Column(name, "" if name == "guests" else "MiB", "right") for name in right),
        Column("KSM"),
        Column("THP"),
        Column("to try"),
    ]
    rows = []
    blocks: list[Block] = []
    for audit in audits:
        host, verdict = audit["host"], audit["verdict"]
        ksm = host["ksm"]
        state = (
            "absent"
            if not ksm
            else f"{'runs' if ksm.get('run') == 1 else 'off'}, {ksm.get('pages_sharing', 0):,} pages merged"
        )
        rows.append(
            text_row(
                host["name"],
                str(len(audit["guests"])),
                mebibytes(host["memory"].get("total_bytes")),
                mebibytes(audit["images_host_cached_bytes"]),
                mebibytes(audit["shares_host_cached_bytes"]),
                mebibytes(verdict["duplicated_at_most_bytes"]),
                state,
                ", ".join(f"{name} {value}" for name, value in host["thp"].items() if name != "defrag") or "absent",
                _host_advice(verdict),
            )
        )
        blocks += [Text(f"{host['name']}: {note}.", "warning") for note in verdict["notes"]]
    return Section("hosts", "Hosts", [Table(columns, rows), *blocks])


def _advice(audits: Sequence[Audit], summary: Mapping[str, Any] | None) -> Section:
    columns = [
        Column("host"),
        Column("guest"),
        Column("backed", "MiB", "right"),
        Column("guest cache", "MiB", "right"),
        Column("held twice at most", "MiB", "right"),
        Column("limited by"),
        Column("to try"),
        Column("because"),
        Column("gives up"),
        Column("measured effect"),
    ]
    rows = []
    for audit in audits:
        for guest in audit["guests"]:
            verdict = guest["verdict"]
            tone: Tone = "plain" if verdict["setting"] == "none" else "open"
            effect = measured_effect(summary, *verdict["evidence"]) if "evidence" in verdict else None
            rows.append(
                [
                    *text_row(audit["host"]["name"], guest["name"], mebibytes(guest["memory"].get("backed_bytes"))),
                    *text_row(mebibytes(guest["guest_cache"].get("bytes"))),
                    Cell(mebibytes(verdict["duplicated_at_most_bytes"]), tone),
                    *text_row(_LIMITS[verdict["limited_by"]], _advice_text(verdict), verdict["reason"]),
                    *text_row(
                        verdict["gives_up"], effect or ("not measured in a stored run" if "evidence" in verdict else "")
                    ),
                ]
            )
    return Section("guests", "Guests, and what to try", [Table(columns, rows)] if rows else [])


def _images(audits: Sequence[Audit]) -> Section:
    columns = [
        Column("host"),
        Column("guest"),
        Column("image"),
        Column("role"),
        Column("cache mode"),
        Column("guests", "", "right"),
        Column("size", "MiB", "right"),
        Column("host-cached", "MiB", "right"),
        Column("remark"),
    ]
    rows = [
        text_row(
            audit["host"]["name"],
            guest["name"],
            image["path"],
            image["role"] + (", read-only" if image["read_only"] else ""),
            image["cache"] + (" (O_DIRECT)" if image["direct"] else ""),
            str(image.get("guests", "")),
            mebibytes(image.get("size_bytes")),
            mebibytes(image.get("host_cached_bytes")),
            image.get("why_not", ""),
        )
        for audit in audits
        for guest in audit["guests"]
        for image in guest["images"]
    ]
    return Section("images", "Images", [Table(columns, rows)] if rows else [])


def _shares(audits: Sequence[Audit]) -> Section:
    columns = [
        Column("host"),
        Column("guest"),
        Column("directory"),
        Column("daemon"),
        Column("cache mode"),
        Column("DAX mapped", "MiB", "right"),
        Column("host-cached", "MiB", "right"),
        Column("of files the guest knows", "MiB", "right"),
        Column("remark"),
    ]
    rows = []
    for audit in audits:
        for guest in audit["guests"]:
            for share in guest["shares"]:
                tree, held = share.get("tree", {}), share.get("known_to_guest", {})
                left = tree.get("names_not_cached", 0)
                remarks = [share.get("why_not", ""), tree.get("why_incomplete", ""), held.get("why_incomplete", "")]
                remarks += [f"{left} names left alone: the host had not cached them"] if left else []
                rows.append(
                    text_row(
                        audit["host"]["name"],
                        guest["name"],
                        share.get("directory", share.get("socket", "")),
                        share.get("daemon", "not found"),
                        share.get("cache", ""),
                        mebibytes(share.get("dax_mapped_bytes")) if "dax_window" in share else "no window",
                        mebibytes(share.get("host_cached_bytes")),
                        mebibytes(held.get("host_cached_bytes")),
                        "; ".join(remark for remark in remarks if remark),
                    )
                )
    return Section("shares", "Shares", [Table(columns, rows)] if rows else [])


def _gaps(audits: Sequence[Audit]) -> Section:
    lines = []
    for audit in audits:
        name = audit["host"]["name"]
        lines += [f"{name}: {remark}" for remark in audit["remarks"]]
        for guest in audit["guests"]:
            lines += [f"{name}, {guest['name']}: {remark}" for remark in guest["remarks"]]
            if "why_not" in guest["guest_cache"]:
                lines.append(f"{name}, {guest['name']}: guest cache: {guest['guest_cache']['why_not']}")
        for daemon in audit["daemons_without_guest"]:
            lines.append(f"{name}: {daemon['daemon']} {daemon['pid']} serves {daemon['directory']} to no running QEMU")
    return Section("gaps", "What could not be had, and why", [Code("All remarks", lines)] if lines else [])
