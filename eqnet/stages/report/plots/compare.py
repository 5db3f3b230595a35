"""Plots that compare artifacts: accuracy against size and speed, latencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from eqnet.spec.reports import BenchReport, Latency
from eqnet.stages.report.load import Artifact
from eqnet.stages.report.style import BIT_COLOURS, FLOAT_COLOUR, MARKERS, Palette, is_narrow
from eqnet.stages.report.summary import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBERED_CELLS = 44
LOG_SCALE_FROM = 20
LETTER = 6.3
"""Width in points of a letter of the plots' font, on average."""
TICKS = 200
"""Of single runs at most, evenly out of the sorted ones: more cannot be told apart."""


def new_figure(width: float, height: float) -> Figure:
    """A figure of its own, outside pyplot's global list."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def folded(name: str, points: float) -> str:
    """A long name in lines of at most this width: names have no gaps to break at."""
    most = max(8, int(points / LETTER))
    return "\n".join(name[at : at + most] for at in range(0, len(name), most))


def legend_columns(names: Sequence[str], width: float) -> int:
    """How many entries of a legend fit beside each other into a figure of `width` inches."""
    longest = max(map(len, names), default=1)
    return max(1, min(len(names), int(72 * width / (LETTER * longest + 40))))


def accuracy_figure(rows: Sequence[Row], palette: Palette, width: float) -> Figure | None:
    """Accuracy against weight size and against time; None when no row has an accuracy.

    A row without an accuracy from its runtime is drawn hollow, with the PyTorch subnet's.
    """
    measured = [row for row in rows if _accuracy(row) is not None]
    if not measured:
        return None
    if is_narrow(width):
        figure = new_figure(width, 5.4 + 0.22 * len(measured))
        left, right = figure.subplots(2, 1)
    else:
        figure = new_figure(width, 4.2)
        left, right = figure.subplots(1, 2, sharey=True)
    for index, row in enumerate(rows):
        _score(left, right, index, row, palette)
    _float_lines(left, right, rows, palette)
    left.set(xlabel="weights, KiB", ylabel="top-1 accuracy, %", title="Accuracy and size")
    right.set(xlabel="time against float (left of 1 is faster)", title="Accuracy and speed")
    if is_narrow(width):
        right.set_ylabel("top-1 accuracy, %")
    for axes in (left, right):
        axes.grid(True)
        axes.margins(0.12)
    handles, labels = left.get_legend_handles_labels()
    columns = legend_columns(labels, width)
    labels = [folded(label, 72 * width - 40) for label in labels]
    figure.legend(handles, labels, loc="outside lower center", ncols=columns)
    figure.set_layout_engine("constrained")
    return figure


def _score(left: Axes, right: Axes, index: int, row: Row, palette: Palette) -> None:
    """One row's marks in both plots."""
    accuracy = _accuracy(row)
    if accuracy is None:
        return
    colour = palette.of(index)
    style: dict[str, Any] = {
        "marker": MARKERS[index % len(MARKERS)],
        "markersize": 10,
        "linestyle": "none",
        "color": colour,
        "markerfacecolor": "none" if row.accuracy_runtime is None else colour,
        "markeredgewidth": 1.8,
        "alpha": 0.9,
    }
    if row.weight_bytes is not None:
        left.plot(row.weight_bytes / 1024, 100 * accuracy, label=row.profile, **style)
    if row.ratio is not None:
        right.plot(row.ratio, 100 * accuracy, **style)
        if row.ratio_interval is not None:
            y = (100 * accuracy, 100 * accuracy)
            right.plot(row.ratio_interval, y, color=colour, linewidth=2, alpha=0.5)


def _accuracy(row: Row) -> float | None:
    return row.accuracy_runtime if row.accuracy_runtime is not None else row.accuracy_pytorch


def _float_lines(left: Axes, right: Axes, rows: Sequence[Row], palette: Palette) -> None:
    floats = {row.accuracy_float for row in rows if row.accuracy_float is not None}
    for value in floats:
        for axes in (left, right):
            axes.axhline(100 * value, color=palette.muted, linestyle="--", linewidth=1.2)
        left.annotate(
            "float model",
            (1, 100 * value),
            xycoords=("axes fraction", "data"),
            xytext=(-4, 4),
            textcoords="offset points",
            ha="right",
            color=palette.muted,
            fontsize=9,
        )
    if any(row.ratio is not None for row in rows):
        right.axvline(1, color=palette.muted, linestyle="--", linewidth=1.2)
    else:
        right.text(0.5, 0.5, "no latency measured", transform=right.transAxes, ha="center")


