"""The comparison as one picture: a row of small graphics for each profile."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eqnet.stages.report.load import Artifact
from eqnet.stages.report.plots.compare import draw_strip, new_figure
from eqnet.stages.report.style import Palette
from eqnet.stages.report.summary import Row
from eqnet.stages.report.wording import bits_text, kib, percent, ratio_text, unmet

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTHS = (2.7, 4.7, 1.35, 2.75, 2.15, 0.85)
TITLES = (
    "profile",
    "bits of weights (top) and activations",
    "weights",
    "top-1: | float  \u25cb PyTorch  \u25cf runtime",
    "time against float32 |",
    "verdict",
)
MARK = {"passed": "passed", "failed": "FAILED", "skipped": "skipped"}


def comparison_figure(
    rows: Sequence[Row], artifacts: Sequence[Artifact], palette: Palette, title: str = ""
) -> Figure | None:
    """One line for each artifact: its bits, size, accuracies, speed and verdict.

    `rows` are those of `artifacts`, in the same order. None when there is no artifact.
    """
    if not artifacts:
        return None
    heading = 1.1 if title else 0.75
    figure = new_figure(15, 0.8 * len(artifacts) + heading)
    grid = figure.subplots(
        len(artifacts), len(WIDTHS), squeeze=False, gridspec_kw={"width_ratios": WIDTHS}
    )
    accuracy, time = _accuracy_limits(rows), _time_limit(rows)
    for index, (line, row, artifact) in enumerate(zip(grid, rows, artifacts, strict=False)):
        colour = palette.of(index)
        for axes in line:
            _bare(axes)
        _name(line[0], row, colour, palette)
        _bits(line[1], artifact)
        _size(line[2], row, rows, colour, palette)
        _accuracies(line[3], row, accuracy, colour, palette)
        _time(line[4], row, time, colour, palette)
        _verdict(line[5], row, palette)
    for axes, name in zip(grid[0], TITLES, strict=True):
        axes.set_title(name, color=palette.muted, fontsize=10, fontweight="normal", pad=8)
    if title:
        figure.suptitle(title, x=0.008, ha="left", fontsize=16, fontweight="bold")
    figure.set_layout_engine("constrained", w_pad=0.12, h_pad=0.08, wspace=0, hspace=0)
    return figure


def _bare(axes: Axes) -> None:
    axes.set(xticks=[], yticks=[], xlim=(0, 1), ylim=(0, 2))
    for spine in axes.spines.values():
        spine.set_visible(False)


def _name(axes: Axes, row: Row, colour: str, palette: Palette) -> None:
    bits = bits_text(row.avg_weight_bits, row.avg_activation_bits)
    axes.text(0, 1.15, row.profile, color=colour, fontsize=13, fontweight="bold")
    axes.text(0, 0.55, f"{row.runtime or row.backend}, {bits}", color=palette.muted, fontsize=10)


def _bits(axes: Axes, artifact: Artifact) -> None:
    subnet = artifact.manifest.subnet
    axes.set_xlim(0, max(len(subnet.weights), len(subnet.activations), 1))
    draw_strip(axes, subnet.weights, y=1, scale=8.5)
    draw_strip(axes, subnet.activations, y=0.02, scale=8.5)


def _size(axes: Axes, row: Row, rows: Sequence[Row], colour: str, palette: Palette) -> None:
    largest = max((item.weight_bytes or 0 for item in rows), default=0)
    if row.weight_bytes is not None and largest:
        axes.barh(0.75, row.weight_bytes / largest, height=0.36, color=colour)
    axes.text(0, 1.2, kib(row.weight_bytes), color=palette.ink, fontsize=10.5)


def _accuracy_limits(rows: Sequence[Row]) -> tuple[float, float]:
    values = []
    for row in rows:
        for accuracy in (row.accuracy_float, row.accuracy_pytorch, row.accuracy_runtime):
            if accuracy is not None:
                values.append(100 * accuracy)
    if not values:
        return 0.0, 100.0
    margin = max(0.15 * (max(values) - min(values)), 0.2)
    return min(values) - margin, max(values) + margin


def _accuracies(
    axes: Axes, row: Row, limits: tuple[float, float], colour: str, palette: Palette
) -> None:
    axes.set_xlim(*limits)
    axes.axhline(0.75, color=palette.grid, linewidth=3, zorder=0)
    if row.accuracy_float is not None:
        axes.plot(100 * row.accuracy_float, 0.75, "|", color=palette.ink, ms=18, mew=2)
    if row.accuracy_pytorch is not None:
        axes.plot(100 * row.accuracy_pytorch, 0.75, "o", color=colour, ms=12, mfc="none", mew=1.8)
    if row.accuracy_runtime is not None:
        axes.plot(100 * row.accuracy_runtime, 0.75, "o", color=colour, ms=6.5)
    text = ""
    if row.accuracy_runtime is not None:
        text = f"{percent(row.accuracy_runtime)} in runtime"
    elif row.accuracy_pytorch is not None:
        text = f"{percent(row.accuracy_pytorch)} in PyTorch"
    axes.text(limits[0], 1.2, text, color=palette.ink, fontsize=10.5)


def _time_limit(rows: Sequence[Row]) -> float:
    return max([1.0, *(row.ratio for row in rows if row.ratio is not None)]) * 1.03


def _time(axes: Axes, row: Row, limit: float, colour: str, palette: Palette) -> None:
    axes.set_xlim(0, limit)
    if row.ratio is None:
        axes.text(0, 1.2, "not measured here", color=palette.muted, fontsize=10.5)
        return
    axes.barh(0.75, 1, height=0.36, color=palette.grid)
    axes.barh(0.75, row.ratio, height=0.36, color=colour)
    axes.plot((1, 1), (0.5, 1.0), color=palette.ink, linewidth=1.4)
    if row.ratio_interval is not None:
        axes.plot(row.ratio_interval, (0.75, 0.75), color=palette.ink, linewidth=1.6)
    axes.text(0, 1.2, ratio_text(row.ratio), color=palette.ink, fontsize=10.5)


def _verdict(axes: Axes, row: Row, palette: Palette) -> None:
    colour = {"passed": palette.good, "failed": palette.bad, "skipped": palette.warn}[row.verdict]
    axes.text(0, 0.95, MARK[row.verdict], color=colour, fontsize=12, fontweight="bold")
    named = "\n".join(unmet(row.export_verdict, row.quantization_verdict))
    axes.text(0, 0.75, named, color=palette.muted, fontsize=9, va="top")
