"""The summary as a table for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eqnet.report.summary import Row
from eqnet.report.wording import (
    NOTHING,
    bits_text,
    interval_text,
    kib,
    percent,
    ratio_text,
    unmet,
)

if TYPE_CHECKING:
    from rich.console import JustifyMethod
    from rich.table import Table

_COLUMNS: tuple[tuple[str, bool, bool], ...] = (  # header, numeric, may wrap
    ("profile\nbackend", False, False),
    ("bits\n", False, True),
    ("in\nint8", True, False),
    ("\nsize", True, True),
    ("float\n%", True, False),
    ("torch\n%", True, False),
    ("run-\ntime %", True, False),
    ("agree\n%", True, False),
    ("vs\nfloat", False, True),
    ("\nverdict", False, False),
)
_STYLE = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


def rows_table(rows: Sequence[Row]) -> Table:
    """The table that `eqnet demo` and `eqnet report` end with; reasons stand below it.

    It fits into 80 columns: bits, size and latency wrap there. The agreement with PyTorch's
    subnet stands above that with the float model.
    """
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for name, numeric, wraps in _COLUMNS:
        justify: JustifyMethod = "right" if numeric else "left"
        table.add_column(name, justify=justify, no_wrap=not wraps, overflow="fold")
    for row in rows:
        label = Text(f"{row.profile}\n").append(row.backend, style="dim")
        verdict = Text(row.verdict, style=_STYLE[row.verdict])
        for line in unmet(row.export_verdict, row.quantization_verdict):
            verdict.append(f"\n{line}", style="")
        table.add_row(label, *(Text(cell) for cell in _cells(row)), verdict)
    notes = [f"{row.profile}: {reason}" for row in rows for reason in row.reasons]
    if notes:
        table.caption = Text("\n".join(notes))
        table.caption_justify = "left"
    return table


def _cells(row: Row) -> tuple[str, ...]:
    latency = ratio_text(row.ratio)
    if row.ratio is not None and row.ratio_interval is not None:
        latency += f"\n{interval_text(row.ratio, row.ratio_interval)}"
    return (
        bits_text(row.avg_weight_bits, row.avg_activation_bits),
        NOTHING if row.int8_layers is None else f"{row.int8_layers}/{row.layers}",
        kib(row.weight_bytes),
        _percent(row.accuracy_float),
        _percent(row.accuracy_pytorch),
        _percent(row.accuracy_runtime),
        f"{_percent(row.top1_agreement)}\n{_percent(row.float_agreement)}",
        latency,
    )


def _percent(value: float | None) -> str:
    return percent(value).removesuffix(" %")
