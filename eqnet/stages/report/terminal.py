"""The summary as a table for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from eqnet.stages.report.summary import Row
from eqnet.stages.report.wording import (
    NOTHING,
    bits_text,
    decibels,
    interval_text,
    kib,
    percent,
    ratio_text,
    unmet,
)

if TYPE_CHECKING:
    from rich.console import JustifyMethod
    from rich.table import Table

# Header, numeric, may wrap.
_FIRST = ("profile\nbackend", False, False)
_LAST = ("\nverdict", False, False)
_COLUMNS: tuple[tuple[str, bool, bool], ...] = (
    ("bits\n", False, True),
    ("in\nint8", True, False),
    ("\nsize", True, True),
    ("float\n%", True, False),
    ("torch\n%", True, False),
    ("run-\ntime %", True, False),
    ("agree\n%", True, False),
    ("vs\nfloat", False, True),
)
_FLOAT_COLUMNS: tuple[tuple[str, bool, bool], ...] = (
    ("bits\n", False, True),
    ("in\nint8", True, False),
    ("\nsize", True, True),
    ("float's\nclass %", True, False),
    ("SNR\ndB", True, False),
    ("accu-\nracy %", True, False),
    ("time vs\nfloat", False, True),
)
_STYLE = {"passed": "green", "failed": "bold red", "skipped": "yellow"}


def rows_table(rows: Sequence[Row]) -> Table:
    """The table that `eqnet demo` and `eqnet report` end with; reasons stand below it.

    It fits into 80 columns: bits, size and latency wrap there. The agreement with PyTorch's
    subnet stands above that with the float model.
    """
    return _table(rows, _COLUMNS, _cells)


def float_table(rows: Sequence[Row]) -> Table:
    """The table that `eqnet quantize` ends with: what quantization costs and gains against the
    float model. The float model's accuracy stands below the artifact's."""
    return _table(rows, _FLOAT_COLUMNS, _float_cells)


def _table(
    rows: Sequence[Row],
    columns: Sequence[tuple[str, bool, bool]],
    cells: Callable[[Row], tuple[str, ...]],
) -> Table:
    """Profile and backend, the cells, and the verdict; what is not met stands below."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, padding=0)
    for name, numeric, wraps in (_FIRST, *columns, _LAST):
        justify: JustifyMethod = "right" if numeric else "left"
        table.add_column(name, justify=justify, no_wrap=not wraps, overflow="fold")
    for row in rows:
        label = Text(f"{row.profile}\n").append(row.backend, style="dim")
        verdict = Text(row.verdict, style=_STYLE[row.verdict])
        for line in unmet(row.export_verdict, row.quantization_verdict):
            verdict.append(f"\n{line}", style="")
        table.add_row(label, *(Text(cell) for cell in cells(row)), verdict)
    notes = []
    for row in rows:
        told = [row.without_quantization] if row.without_quantization else []
        notes += [f"{row.profile}: {reason}" for reason in (*told, *row.reasons)]
    if notes:
        table.caption = Text("\n".join(notes))
        table.caption_justify = "left"
    return table


def _cells(row: Row) -> tuple[str, ...]:
    return (
        *_size_cells(row),
        _percent(row.accuracy_float),
        _percent(row.accuracy_pytorch),
        _percent(row.accuracy_runtime),
        f"{_percent(row.top1_agreement)}\n{_percent(row.float_agreement)}",
        _latency(row),
    )


def _float_cells(row: Row) -> tuple[str, ...]:
    snr = None if row.against_float is None else row.against_float.snr_db
    accuracy = NOTHING
    if row.accuracy_runtime is not None:
        accuracy = f"{_percent(row.accuracy_runtime)}\n{_percent(row.accuracy_float)}"
    return (
        *_size_cells(row),
        _percent(row.float_agreement),
        decibels(snr).removesuffix(" dB"),
        accuracy,
        _latency(row),
    )


def _size_cells(row: Row) -> tuple[str, str, str]:
    int8 = NOTHING if row.int8_layers is None else f"{row.int8_layers}/{row.layers}"
    bits = bits_text(row.avg_weight_bits, row.avg_activation_bits)
    return bits, int8, kib(row.weight_bytes)


def _latency(row: Row) -> str:
    text = ratio_text(row.ratio)
    if row.ratio is None or row.ratio_interval is None:
        return text
    return f"{text}\n{interval_text(row.ratio, row.ratio_interval)}"


def _percent(value: float | None) -> str:
    return percent(value).removesuffix(" %")
