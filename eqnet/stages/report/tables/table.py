"""A table of the page as plain values; `web/macros.html.j2` makes HTML of it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from eqnet.stages.report.wording import NOTHING

Stacks = Literal["early", "late", "never"]


@dataclass(frozen=True)
class Mark:
    """A part of a gauge: a bar from 0, a line, a ring, a dot or a span, at shares of its width."""

    kind: Literal["bar", "line", "ring", "dot", "span"]
    at: float
    to: float | None = None


@dataclass(frozen=True)
class Cell:
    """What one cell says.

    sort: by what it is ordered, None for its text. notes: smaller lines below the text. look: a
    class of the style sheet, such as a verdict. gauge: drawn below the text.
    """

    text: str = NOTHING
    sort: float | None = None
    notes: Sequence[str] = ()
    look: str = ""
    gauge: Sequence[Mark] = ()

    @property
    def unknown(self) -> bool:
        """Whether it says nothing: left out of a card."""
        return self.text in ("", NOTHING) and not self.notes


@dataclass(frozen=True)
class Column:
    """A column's title; `numeric` ones are aligned to the right."""

    title: str
    numeric: bool = False


@dataclass(frozen=True)
class Row:
    """Cells, the first of which heads the row; `series` is the index of its colour."""

    cells: Sequence[Cell]
    series: int | None = None


@dataclass(frozen=True)
class Table:
    """A table; `label` names it for screen readers.

    stacks: where a window is too narrow for it, each row becomes a card: early, late (a phone),
    or never, for few short columns.
    """

    label: str
    columns: Sequence[Column]
    rows: Sequence[Row] = field(default_factory=tuple)
    stacks: Stacks = "late"


def columns(*titles: str) -> list[Column]:
    """Columns of these titles; a leading ``#`` marks a numeric one."""
    return [Column(title.removeprefix("#"), title.startswith("#")) for title in titles]


def number(value: float | None, text: str, *notes: str, gauge: Sequence[Mark] = ()) -> Cell:
    """A cell that sorts by a number; one without it stands last."""
    return Cell(text, value, [note for note in notes if note], gauge=gauge)


def plain(value: float | None, form: str = "%.6g", unit: str = "") -> Cell:
    """A number as it is, with its unit."""
    if value is None:
        return Cell()
    return Cell(f"{form % value} {unit}".strip(), value)


def verdict(value: str | None, *notes: str) -> Cell:
    """A verdict; the worst sorts first."""
    if value is None:
        return Cell()
    rank = {"failed": 0, "skipped": 1, "passed": 2}[value]
    return Cell(value, rank, notes, look=f"verdict {value}")
