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
_NO_EFFECT = "not measured by this kit's examples"
_TERMINAL_COLUMNS = (
    *("host", "guest", "manager", "memory", "reports free", "backed", "KSM-merged"),
    *("images cached", "shares cached", "guest cache", "twice at most", "to try"),
)
_FOOTER = "Made by onecopy from one look at running hosts, without touching them or their guests."
_BOUND = (
    "Every figure of duplication is an upper bound: bytes in the host's page cache that a guest's storage path lets it "
    "cache as well, limited by what the guest's memory can hold. What a guest really caches is seen only where balloon "
    "statistics were switched on already."
)


def mebibytes(count: int | None) -> str:
    """``12.3``; n/a where there is no figure."""
    return _NOT_HAD if count is None else f"{count / _MIB:,.1f}"


def measured_effect(summaries: Sequence[Mapping[str, Any]], before: str, after: str) -> str | None:
    """``copies 2.00 → 1.00`` as the first stored run that has both labels measured them; None where none has.

    Copies are those of one read (all data, guest cold, fewest guests), or what one guest more adds, in frames.
    """
    for summary in summaries:
        for what, found in (("copies", _copies(summary)), ("copies per further guest", _copies_per_guest(summary))):
            if before in found and after in found:
                run = f"run {summary['run_id']}"
                return f"{what} {found[before]:.2f} → {found[after]:.2f}, {before} against {after} in {run}"
    return None


def _copies(summary: Mapping[str, Any]) -> dict[str, float]:
    found: dict[str, tuple[int, str, float]] = {}
    for entry in summary.get("copies", []):
        if entry["part"] != "all" or entry.get("guest_cache") != "cold" or "copies" not in entry:
            continue
        key = (entry.get("guests", 1), entry.get("host_cache", ""), float(entry["copies"]))
        found[entry["label"]] = min(key, found.get(entry["label"], key))
    return {label: key[2] for label, key in found.items()}


def _copies_per_guest(summary: Mapping[str, Any]) -> dict[str, float]:
    return {
        entry["label"]: float(entry["per_guest"])
        for entry in summary.get("density", [])
        if entry["metric"] == "physical_copies_ratio"
    }


def terminal_table(audits: Sequence[Audit]) -> str:
    """One line per guest and per host, in columns; MiB."""
    rows = [_TERMINAL_COLUMNS]
    for audit in audits:
        host = audit["host"]["name"]
        for guest in audit["guests"]:
            rows.append((host, *_guest_line(guest)))
        verdict = audit["verdict"]
        rows.append(
            (
                host,
                f"all {len(audit['guests'])}",
                *("", "", ""),
                mebibytes(_of_all(audit["guests"], "backed_bytes")),
                mebibytes(_of_all(audit["guests"], "ksm_merged_bytes")),
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
            text.rjust(width) if 5 <= n <= 10 else text.ljust(width)
            for n, (text, width) in enumerate(zip(row, widths, strict=True))
        ]
        lines.append("  ".join(cells).rstrip())
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(["MiB; 'twice at most' is an upper bound", *lines])


def document(audits: Sequence[Audit], summaries: Sequence[Mapping[str, Any]] = ()) -> Document:
    """The page: hosts, guests with advice, their memory, images, shares, what could not be had. ``summaries`` are runs', for measured effects."""
    facts = [
        ("hosts", ", ".join(audit["host"]["name"] for audit in audits)),
        ("guests", str(sum(len(audit["guests"]) for audit in audits))),
        ("held twice at most", f"{mebibytes(_total(audits))} MiB"),
    ]
    opening = [Text(_BOUND, "open")]
    if not any(audit["guests"] for audit in audits):
        opening.append(Text("No QEMU runs on these hosts.", "warning"))
    sections = [_hosts(audits), _advice(audits, summaries), _memory(audits)]
    sections += [_images(audits), _shares(audits), _gaps(audits)]
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
        guest["manager"],
        _sharing(guest),
        _reporting(guest),
        mebibytes(guest["memory"].get("backed_bytes")),
        mebibytes(guest["memory"].get("ksm_merged_bytes")),
        mebibytes(_sum(image.get("host_cached_bytes") for image in guest["images"])) if guest["images"] else "-",
        mebibytes(_sum(shares.values())) if guest["shares"] else "-",
        mebibytes(guest["guest_cache"].get("bytes")),
        mebibytes(verdict["duplicated_at_most_bytes"]) + ("" if verdict["complete"] else " (incomplete)"),
        verdict["short"] + subject,
    )


def _sharing(guest: Mapping[str, Any]) -> str:
    shared = guest["memory"].get("shared")
    return _NOT_HAD if shared is None else "shared" if shared else "private"


def _reporting(guest: Mapping[str, Any]) -> str:
    if not guest["balloon"]["present"]:
        return "no balloon"
    return "yes" if guest["balloon"]["free_page_reporting"] else "no"


def _of_all(guests: Sequence[Mapping[str, Any]], name: str) -> int | None:
    """A figure of their memory; None where one guest lacks it."""
    values = [guest["memory"].get(name) for guest in guests]
    return None if None in values else sum(values)


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


def _advice(audits: Sequence[Audit], summaries: Sequence[Mapping[str, Any]]) -> Section:
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
            effect = measured_effect(summaries, *verdict["evidence"]) if "evidence" in verdict else None
            if verdict["setting"] != "none":
                effect = effect or _NO_EFFECT
            rows.append(
                [
                    *text_row(audit["host"]["name"], guest["name"], mebibytes(guest["memory"].get("backed_bytes"))),
                    *text_row(mebibytes(guest["guest_cache"].get("bytes"))),
                    Cell(mebibytes(verdict["duplicated_at_most_bytes"]), tone),
                    *text_row(_LIMITS[verdict["limited_by"]], _advice_text(verdict), verdict["reason"]),
                    *text_row(verdict["gives_up"], effect or ""),
                ]
            )
    return Section("guests", "Guests, and what to try", [Table(columns, rows)] if rows else [])


def _memory(audits: Sequence[Audit]) -> Section:
    columns = [
        *(Column(name) for name in ("host", "guest", "manager", "accelerator")),
        *(Column(name, "MiB", "right") for name in ("memory", "backed", "merged by KSM")),
        *(Column(name) for name in ("sharing", "backends", "free page reporting")),
    ]
    rows = [
        text_row(
            audit["host"]["name"],
            guest["name"],
            guest["manager"],
            guest["accelerator"],
            *(mebibytes(guest["memory"].get(f"{name}_bytes")) for name in ("total", "backed", "ksm_merged")),
            _sharing(guest),
            ", ".join(guest["memory"].get("backends", [])),
            _reporting(guest),
        )
        for audit in audits
        for guest in audit["guests"]
    ]
    return Section("memory", "Guests' memory", [Table(columns, rows)] if rows else [])


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
