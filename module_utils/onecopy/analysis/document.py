"""What a report is made of, before it is HTML or Markdown: sections of blocks. Templates only lay them out."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

Align = Literal["left", "right"]
Tone = Literal["good", "bad", "open", "warning", "plain"]


@dataclass(frozen=True, slots=True)
class Column:
    """Heading of a column.

    ``unit`` stands below it. ``text_only`` columns draw in Markdown what a figure shows on the page.
    """

    title: str
    unit: str = ""
    align: Align = "left"
    text_only: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """One cell: text, and a tone where a verdict is coloured."""

    text: str
    tone: Tone = "plain"


@dataclass(frozen=True, slots=True)
class Table:
    """A table; rows are as long as columns. ``folded`` tables are closed until asked for."""

    columns: Sequence[Column]
    rows: Sequence[Sequence[Cell]]
    caption: str = ""
    folded: bool = False
    kind: Literal["table"] = "table"


@dataclass(frozen=True, slots=True)
class Figure:
    """One small figure: SVG for the page; the table beside it says the same in Markdown."""

    title: str
    svg: str


@dataclass(frozen=True, slots=True)
class Key:
    """What a colour stands for; ``shape``: of its points (one of figures.SHAPES), where colour alone does not tell."""

    words: str
    colour: str
    shape: str = ""


@dataclass(frozen=True, slots=True)
class Figures:
    """Figures laid side by side, with what their colours mean."""

    figures: Sequence[Figure]
    caption: str
    legend: Sequence[Key] = ()
    kind: Literal["figures"] = "figures"


@dataclass(frozen=True, slots=True)
class Text:
    """A paragraph; a toned one stands in a box."""

    text: str
    tone: Tone = "plain"
    kind: Literal["text"] = "text"


@dataclass(frozen=True, slots=True)
class Code:
    """Lines that a person may copy."""

    title: str
    lines: Sequence[str]
    kind: Literal["code"] = "code"


Block = Table | Figures | Text | Code


@dataclass(frozen=True, slots=True)
class Section:
    """A heading with its blocks."""

    name: str
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True, slots=True)
class Document:
    """A whole report; ``opening`` stands above every section, ``footer`` says what the page was made from."""

    title: str
    subtitle: str
    facts: Sequence[tuple[str, str]]
    opening: Sequence[Text]
    sections: Sequence[Section] = field(default_factory=tuple)
    footer: str = "Made by onecopy from the stored records of this run alone; the same records give the same page."


def text_row(*cells: str) -> list[Cell]:
    """A row of plain cells."""
    return [Cell(cell) for cell in cells]
