"""report.html and report.md: one document from a stored run and its summary, laid out by templates."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from .accounting import io_section, memory_section
from .circumstances import gaps_section, method_section, plan_section
from .coherence_results import coherence_sections
from .comparisons import ABSENT, DISTINGUISHABLE, NOT_DISTINGUISHABLE
from .dax_window_results import dax_window_sections, reread_sections
from .density_results import density_sections
from .document import Document, Text, Tone
from .probe_results import probe_sections
from .ranking import ranking_section
from .results import TCG_BANNER, claims_section, copies_section, times_sections
from .stored_run import Run

_AA_TONES: dict[str, Tone] = {NOT_DISTINGUISHABLE: "good", DISTINGUISHABLE: "bad"}
_TRUST = (
    "Trust model of myfs: QEMU maps the shared files read-write, so root in a guest can alter every file of its share, "
    "and guests of one share see each other's writes. It is for guests that trust one another; this run shared a copy "
    "of the data set."
)


def document(run: Run, summary: Mapping[str, Any]) -> Document:
    """Everything the report says, in order."""
    sections = [ranking_section(run, summary["ranking"])] if summary.get("ranking") else []
    sections += [copies_section(run, summary)] if summary["copies"] or not summary.get("probes") else []
    sections += [
        *density_sections(run, summary),
        *reread_sections(run, summary),
        *dax_window_sections(run, summary),
        *coherence_sections(run),
        *probe_sections(run, summary),
        claims_section(summary),
        *times_sections(run, summary),
    ]
    sections += [section for section in (memory_section(run, summary), io_section(run, summary)) if section]
    sections += [gaps_section(run, summary), plan_section(run, summary), method_section(run)]
    started = min(str(record["started_at"]) for record in run.records)
    trials = summary["trials"]
    facts = [
        ("run", run.run_id),
        ("hosts", ", ".join(run.hosts)),
        ("accelerator", run.accelerator.upper()),
        ("started", started[:16].replace("T", " ") + " UTC"),
        ("trials", f"{trials['ok']} ok of {trials['planned']}"),
    ]
    return Document(
        f"onecopy: {run.experiment}",
        "Copies per page, and what each storage path costs",
        facts,
        _opening(run, summary),
        sections,
    )


def render(content: Document, templates: Path) -> dict[str, str]:
    """``report.html`` (one file that needs nothing else) and ``report.md``, by file name."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(templates),
        autoescape=jinja2.select_autoescape(["html.j2"]),
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals["zip"] = zip
    environment.filters["markdown"] = _markdown_cell
    return {
        name: environment.get_template(f"{name}.j2").render(document=content) for name in ("report.html", "report.md")
    }


def _opening(run: Run, summary: Mapping[str, Any]) -> list[Text]:
    aa = summary["aa"]
    outcome = f"A/A pair, {aa['outcome']}: {aa['because']}."
    if aa["outcome"] == DISTINGUISHABLE:
        outcome += " Every comparison of this run is inconclusive."
    if aa["outcome"] == ABSENT and any(claim["verdict"] != "inconclusive" for claim in summary["claims"]):
        outcome += " Every verdict of this run was reached without one."
    # A pair that could hardly have failed is no good news.
    tone = _AA_TONES.get(aa["outcome"], "open")
    is_weak = tone == "good" and not all(row["has_power"] for row in aa["power"])
    texts = [Text(outcome, "open" if is_weak else tone)]
    if summary["trials"]["pending"]:
        texts.append(
            Text(f"This run is not finished: {summary['trials']['pending']} trials have no record yet.", "bad")
        )
    if run.accelerator == "tcg":
        texts.append(Text(TCG_BANNER, "warning"))
    if any(entry["system"] == "myfs" for entry in run.plan["labels"].values()):
        texts.append(Text(_TRUST, "warning"))
    return texts


def _markdown_cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")
