"""Figures as inline SVG, drawn by Vega-Lite and coloured by the page (CSS variables), in its light or dark scheme.

Every figure is small enough for a telephone: a page lays several of them side by side.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from html import escape
from typing import Any

import vl_convert

from ..systems import SYSTEMS

PARTIES = ("host", "guest", "daemon")
# Who holds the memory of a machine full of guests, in the order in which they are stacked.
HOLDERS = ("host", "guest", "guest-used", "guest-free", "qemu", "daemon", "unexplained")
_NOISE = re.compile(
    r' (?:font-family|role|aria-[a-z]+|pointer-events|class)="[^"]*"|<path class="(?:back|fore)ground"[^>]*/>'
)
_WIDTH = 210
_STEP = 24
_LABEL_PIXELS = 108
# Of points, for lines of one colour; the dash of a line says that it was not measured there.
SHAPES = ("circle", "triangle-up", "diamond", "square")
_CURVE_STEPS = 5
_DASHED = [4, 3]
# Without a precision Vega takes what tells the ticks apart, and writes 10 as 1e+1.
_NUMBER = ",.6~g"
_PADDING = {"left": _LABEL_PIXELS, "right": 62, "top": 4, "bottom": 34}
# Vega wants real colours; each stands for one CSS variable of the page and is replaced in the finished SVG.
_COLOURS = {
    name: f"#0b0b{number:02x}"
    for number, name in enumerate(
        ("ink", "muted", "grid", "paper", "reference", *(f"party-{party}" for party in HOLDERS), *SYSTEMS)
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
    """One bar of a stacked figure: amounts by who holds them, in the order of PARTIES or HOLDERS."""

    label: str
    amounts: Sequence[float]


@dataclass(frozen=True, slots=True)
class Line:
    """One system's growth: points (guests, value) and the line through them, value = fixed + per_guest * guests.

    ``limits``: the interval of ``per_guest``, where there is one. ``shape``: of its points, one of SHAPES.
    """

    system: str
    points: Sequence[Sequence[float]]
    fixed: float
    per_guest: float
    limits: tuple[float, float] | None = None
    shape: str = SHAPES[0]


def times(bars: Sequence[Bar], *, title: str, most: float) -> str:
    """Horizontal bars with intervals and every trial as a point; ``most`` is the end of the axis in seconds.

    Figures with the same ``most`` can be compared by eye.
    """
    rows = [{"label": bar.label, "system": bar.system, "value": bar.value, "text": seconds(bar.value)} for bar in bars]
    ranges = [
        {"label": bar.label, "low": bar.low, "high": min(bar.high, most)}
        for bar in bars
        if bar.low is not None and bar.high is not None
    ]
    points = [{"label": bar.label, "value": point} for bar in bars for point in bar.points]
    y = _labels([bar.label for bar in bars])
    x = _horizontal("value", most, "seconds")
    dot = {"type": "point", "filled": True, "size": 16, "strokeWidth": 0.9, "opacity": 0.9}
    layers = [
        _layer(rows, {"type": "bar", "height": 13}, x=x, y=y, color=_colours("system", {bar.system for bar in bars})),
        _layer(ranges, _line("ink", 1.2), x={"field": "low", "type": "quantitative"}, x2={"field": "high"}, y=y),
        _layer(points, {**dot, "color": _COLOURS["paper"], "stroke": _COLOURS["ink"]}, x=x, y=y),
        _values(rows, y),
    ]
    return _render(layers, len(bars), title)


def copies(stacks: Sequence[Stack], *, title: str, most: float) -> str:
    """Stacked bars (host, guests, daemon) with reference lines at one and two copies.

    ``most`` is the end of the axis.
    """
    rows = []
    for stack in stacks:
        start = 0.0
        for party, amount in zip(PARTIES, stack.amounts, strict=True):
            rows.append({"label": stack.label, "party": f"party-{party}", "start": start, "end": start + amount})
            start += amount
    totals = [{"label": stack.label, "text": f"{sum(stack.amounts):.2f}"} for stack in stacks]
    y = _labels([stack.label for stack in stacks])
    x = _horizontal("start", most, "copies per page", list(range(int(most) + 1)))
    colour = _colours("party", {f"party-{party}" for party in PARTIES})
    reference = {**_line("reference", 1), "strokeDash": [3, 3]}
    layers = [
        _layer(rows, {"type": "bar", "height": 13}, x=x, x2={"field": "end"}, y=y, color=colour),
        _layer([{"at": 1}, {"at": 2}], reference, x={"field": "at", "type": "quantitative"}),
        _values(totals, y),
    ]
    return _render(layers, len(stacks), title)


def curve(
    lines: Sequence[Sequence[Sequence[float]]],
    *,
    system: str,
    title: str,
    axes: tuple[str, str],
    most: tuple[float, float],
) -> str:
    """Lines through points (x, y), one per boot, in the colour of ``system``; ``axes`` are titles, ``most`` the ends of both."""
    rows = [{"boot": boot, "x": x, "y": y} for boot, points in enumerate(lines) for x, y in points]
    colour = _COLOURS[system]
    encoding = {
        "x": _horizontal("x", most[0], axes[0]),
        "y": {
            **_horizontal("y", most[1], axes[1]),
            "axis": {"title": axes[1], "tickCount": 4, "format": _NUMBER, "grid": True},
        },
        "detail": {"field": "boot", "type": "nominal"},
    }
    layers = [
        _layer(rows, {"type": "line", "color": colour, "strokeWidth": 1.4, "clip": True}, **encoding),
        _layer(rows, {"type": "point", "filled": True, "size": 8, "color": colour, "clip": True}, **encoding),
    ]
    return _render(layers, _CURVE_STEPS, title)


def growth(
    lines: Sequence[Line], *, title: str, axes: tuple[str, str], most: tuple[float, float], is_small: bool = False
) -> str:
    """Measured points by number of guests with their fitted lines: each solid where it was measured, dashed outside of it.

    Beyond the largest number that any line was measured at, the figure says extrapolated.
    ``is_small``: with the interval of each slope as a band, for one system or two.
    """
    x = _horizontal("x", most[0], axes[0])
    y = {
        **_horizontal("y", most[1], axes[1]),
        "axis": {"title": axes[1], "tickCount": 4, "format": _NUMBER, "grid": True},
    }
    layers = []
    for line in lines if is_small else ():
        if line.limits is not None:
            band = {"type": "area", "color": _COLOURS[line.system], "opacity": 0.18, "clip": True}
            layers.append(_layer(_band(line, most[0]), band, x=x, y=y, y2={"field": "y2"}))
    for line in lines:
        colour = _COLOURS[line.system]
        least, largest = min(guests for guests, _ in line.points), max(guests for guests, _ in line.points)
        for start, end, dash in ((0.0, least, _DASHED), (least, largest, []), (largest, most[0], _DASHED)):
            ends = [{"x": at, "y": line.fixed + line.per_guest * at} for at in (start, end)]
            mark = {"type": "line", "color": colour, "strokeWidth": 1.4, "strokeDash": dash, "clip": True}
            layers.append(_layer(ends, mark, x=x, y=y))
        points = [{"x": guests, "y": value} for guests, value in line.points]
        size = 14 if line.shape == SHAPES[0] else 55
        mark = {"type": "point", "shape": line.shape, "filled": True, "size": size, "color": colour, "clip": True}
        layers.append(_layer(points, mark, x=x, y=y))
    measured = max(guests for line in lines for guests, _ in line.points)
    words = {"type": "text", "align": "left", "dx": 4, "dy": 6, "fontSize": 10, "color": _COLOURS["muted"]}
    layers.append(_layer([{"x": measured, "y": most[1]}], {**words, "text": "extrapolated"}, x=x, y=y))
    layers.append(_layer([{"x": measured}], {**_line("muted", 0.7), "strokeDash": [1, 3]}, x=x))
    return _render(layers, (1 if is_small else 2) * _CURVE_STEPS, title)


def _band(line: Line, end: float) -> list[dict[str, float]]:
    """Lines with the least and the greatest slope through the middle of the points."""
    assert line.limits is not None
    middle = sum(guests for guests, _ in line.points) / len(line.points)
    height = line.fixed + line.per_guest * middle
    rows = []
    for at in (0.0, middle, end):
        ends = sorted(height + slope * (at - middle) for slope in line.limits)
        rows.append({"x": at, "y": ends[0], "y2": ends[1]})
    return rows


def holders(stacks: Sequence[Stack], *, title: str, ends: tuple[float, float]) -> str:
    """Stacked bars of MiB by HOLDERS, what is negative left of zero; ``ends`` of the axis."""
    rows = []
    for stack in stacks:
        start = 0.0
        for holder, amount in zip(HOLDERS, stack.amounts, strict=True):
            row = {"label": stack.label, "party": f"party-{holder}"}
            if amount < 0:
                rows.append({**row, "start": amount, "end": 0.0})
                continue
            rows.append({**row, "start": start, "end": start + amount})
            start += amount
    x = _horizontal("start", ends[1], "MiB")
    x["scale"]["domain"] = list(ends)
    y = _labels([stack.label for stack in stacks])
    layers = [
        _layer(
            rows,
            {"type": "bar", "height": 13},
            x=x,
            x2={"field": "end"},
            y=y,
            color=_colours("party", {f"party-{holder}" for holder in HOLDERS}),
        ),
        _values([{"label": stack.label, "text": f"{sum(stack.amounts):,.0f}"} for stack in stacks], y),
    ]
    return _render(layers, len(stacks), title)


def seconds(value: float) -> str:
    """Three significant digits, always in seconds, so that a column of them can be compared."""
    return f"{value:.0f} s" if value >= 100 else f"{value:#.3g} s"


def _layer(rows: Sequence[Mapping[str, Any]], mark: Mapping[str, Any], **encoding: Mapping[str, Any]) -> dict[str, Any]:
    return {"data": {"values": list(rows)}, "mark": dict(mark), "encoding": encoding}


def _line(colour: str, width: float) -> dict[str, Any]:
    return {"type": "rule", "color": _COLOURS[colour], "strokeWidth": width}


def _labels(order: Sequence[str]) -> dict[str, Any]:
    axis = {"title": None, "labelLimit": _LABEL_PIXELS, "labelColor": _COLOURS["ink"], "labelPadding": 6}
    return {"field": "label", "type": "nominal", "sort": list(order), "scale": {"paddingInner": 0.2}, "axis": axis}


def _horizontal(name: str, most: float, title: str, values: list[int] | None = None) -> dict[str, Any]:
    axis: dict[str, Any] = {"title": title, "tickCount": 4, "format": _NUMBER}
    if values:
        axis["values"] = values
    return {"field": name, "type": "quantitative", "scale": {"domain": [0, most], "nice": False}, "axis": axis}


def _colours(name: str, values: Set[str]) -> dict[str, Any]:
    domain = sorted(values)
    colours = [_COLOURS.get(value, _COLOURS["muted"]) for value in domain]
    return {"field": name, "type": "nominal", "scale": {"domain": domain, "range": colours}, "legend": None}


def _values(rows: Sequence[Mapping[str, Any]], y: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers in a column of their own, right of the bars."""
    mark = {"type": "text", "align": "left", "dx": 6, "color": _COLOURS["ink"], "fontSize": 11}
    return _layer(rows, mark, x={"value": _WIDTH}, y=y, text={"field": "text", "type": "nominal"})


def _render(layers: Sequence[Mapping[str, Any]], bars: int, title: str) -> str:
    axis = {
        "labelFontSize": 11,
        "titleFontSize": 11,
        "titleFontWeight": "normal",
        "titleAnchor": "start",
        "titleColor": _COLOURS["muted"],
        "labelColor": _COLOURS["muted"],
        "labelFlush": False,
        "gridColor": _COLOURS["grid"],
        "ticks": False,
        "domain": False,
    }
    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v6.json",
        "width": _WIDTH,
        "height": bars * _STEP,
        "padding": _PADDING,
        "autosize": "none",
        "background": "transparent",
        "layer": list(layers),
        "config": {"view": {"stroke": None}, "axis": axis, "axisY": {"grid": False}},
    }
    svg = vl_convert.vegalite_to_svg(spec)
    for name, colour in _COLOURS.items():
        svg = svg.replace(f'"{colour}"', f'"var(--{name.replace("_", "-")}, currentColor)"')
    # The page's own font, no empty shapes, and one name for the whole figure instead of one for every mark.
    svg = _NOISE.sub("", svg)
    return svg.replace("<svg ", f'<svg role="img" aria-label="{escape(title, quote=True)}" ', 1)
