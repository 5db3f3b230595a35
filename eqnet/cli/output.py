"""What commands print: tables for people, or exactly one JSON document on stdout."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from eqnet.spec.errors import without_controls

if TYPE_CHECKING:
    from pydantic import BaseModel
    from rich.console import Console, JustifyMethod, RenderHook
    from rich.table import Table
    from rich.text import Text

    from eqnet.spec.judging.comparison import FloatComparison
    from eqnet.spec.manifest import BuildReport
    from eqnet.spec.reports import Check, Judge

_STYLE = {"passed": "green", "failed": "bold red", "skipped": "yellow"}
_MARK = {"passed": "✓", "failed": "✗", "skipped": "~"}


def print_json(document: BaseModel | Mapping[str, Any] | Sequence[Any]) -> None:
    """Print one JSON document on stdout. Raises ValueError for an infinity or NaN in it."""
    plain: Any = document
    if not isinstance(document, Mapping | list):
        plain = document.model_dump(mode="json")  # type: ignore[union-attr]  # a model, then
    sys.stdout.write(json.dumps(plain, indent=2, allow_nan=False) + "\n")


def to_json(document: BaseModel) -> str:
    """The text of a result file."""
    return document.model_dump_json(indent=2) + "\n"


def console() -> Console:
    """Where tables go: stdout, wide enough that a pipe does not break the rows."""
    from rich.console import Console

    width = None if sys.stdout.isatty() else 200
    shown = Console(file=sys.stdout, highlight=False, width=width)
    shown.push_render_hook(_no_controls())
    return shown


def _no_controls() -> RenderHook:
    """Keeps control characters of what is printed from the terminal; rich's own styles stay."""
    from rich.console import ConsoleOptions, ConsoleRenderable, RenderHook
    from rich.segment import Segment

    class Printed:
        def __init__(self, inner: ConsoleRenderable) -> None:
            self._inner = inner

        def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Segment]:
            for text, style, control in console.render(self._inner, options):
                yield Segment(text if control else without_controls(text), style, control)

    class NoControls(RenderHook):
        def process_renderables(
            self, renderables: list[ConsoleRenderable]
        ) -> list[ConsoleRenderable]:
            return [Printed(renderable) for renderable in renderables]

    return NoControls()


def say(text: str) -> None:
    """Print a plain line for people on stdout."""
    console().print(text, markup=False, soft_wrap=True)


def note(text: str) -> None:
    """Print a line on stderr: what happens, never a result."""
    print(without_controls(text), file=sys.stderr)


def table(title: str, columns: Iterable[str], numeric: Iterable[str] = ()) -> Table:
    """An empty table in the house style; `numeric` columns are right-aligned."""
    from rich import box
    from rich.table import Table

    right = set(numeric)
    title_line = _plain(title)
    empty = Table(title=title_line, box=box.SIMPLE_HEAD, title_justify="left", title_style="bold")
    for name in columns:
        justify: JustifyMethod = "right" if name in right else "left"
        empty.add_column(_plain(name), justify=justify, overflow="fold")
    return empty


def facts(pairs: Mapping[str, str | None]) -> Table:
    """Two columns, name and value; a value of None is left out."""
    from rich.table import Table
    from rich.text import Text

    rows = Table.grid(padding=(0, 2))
    for name, value in pairs.items():
        if value is not None:
            rows.add_row(Text(name, style="dim"), _plain(value))
    return rows


def verdict(value: str) -> Text:
    """A verdict with its mark, so that it is readable without colour."""
    from rich.text import Text

    return Text(f"{_MARK.get(value, '')} {value}".strip(), style=_STYLE.get(value, ""))


def checks_table(title: str, checks: Iterable[Check]) -> Table:
    """The checks of a verification as a table."""
    columns = ("question", "check", "verdict", "value", "limit", "reason")
    rows = table(title, columns, ("value", "limit"))
    for check in sorted(checks, key=lambda check: check.group != "export"):
        rows.add_row(
            check.group,
            check.name,
            verdict(check.verdict),
            quantity(check.value, check.unit),
            quantity(check.limit, check.unit),
            _plain(check.reason),
        )
    return rows


def build_table(report: BuildReport) -> Table:
    """What the target's own compiler made of the layers."""
    rows = table("as built by the target's compiler", report.columns)
    for row in report.rows:
        rows.add_row(*(_plain(cell) for cell in row))
    return rows


def quantity(value: float | None, unit: str) -> str:
    """A number with its unit; empty where there is none."""
    if value is None:
        return ""
    return f"{value:.6g} {unit}".strip()


def share(value: float | None) -> str:
    """A number in [0, 1] as per cent with two digits."""
    if value is None:
        return ""
    return f"{100 * value:.2f} %"


def against_float(comparison: FloatComparison | None) -> str | None:
    """A comparison with the float model in one line; None where nothing is known."""
    if comparison is None:
        return None
    parts = []
    if comparison.agreement is not None:
        parts.append(f"{share(comparison.agreement)} of {comparison.images} images agree")
    if comparison.snr_db is not None:
        parts.append(f"logits at {comparison.snr_db:.1f} dB")
    if comparison.accuracy_drop is not None and comparison.accuracy_drop_interval is not None:
        low, high = comparison.accuracy_drop_interval
        parts.append(f"{comparison.accuracy_drop:.2f} points lost [{low:.2f}, {high:.2f}]")
    return ", ".join(parts) or None


def judged(by: Judge) -> str | None:
    """What accuracies mean where labels are unknown; None where they are accuracies."""
    if by == "labels":
        return None
    return "agreement with the float model, as the images have no labels of its classes"


def _plain(text: str) -> Text:
    from rich.text import Text

    return Text(text)
