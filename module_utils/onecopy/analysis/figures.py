"""Figures as inline SVG: drawn by Altair, coloured by the page (CSS variables), so that they follow its light or dark scheme.

Every figure is small enough for a telephone: a page lays several of them side by side.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import altair as alt
import vl_convert

from ..systems import SYSTEMS

PARTIES = ("host", "guest", "daemon")
_NOISE = re.compile(
    r' (?:font-family|role|aria-[a-z]+|pointer-events|class)="[^"]*"|<path class="(?:back|fore)ground"[^>]*/>'
)
_WIDTH = 210
_STEP = 24
_LABEL_PIXELS = 108
_PADDING = {"left": _LABEL_PIXELS, "right": 62, "top": 4, "bottom": 34}
# Altair wants real colours; each stands for one CSS variable of the page and is replaced in the finished SVG.
_COLOURS = {
    name: f"#0b0b{number:02x}"
    for number, name in enumerate(
        ("ink", "muted", "grid", "paper", "reference", *(f"party-{party}" for party in PARTIES), *SYSTEMS)
    )
}


@dataclass(frozen=True, slots=True)
class Bar:
    """One bar of a figure of times: seconds, its interval where there is one, and every single trial."""

    label: str
    system: str
    value: float
    low: float | None
    high: float | None
    points: Sequence[float]


@dataclass(frozen=True, slots=True)
class Stack:
    """One bar of the copies figure: copies by who holds them, in the order of PARTIES."""

    label: str
    copies: Sequence[float]


def times(bars: Sequence[Bar], *, title: str, most: float) -> str:
    """Horizontal bars with intervals and every trial as a point.

    The axis ends at ``most`` seconds, so that figures can be compared.
    """
    order = [bar.label for bar in bars]
    rows = [{"label": bar.label, "system": bar.system, "value": bar.value, "text": seconds(bar.value)} for bar in bars]
    ranges = [
        {"label": bar.label, "low": bar.low, "high": min(bar.high, most)}
        for bar in bars
        if bar.low is not None and bar.high is not None
    ]
    points = [{"label": bar.label, "value": point} for bar in bars for point in bar.points]
    y = _labels(order)
    x = alt.X("value:Q", scale=alt.Scale(domain=[0, most], nice=False), axis=_axis("seconds"))
    colour = alt.Color("system:N", scale=_scale(bar.system for bar in bars), legend=None)
    layers = [
        alt.Chart(alt.Data(values=rows)).mark_bar(height=13).encode(x=x, y=y, color=colour),
        alt.Chart(alt.Data(values=ranges))
        .mark_rule(color=_COLOURS["ink"], strokeWidth=1.2)
        .encode(x=alt.X("low:Q"), x2="high:Q", y=y),
        alt.Chart(alt.Data(values=points))
        .mark_point(filled=True, size=16, color=_COLOURS["paper"], stroke=_COLOURS["ink"], strokeWidth=0.9, opacity=0.9)
        .encode(x=x, y=y),
        _values(rows, y),
    ]
    return _render(alt.layer(*layers), len(bars), title)


def copies(stacks: Sequence[Stack], *, title: str, most: float) -> str:
    """Stacked bars (host, guests, daemon) with reference lines at one and two copies."""
    rows = []
    for stack in stacks:
        start = 0.0
        for party, amount in zip(PARTIES, stack.copies, strict=True):
            rows.append({"label": stack.label, "party": party, "start": start, "end": start + amount})
            start += amount
    totals = [
        {"label": stack.label, "value": sum(stack.copies), "text": f"{sum(stack.copies):.2f}"} for stack in stacks
    ]
    y = _labels([stack.label for stack in stacks])
    x = alt.X(
        "start:Q",
        scale=alt.Scale(domain=[0, most], nice=False),
        axis=_axis("copies per page", values=list(range(int(most) + 1))),
    )
    parties = alt.Scale(domain=list(PARTIES), range=[_COLOURS[f"party-{party}"] for party in PARTIES])
    layers = [
        alt.Chart(alt.Data(values=rows))
        .mark_bar(height=13)
        .encode(x=x, x2="end:Q", y=y, color=alt.Color("party:N", scale=parties, legend=None)),
        alt.Chart(alt.Data(values=[{"at": 1}, {"at": 2}]))
        .mark_rule(color=_COLOURS["reference"], strokeDash=[3, 3])
        .encode(x="at:Q"),
        _values(totals, y),
    ]
    return _render(alt.layer(*layers), len(stacks), title)


def seconds(value: float) -> str:
    """Three significant digits, always in seconds, so that a column of them can be compared."""
    return f"{value:.0f} s" if value >= 100 else f"{value:#.3g} s"


def _labels(order: Sequence[str]) -> alt.Y:
    axis = alt.Axis(
        title=None, ticks=False, domain=False, labelLimit=_LABEL_PIXELS, labelColor=_COLOURS["ink"], labelPadding=6
    )
    return alt.Y("label:N", sort=list(order), axis=axis, scale=alt.Scale(paddingInner=0.2))


def _axis(title: str, values: list[int] | None = None) -> alt.Axis:
    return alt.Axis(
        title=title,
        titleColor=_COLOURS["muted"],
        titleFontWeight="normal",
        titleAnchor="start",
        labelColor=_COLOURS["muted"],
        labelFlush=False,
        format="~g",
        gridColor=_COLOURS["grid"],
        tickCount=4,
        ticks=False,
        domain=False,
        **({"values": values} if values else {}),
    )


def _values(rows: list[dict[str, Any]], y: alt.Y) -> alt.Chart:
    return (
        alt.Chart(alt.Data(values=rows))
        .mark_text(align="left", dx=6, color=_COLOURS["ink"], fontSize=11)
        .encode(x=alt.value(_WIDTH), y=y, text="text:N")
    )


def _scale(systems: Any) -> alt.Scale:
    names = list(dict.fromkeys(systems))
    return alt.Scale(domain=names, range=[_COLOURS.get(name, _COLOURS["muted"]) for name in names])


def _render(chart: alt.LayerChart, bars: int, title: str) -> str:
    sized = chart.properties(
        width=_WIDTH, height=bars * _STEP, padding=_PADDING, autosize="none", background="transparent"
    )
    spec = sized.configure_view(stroke=None).configure_axis(labelFontSize=11, titleFontSize=11).to_dict(validate=False)
    svg = vl_convert.vegalite_to_svg(spec)
    for name, colour in _COLOURS.items():
        svg = svg.replace(f'"{colour}"', f'"var(--{name.replace("_", "-")}, currentColor)"')
    # The page's own font, no empty shapes, and one name for the whole figure instead of one for every mark.
    svg = _NOISE.sub("", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title, quote=True)}" ', 1)
