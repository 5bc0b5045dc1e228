"""Sections of the report that hold what was found: copies, verdicts, times."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from . import figures
from .comparisons import BASELINE, GEOMETRIC_MEAN, task
from .document import Block, Cell, Column, Figure, Figures, Key, Section, Table, Text, Tone, text_row
from .metrics import wall_seconds
from .stored_run import Run
from .verdicts import TCG_REASON

Row = Mapping[str, Any]
TCG_BANNER = (
    "Times under TCG are not claims: an emulated processor says nothing about a real one. Page and request counts are."
)
_TONES: dict[str, Tone] = {"supported": "good", "refuted": "bad", "inconclusive": "open"}
_FIGURES = {("cold", "cold"): "Figure 2: host cache cold", ("warm", "cold"): "Figure 3: host cache warm"}
_BAR = 24
_UNMEASURED = "Claims that this run did not measure: other experiments decide them"


def copies_section(run: Run, summary: Row) -> Section:
    """The figure of merit: how many copies of a page the machine holds, and who holds them."""
    rows = [row for row in summary["copies"] if row["part"] == "all"]
    blocks: list[Block] = [
        Text(
            "Page frames that hold a page the workload read, divided by the pages it read. One is ideal; two "
            "means that host and guest each keep their own. Frames with other file data (extra) or with metadata "
            "(overhead) are counted apart. Physical: distinct frames by number and content, counted once in every boot, before "
            "a guest has freed anything; empty where that trial was in another state."
        )
    ]
    panels = []
    for host_cache, guest_cache in _states(rows):
        found = [row for row in rows if _state(row) == (host_cache, guest_cache)]
        stacks = [
            figures.Stack(row_name(run, row), [row[f"copies_{party}"] for party in figures.PARTIES]) for row in found
        ]
        title = _state_title(host_cache, guest_cache)
        most = max(2.2, 1.1 * max(sum(stack.amounts) for stack in stacks))
        panels.append(Figure(title, figures.copies(stacks, title=f"Copies per page, {title}", most=most)))
    if panels:
        legend = [
            Key("host page cache", "party-host"),
            Key("guest page caches", "party-guest"),
            Key("daemon", "party-daemon"),
        ]
        blocks.append(Figures(panels, "Whole data set. Dashed: one and two copies.", legend))
    blocks.append(_copies_table(run, rows, "The whole data set in numbers"))
    parts = [row for row in summary["copies"] if row["part"] != "all"]
    if parts:
        blocks.append(_copies_table(run, parts, "Large and small files apart", folded=True))
    return Section("copies", "Copies of a page", blocks)


def claims_section(summary: Row) -> Section:
    """Every claim of the paper with its verdict; the comparisons behind them folded."""
    columns = [Column("claim"), Column("text"), Column("verdict"), Column("because")]
    rows: dict[bool, list[list[Cell]]] = {True: [], False: []}
    for claim in summary["claims"]:
        verdict = Cell(claim["verdict"], _TONES[claim["verdict"]])
        cells = [Cell(claim["id"]), Cell(claim["text"]), verdict, Cell(claim["because"])]
        rows[_is_measured(claim)].append(cells)
    detail = [
        [
            *text_row(claim["id"], numbers["name"], _claimed(numbers["claimed"]), _found(numbers)),
            Cell(numbers["verdict"], _TONES[numbers["verdict"]]),
            Cell(numbers["because"] if numbers["decides"] else f"{numbers['because']} (informs, does not decide)"),
        ]
        for claim in summary["claims"]
        for numbers in claim["numbers"]
    ]
    counts = {verdict: sum(claim["verdict"] == verdict for claim in summary["claims"]) for verdict in _TONES}
    return Section(
        "claims",
        "Verdicts on the paper's claims",
        [
            Text(
                f"{counts['supported']} supported, {counts['refuted']} refuted, {counts['inconclusive']} inconclusive. "
                "Each was computed from this run's records against effects stated beforehand in experiments/claims.yml."
            ),
            *([Table(columns, rows[True])] if rows[True] else []),
            *([Table(columns, rows[False], _UNMEASURED, folded=True)] if rows[False] else []),
            Table(
                [
                    Column("claim"),
                    Column("comparison"),
                    Column("claimed"),
                    Column("found"),
                    Column("verdict"),
                    Column("because"),
                ],
                detail,
                "The comparisons behind the verdicts",
                folded=True,
            ),
        ],
    )


def times_sections(run: Run, summary: Row) -> Iterator[Section]:
    """One section per cache state: a small figure per workload with every trial, and the same as a table."""
    rows = summary["timings"]
    points: dict[tuple[Any, ...], list[float]] = {}
    for record in run.ok("timed"):
        points.setdefault(_key(record), []).append(wall_seconds(record))
    workloads = list(dict.fromkeys(row["workload"] for row in sorted(rows, key=lambda row: str(row["workload"]))))
    # One axis per workload in every state, so that cold and warm can be compared by eye.
    most = {name: 1.04 * max(max(points[_key(row)]) for row in rows if row["workload"] == name) for name in workloads}
    for state in _states(rows):
        found = [row for row in rows if _state(row) == state]
        panels = []
        for name in workloads:
            bars = [
                figures.Bar(
                    row_name(run, row),
                    row["system"],
                    row["wall_seconds_median"],
                    row.get("low"),
                    row.get("high"),
                    points[_key(row)],
                )
                for row in found
                if row["workload"] == name
            ]
            if bars:
                title = f"{name}, {_state_title(*state)}"
                panels.append(Figure(name, figures.times(bars, title=f"Seconds of {title}", most=most[name])))
        blocks: list[Block] = [Text(TCG_BANNER, "warning")] if run.accelerator == "tcg" else []
        caption = (
            "Bar: median over boots. Line: 95 % interval, where there is more than one boot. Points: every trial. "
        )
        blocks.append(Figures(panels, caption + "A workload has the same axis in every state."))
        blocks.append(_times_table(run, found, summary["comparisons"]))
        yield Section(f"times-{state[0]}-{state[1]}", _FIGURES.get(state, f"Times: {_state_title(*state)}"), blocks)


def row_name(run: Run, row: Row) -> str:
    """How a row is called: its label, with what tells it apart in this run."""
    name = str(row["label"])
    if row["guests"] > 1:
        name += f" with {row['guests']} guests"
    return f"{name} @ {row['host']}" if len(run.hosts) > 1 else name


def _copies_table(run: Run, rows: Sequence[Row], caption: str, *, folded: bool = False) -> Table:
    columns = [Column("system"), Column("state"), Column("part")]
    columns += [
        Column(title, unit, "right")
        for title, unit in (("copies", "per page"), ("95 % interval", "per page"), ("boots", ""))
    ]
    columns += [
        Column(title, "per page", "right") for title in ("host", "guests", "daemon", "physical", "extra", "overhead")
    ]
    columns += [Column("", "0 to 3 copies", text_only=True)]
    cells = []
    for row in rows:
        shares = [
            _ratio(row.get(name))
            for name in ("copies_host", "copies_guest", "copies_daemon", "copies_physical", "extra", "overhead")
        ]
        limits = _limits(row, "{:.3f}")
        cells.append(
            text_row(
                row_name(run, row),
                exact_state(row),
                row["part"],
                f"{row['copies']:.2f}",
                limits,
                str(row["n"]),
                *shares,
                _bar(row["copies"], 3),
            )
        )
    return Table(columns, cells, caption, folded)


def _times_table(run: Run, rows: Sequence[Row], comparisons: Iterable[Row]) -> Table:
    against = {
        (row["of"], row["host"], row["workload"], row["host_cache"], row["guest_cache"]): row
        for row in comparisons
        if row["metric"] == "wall_seconds"
    }
    baseline = next((row["to"] for row in against.values()), BASELINE)
    columns = [
        Column("workload"),
        Column("system"),
        Column("median", "seconds", "right"),
        Column("95 % interval", "seconds", "right"),
    ]
    has_bootstrap = any("bootstrap_low" in row for row in rows)
    columns += [Column("bootstrap", "seconds", "right")] if has_bootstrap else []
    columns += [
        Column("boots", align="right"),
        Column(f"÷ {baseline}", "ratio", "right"),
        Column("interval", "ratio", "right"),
    ]
    columns += [Column("compared", "Holm, all comparisons of times")]
    cells = []
    for row in sorted(rows, key=lambda row: str(row["workload"])):
        ratio = against.get((row["label"], row["host"], task(row), row["host_cache"], row["guest_cache"]))
        cells.append(
            text_row(
                row["workload"],
                row_name(run, row),
                f"{row['wall_seconds_median']:.4g}",
                _limits(row, "{:.4g}"),
                *([_limits(row, "{:.4g}", "bootstrap_")] if has_bootstrap else []),
                str(row["n"]),
            )
            + _compared(ratio)
        )
    states = {_state(row) for row in rows}
    for key, ratio in against.items():
        if ratio["workload"] == GEOMETRIC_MEAN and _state(ratio) in states:
            name = row_name(run, {"label": key[0], "host": key[1], "guests": 1})
            empty = [""] * (3 if has_bootstrap else 2)
            cells.append(text_row(GEOMETRIC_MEAN, name, *empty, str(ratio["n_of"])) + _compared(ratio))
    caption = "The same in numbers" + (f" ({TCG_REASON})" if run.accelerator == "tcg" else "")
    return Table(columns, cells, caption, folded=True)


def _compared(ratio: Row | None) -> list[Cell]:
    if ratio is None:
        return text_row("", "", "")
    return text_row(f"{ratio['ratio']:.3g}", _limits(ratio, "{:.3g}"), ratio["outcome"])


def _is_measured(claim: Row) -> bool:
    """Whether this run has a figure for any comparison that decides the claim."""
    return any(numbers["decides"] and ("ratio" in numbers or "least" in numbers) for numbers in claim["numbers"])


def _claimed(bounds: Row) -> str:
    return ", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in bounds.items())


def _found(numbers: Row) -> str:
    if "ratio" in numbers:
        return f"{numbers['ratio']:.3g} {_limits(numbers, '{:.3g}')}".strip()
    if "per_guest" in numbers:
        return f"{numbers['per_guest']:.3g} {_limits(numbers, '{:.3g}')}".strip()
    if "least" in numbers:
        return f"{numbers['least']:.3g} to {numbers['most']:.3g}"
    return ""


def _state(row: Row) -> tuple[str, str]:
    """Host and guest cache; a system without a guest stands beside a cold guest."""
    return row["host_cache"], "cold" if row["guest_cache"] == "none" else row["guest_cache"]


def exact_state(row: Row) -> str:
    """The cache state of a row; a system without a guest says so."""
    return f"host {row['host_cache']}, no guest" if row["guest_cache"] == "none" else _state_title(*_state(row))


def _states(rows: Iterable[Row]) -> list[tuple[str, str]]:
    return sorted({_state(row) for row in rows}, key=lambda state: (state[1], state[0]))


def _state_title(host_cache: str, guest_cache: str) -> str:
    return f"host {host_cache}, guest {guest_cache}"


def _key(row: Row) -> tuple[Any, ...]:
    return tuple(row[name] for name in ("host", "label", "guests", "workload", "host_cache", "guest_cache"))


def _limits(row: Row, form: str, prefix: str = "") -> str:
    low, high = f"{prefix}low", f"{prefix}high"
    return f"[{form.format(row[low])}, {form.format(row[high])}]" if low in row else ""


def _ratio(value: float | None) -> str:
    return "" if value is None else f"{value:.2f}"


def _bar(value: float, most: float) -> str:
    return "█" * round(_BAR * min(value, most) / most)
