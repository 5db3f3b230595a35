"""Plots that compare artifacts: accuracy against size and speed, bits of layers, latencies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from eqnet.stages.report.load import Artifact
from eqnet.stages.report.style import BIT_COLOURS, FLOAT_COLOUR, MARKERS, Palette
from eqnet.stages.report.summary import Row

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NUMBERED_CELLS = 44
LOG_SCALE_FROM = 20


def new_figure(width: float, height: float) -> Figure:
    """A figure of its own, outside pyplot's global list."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width, height))


def accuracy_figure(rows: Sequence[Row], palette: Palette) -> Figure | None:
    """Accuracy against weight size and against time; None when no row has an accuracy.

    A row without an accuracy from its runtime is drawn hollow, with the PyTorch subnet's.
    """
    measured = [row for row in rows if _accuracy(row) is not None]
    if not measured:
        return None
    figure = new_figure(11, 4)
    left, right = figure.subplots(1, 2, sharey=True)
    for index, row in enumerate(rows):
        accuracy = _accuracy(row)
        if accuracy is None:
            continue
        style = {
            "marker": MARKERS[index % len(MARKERS)],
            "markersize": 10,
            "linestyle": "none",
            "color": palette.of(index),
            "markerfacecolor": palette.of(index),
            "markeredgewidth": 1.8,
            "alpha": 0.9,
        }
        if row.accuracy_runtime is None:
            style["markerfacecolor"] = "none"
        if row.weight_bytes is not None:
            left.plot(row.weight_bytes / 1024, 100 * accuracy, label=row.profile, **style)
        if row.ratio is not None:
            right.plot(row.ratio, 100 * accuracy, **style)
            _interval(right, row, 100 * accuracy, palette.of(index))
    _float_lines(left, right, rows, palette)
    left.set(xlabel="weights, KiB", ylabel="top-1 accuracy, %", title="Accuracy and size")
    right.set(xlabel="time against float32 (left of 1 is faster)", title="Accuracy and speed")
    for axes in (left, right):
        axes.grid(True)
        axes.margins(0.12)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside right center")
    figure.set_layout_engine("constrained")
    return figure


def _accuracy(row: Row) -> float | None:
    return row.accuracy_runtime if row.accuracy_runtime is not None else row.accuracy_pytorch


def _interval(axes: Axes, row: Row, y: float, colour: str) -> None:
    if row.ratio_interval is not None:
        axes.plot(row.ratio_interval, (y, y), color=colour, linewidth=2, alpha=0.5)


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


def bits_figure(artifacts: Sequence[Artifact], palette: Palette) -> Figure | None:
    """Bits of each weight and activation tensor, in graph order, a strip for each."""
    if not artifacts:
        return None
    figure = new_figure(11, 0.95 * len(artifacts) + 0.5)
    axes = figure.subplots(len(artifacts), 1, squeeze=False)[:, 0]
    for index, (ax, artifact) in enumerate(zip(axes, artifacts, strict=True)):
        subnet = artifact.manifest.subnet
        draw_strip(ax, subnet.weights, y=1, scale=10)
        draw_strip(ax, subnet.activations, y=0, scale=10)
        ax.set_title(artifact.manifest.profile.name, color=palette.of(index), pad=4)
        ax.set_yticks([1.5, 0.5], ["weights", "activations"])
        longest = max(len(subnet.weights), len(subnet.activations), 1)
        ax.set(xlim=(0, longest), ylim=(0, 2), xticks=[])
        ax.tick_params(length=0)
        for spine in ax.spines.values():
            spine.set_visible(False)
    figure.set_layout_engine("constrained")
    return figure


def draw_strip(axes: Axes, bits: Mapping[str, int | str], y: float, scale: float) -> None:
    """One row of cells, coloured by bits and numbered while they are wide enough.

    `scale` is the size of the numbers in points; a float layer's cell is hatched and says f.
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


def latency_figure(artifacts: Sequence[Artifact], palette: Palette) -> Figure | None:
    """Distributions of all timed runs, the artifact's and the float model's, or None."""
    timed = [(index, item) for index, item in enumerate(artifacts) if _is_timed(item)]
    if not timed:
        return None
    figure = new_figure(11, 0.95 * len(timed) + 0.9)
    axes = figure.subplots()
    places: list[int] = []
    names: list[str] = []
    for position, (index, artifact) in enumerate(reversed(timed)):
        bench = artifact.bench
        if bench is None or bench.quantized is None or bench.float32 is None:
            continue
        _box(axes, bench.quantized.samples, position - 0.17, palette.of(index), palette.ink)
        _box(axes, bench.float32.samples, position + 0.17, palette.grid, palette.ink)
        places.append(position)
        names.append(bench.profile)
    axes.set_yticks(places, names, color=palette.ink)
    axes.set_xlabel("milliseconds a batch; box: middle half of the runs, whiskers: 5 to 95 %")
    axes.grid(True, axis="x", which="both")
    _scale(axes)
    _latency_legend(axes, palette)
    figure.set_layout_engine("constrained")
    return figure


def _is_timed(artifact: Artifact) -> bool:
    bench = artifact.bench
    return bench is not None and bench.quantized is not None and bench.float32 is not None


def _box(axes: Axes, samples: Sequence[float], y: float, colour: str, ink: str) -> None:
    line = {"color": ink, "linewidth": 1}
    axes.boxplot(
        samples,
        positions=[y],
        widths=0.28,
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


def _latency_legend(axes: Axes, palette: Palette) -> None:
    from matplotlib.patches import Patch

    handles = [
        Patch(facecolor=palette.grid, edgecolor=palette.ink, label="float model, same runtime"),
        Patch(facecolor=palette.of(0), edgecolor=palette.ink, label="artifact (its own colour)"),
    ]
    axes.legend(handles=handles, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
