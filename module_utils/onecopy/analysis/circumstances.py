"""Sections of the report that say under which circumstances it was found: gaps, plan, environment, method."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from ..progress import repeats
from ..systems import SYSTEMS
from .accounting import open_ledgers
from .document import Block, Cell, Code, Column, Section, Table, Text, text_row
from .stored_run import Run

Row = Mapping[str, Any]
_STATE_COLUMNS = [
    Column("system"),
    Column("host cache"),
    Column("guest cache"),
    Column("trials", align="right"),
    Column("reason"),
]


def gaps_section(run: Run, summary: Row) -> Section:
    """Everything that a reader might miss.

    States that cannot be, systems that cannot run here, trials that went wrong.
    """
    trials = summary["trials"]
    blocks: list[Block] = [
        Text(
            f"Of {trials['planned']} planned trials {trials['ok']} are ok, {trials['invalid']} invalid, "
            f"{trials['failed']} failed, {trials['timeout']} timed out and {trials['pending']} have no record. "
            f"{_needless(trials)}"
            "Only ok trials count; none of them was left out."
        )
    ]
    if run.plan["unsupported"]:
        rows = [
            text_row(entry["label"], "", "", str(entry["trials"]), entry["reason"]) for entry in run.plan["unsupported"]
        ]
        blocks.append(Table(_STATE_COLUMNS, rows, "Systems that this host cannot run"))
    if run.plan["excluded"]:
        rows = [
            text_row(_what(entry), entry["host_cache"], entry["guest_cache"], str(entry["trials"]), entry["reason"])
            for entry in run.plan["excluded"]
        ]
        blocks.append(Table(_STATE_COLUMNS, rows, "States and probes that a system cannot have", folded=True))
    bad = [record for record in run.records if record["status"] != "ok"]
    if bad:
        columns = [Column(title) for title in ("trial", "boot", "workload", "state", "status", "reason", "message")]
        rows = [
            [
                *text_row(record["id"], record["block"], f"{record['workload']} ({record['kind']})"),
                *text_row(f"host {record['host_cache']}, guest {record['guest_cache']}"),
                Cell(record["status"], "bad"),
                *text_row(record["reason"], record["message"]),
            ]
            for record in bad
        ]
        blocks.append(Table(columns, rows, "Trials that are not ok"))
        blocks += [
            Code(f"Last lines of the console, trial {record['id']} ({record['block']})", record["console"])
            for record in bad
            if record.get("console")
        ]
    outliers = [
        (row["label"], row["workload"], row["host_cache"], ", ".join(row["outliers"]))
        for row in summary["timings"]
        if "outliers" in row
    ]
    if outliers:
        columns = [Column(title) for title in ("system", "workload", "host cache", "trials")]
        blocks.append(
            Table(
                columns,
                [text_row(*row) for row in outliers],
                "Outliers: flagged, and kept in every figure",
                folded=True,
            )
        )
    blocks += open_ledgers(run, summary)
    blocks.append(Text(_other_gaps(run)))
    return Section("gaps", "What was not measured", blocks)


def plan_section(run: Run, summary: Row) -> Section:
    """What was planned and what it ran on."""
    plan = run.plan
    dataset, guest = plan["dataset"], plan["guest"]
    rows = [
        ("seed", str(plan["seed"])),
        ("repeats", f"{repeats(plan)} boots of every system"),
        (
            "data set",
            f"{dataset['name']}: {dataset['large_mib']} MiB in {dataset['large_files']} files, "
            f"{dataset['small_mib']} MiB in {dataset['small_files']} files"
            + ("" if dataset.get("twin", True) else ", without a twin"),
        ),
        ("guest", ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in guest.items())),
        ("workload limit", f"{plan['timeout_seconds']} s"),
        ("experiment digest", str(plan["digest"])[:16]),
    ]
    systems = [
        text_row(label, SYSTEMS[entry["system"]].title, _options(entry["options"]))
        for label, entry in sorted(plan["labels"].items())
    ]
    workloads = [
        text_row(name, " | ".join(shlex.join(argv) for argv in definition["pipeline"]))
        for name, definition in sorted(plan["workloads"].items())
    ]
    blocks: list[Block] = [
        Table([Column("plan"), Column("")], [text_row(*row) for row in rows]),
        Table([Column("label"), Column("storage path"), Column("options")], systems, "Systems"),
        *_boots(summary),
        Table([Column("workload"), Column("command line")], workloads, "Workloads", folded=True),
        Table(
            [Column("environment"), Column("")],
            [text_row(*row) for row in _flat(run.manifest)],
            "Environment",
            folded=True,
        ),
    ]
    blocks += list(_command_lines(run.manifest))
    return Section("plan", "Plan and environment", blocks)


def method_section(run: Run) -> Section:
    """How to read the numbers."""
    sentences = (
        "A block is one boot of one system with no other guest alive. Systems and trials are shuffled by the seed.",
        "Before every trial the cache state of host and guest was reached and verified; one that missed it is invalid.",
        "Copies come from trials that hold descriptors, so that looking does not disturb; times have others.",
        "The boot is what is repeated. Intervals are t-intervals on per-boot medians, of times and ratios on logs.",
        "One boot has no interval. In simulation the intervals cover what they say for normal and lognormal noise. For strongly skewed "
        "(exponential) noise a nominal 95 % covers 85 to 96 %, of a slope whose noise grows with the guests 80 to 94 %.",
        "From ten boots on the interval of a hierarchical bootstrap stands beside that of times: where the two differ, times are skewed.",
        "Ratios over several workloads are geometric means. Many comparisons are corrected by Holm's method.",
        "Verdicts on ratios, levels and slopes are t-tests against the nearest bound, one family with each other; equal numbers in all boots "
        "give p 0. No test: a spread over boots, and a figure that is its bound in every boot; they are decided as they stand.",
        "Not distinguishable: the interval contains 1, or the effect is smaller than the threshold stated beforehand.",
    )
    return Section("method", "How to read this", [Text(sentence) for sentence in sentences])


def _needless(trials: Row) -> str:
    count = trials.get("left_out", 0)
    return f"{count} more were not needed: the intervals were narrow enough before. " if count else ""


def _boots(summary: Row) -> Iterator[Table]:
    """Of an adaptive run: what ended the boots of each label."""
    words = {"half_width": "every interval is narrow enough", "cap": "the cap", "not_yet": "nothing yet"}
    rows = [
        text_row(
            row["label"],
            str(row["guests"]),
            str(row["boots"]),
            words[row["stopped_by"]],
            f"±{row['half_width']:.1%}: {row['widest']}" if "widest" in row else "",
        )
        for row in summary.get("adaptive", [])
    ]
    if rows:
        columns = [Column("label"), Column("guests", align="right"), Column("boots", align="right")]
        yield Table([*columns, Column("ended by"), Column("widest figure")], rows, "How often each system was booted")


def _what(entry: Row) -> str:
    """Who cannot have what: the label, and the probe where it is one."""
    return f"{entry['label']}: {entry['workload']}" if "workload" in entry else str(entry["label"])


def _other_gaps(run: Run) -> str:
    absent = [name for name in SYSTEMS if name not in {entry["system"] for entry in run.plan["labels"].values()}]
    text = "No energy, no network, no storage device beside the host's own; one workload at a time."
    if absent:
        text += f" Systems of this kit that the experiment does not name: {', '.join(absent)}."
    if run.torn:
        text += f" {run.torn} half-written lines in the results were left out: their trials have no record."
    return text


def _options(options: Row) -> str:
    return ", ".join(f"{name} {value}" for name, value in sorted(options.items()))


def _flat(document: Any, name: str = "") -> Iterator[tuple[str, str]]:
    """Every leaf with its dotted name; command lines have a place of their own."""
    if isinstance(document, Mapping):
        for key in sorted(document):
            if key not in ("command_lines", "plan", "boots"):
                yield from _flat(document[key], f"{name}.{key}" if name else str(key))
    elif isinstance(document, Sequence) and not isinstance(document, str):
        yield name, ", ".join(str(item) for item in document)
    elif document not in ("", None):
        yield name, str(document)


def _command_lines(document: Any) -> Iterator[Code]:
    """Command lines by label wherever the manifest keeps them: once for each, though a label boots many times."""
    seen: dict[str, list[str]] = {}
    for label, program, argv in _find_command_lines(document, ""):
        seen.setdefault(f"{label}: {program}" if label else program, [shlex.join(argv)])
    for title in sorted(seen):
        yield Code(title, seen[title])


def _find_command_lines(document: Any, label: str) -> Iterator[tuple[str, str, list[str]]]:
    if isinstance(document, Mapping):
        label = str(document.get("label", label))
        for key, value in document.items():
            if key == "command_lines" and isinstance(value, Mapping):
                yield from _argv(value, label)
            else:
                yield from _find_command_lines(value, label)
    elif isinstance(document, list):
        for item in document:
            yield from _find_command_lines(item, label)


def _argv(document: Row, label: str) -> Iterator[tuple[str, str, list[str]]]:
    for name, value in sorted(document.items()):
        if isinstance(value, Mapping):
            yield from _argv(value, str(name))
        elif isinstance(value, list):
            yield label, str(name), [str(word) for word in value]