def draw_strip(axes: Axes, bits: Mapping[str, int | str], y: float, scale: float) -> None:
    """One row of cells, coloured by bits and numbered while they are wide enough.

    `scale` is the size of the numbers in points; a float layer's cell says f.
    """
    from matplotlib.patches import Rectangle

    for column, choice in enumerate(bits.values()):
        label, (face, text) = "f", FLOAT_COLOUR
        if isinstance(choice, int):
            label, (face, text) = str(choice), BIT_COLOURS[choice]
        cell = Rectangle((column + 0.04, y + 0.06), 0.92, 0.88, facecolor=face, linewidth=0)
        axes.add_patch(cell)
        if len(bits) <= NUMBERED_CELLS:
            place = (column + 0.5, y + 0.48)
            axes.annotate(
                label, place, ha="center", va="center_baseline", color=text, fontsize=scale
            )


def latency_figure(artifacts: Sequence[Artifact], palette: Palette, width: float) -> Figure | None:
    """Distributions of all timed runs, the artifact's and the float model's, or None."""
    timed = []
    for index, artifact in enumerate(artifacts):
        bench = artifact.bench
        if bench is not None and bench.quantized is not None and bench.float32 is not None:
            timed.append((index, bench, bench.quantized, bench.float32))
    if not timed:
        return None
    figure = new_figure(width, 1.05 * len(timed) + 1.1)
    axes = figure.subplots()
    for position, (index, _, quantized, floating) in enumerate(reversed(timed)):
        _box(axes, quantized, position + 0.16, palette.of(index), palette.ink)
        _box(axes, floating, position - 0.2, palette.grid, palette.ink)
    _name_boxes(axes, [bench for _, bench, _, _ in reversed(timed)], palette, width)
    axes.set_ylim(-0.55, len(timed) - 1 + (0.72 if is_narrow(width) else 0.45))
    axes.set_xlabel("milliseconds a batch")
    axes.grid(True, axis="x", which="both")
    _scale(axes)
    _latency_legend(figure, palette, width)
    figure.set_layout_engine("constrained")
    return figure


def _name_boxes(axes: Axes, benches: Sequence[BenchReport], palette: Palette, width: float) -> None:
    """The profiles beside their boxes, or above them where there is no room beside."""
    if not is_narrow(width):
        names = [folded(bench.profile, 72 * width / 4) for bench in benches]
        axes.set_yticks(range(len(benches)), names, color=palette.ink)
        return
    axes.set_yticks([])
    for position, bench in enumerate(benches):
        axes.text(
            0.01,
            position + 0.45,
            folded(bench.profile, 72 * width - 20),
            transform=axes.get_yaxis_transform(),
            color=palette.ink,
            va="center",
        )


def _box(axes: Axes, latency: Latency, y: float, colour: str, ink: str) -> None:
    line = {"color": ink, "linewidth": 1}
    axes.boxplot(
        latency.samples,
        positions=[y],
        widths=0.2,
        orientation="horizontal",
        whis=(5, 95),
        showfliers=False,
        manage_ticks=False,
        patch_artist=True,
        boxprops={"facecolor": colour, "edgecolor": ink, "linewidth": 0.8},
        medianprops={"color": ink, "linewidth": 2},
        whiskerprops=line,
        capprops=line,
    )
    _ticks(axes, latency.samples, y - 0.15, ink)


def _ticks(axes: Axes, samples: Sequence[float], y: float, ink: str) -> None:
    """Single runs as short ticks: one path for all, which keeps the page small."""
    runs = np.sort(np.asarray(samples, dtype=np.float64))
    if len(runs) > TICKS:
        runs = runs[np.linspace(0, len(runs) - 1, TICKS).round().astype(int)]
    x = np.repeat(runs, 3)
    heights = np.tile([y - 0.03, y + 0.03, np.nan], len(runs))
    axes.plot(x, heights, color=ink, linewidth=0.7, alpha=0.55)


def _scale(axes: Axes) -> None:
    """From 0 on, so that lengths compare; in logarithms where nets differ by far."""
    if not logarithmic_if_wide(axes, LOG_SCALE_FROM):
        axes.set_xlim(0, axes.get_xlim()[1])


def logarithmic_if_wide(axes: Axes, ratio: float = 5.0) -> bool:
    """Make the x axis logarithmic where its ends lie more than `ratio` apart; whether it did."""
    from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

    low, high = axes.dataLim.intervalx
    if low <= 0 or high / low <= ratio:
        return False
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    return True


def _latency_legend(figure: Figure, palette: Palette, width: float) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=palette.of(0), edgecolor=palette.ink, label="artifact, in its own colour"),
        Patch(facecolor=palette.grid, edgecolor=palette.ink, label="float model, same runtime"),
    ]
    columns = 1 if is_narrow(width) else 2
    figure.legend(handles=handles, loc="outside lower center", ncols=columns)
