"""Pareto plots: accuracy against each cost, with the uniform subnets and the budgets on them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, NamedTuple

from eqnet.spec.reports import FrontPoint, SearchReport
from eqnet.stages.report.plots.compare import legend_columns, logarithmic_if_wide, new_figure
from eqnet.stages.report.style import Palette, is_narrow

if TYPE_CHECKING:
    from matplotlib.artist import Artist
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

LABELLED = 12
"""More uniform subnets than these are named only where both widths are the same."""


class Axis(NamedTuple):
    """A quantity that accuracy is drawn against: the budget's name, and the label's text."""

    name: str
    label: str
    of: Callable[[FrontPoint], float | None]


def axes_of(search: SearchReport) -> list[Axis]:
    """The costs that are known of all points of the front and not the same as another."""
    quantities = [
        Axis("cost", f"cost, {search.unit}", lambda point: point.cost),
        Axis("size_kib", "weights, KiB", lambda point: point.size_kib),
        Axis("bitops", "G bit-operations", lambda point: point.bitops),
    ]
    found: list[Axis] = []
    rows: list[list[float | None]] = []
    for axis in quantities:
        values = [axis.of(point) for point in search.front]
        if None not in values and values not in rows:
            found.append(axis)
            rows.append(values)
    return found


def pareto_figure(search: SearchReport, palette: Palette, width: float) -> Figure | None:
    """Accuracy against each cost; None for a front of one point, which has nothing to trade.

    Dots are predicted, diamonds measured, crosses uniform subnets; a ring is what was chosen.
    """
    if len(search.front) < 2:
        return None
    quantities = axes_of(search)
    if is_narrow(width):
        figure = new_figure(width, 2.9 * len(quantities) + 1.2)
        grid = figure.subplots(len(quantities), 1, squeeze=False)[:, 0]
    else:
        figure = new_figure(min(width, 3.7 * len(quantities) + 1.2), 4.2)
        grid = figure.subplots(1, len(quantities), sharey=True, squeeze=False)[0]
    for axes, quantity in zip(grid, quantities, strict=True):
        _draw(axes, search, quantity, palette)
        axes.set_xlabel(quantity.label)
        axes.grid(True, which="both")
        if not logarithmic_if_wide(axes):
            axes.locator_params(axis="x", nbins=4)
            axes.ticklabel_format(axis="x", useOffset=False)
    for axes in grid if is_narrow(width) else grid[:1]:
        axes.set_ylabel("top-1 accuracy, %")
    unique: dict[str, Artist] = {}
    for axes in grid:
        handles, labels = axes.get_legend_handles_labels()
        unique |= dict(zip(labels, handles, strict=True))
    columns = legend_columns([*unique], width)
    figure.legend([*unique.values()], [*unique], loc="outside lower center", ncols=columns)
    figure.set_layout_engine("constrained")
    return figure


def _draw(axes: Axes, search: SearchReport, quantity: Axis, palette: Palette) -> None:
    _baselines(axes, search, quantity, palette)
    _series(axes, search.front, quantity, "o", palette.of(0), "front, predicted", size=4.5)
    measured = [point for point in (*search.front, *search.baselines) if point.measured]
    for point in measured:
        value = quantity.of(point)
        if value is not None and point.measured is not None:
            pair = (100 * point.accuracy_predicted, 100 * point.measured.accuracy)
            axes.plot((value, value), pair, color=palette.of(1), linewidth=1, alpha=0.5)
            axes.plot(
                value, pair[1], "D", color=palette.of(1), markersize=6, label="measured", zorder=3
            )
    _chosen(axes, search, quantity, palette)
    limit = search.budgets.get(quantity.name)
    if limit is not None:
        axes.axvline(limit, color=palette.muted, linestyle="--", linewidth=1.2, label="budget")


def _series(
    axes: Axes,
    points: Sequence[FrontPoint],
    quantity: Axis,
    marker: str,
    colour: str,
    label: str,
    size: float,
) -> None:
    known = [(quantity.of(point), 100 * point.accuracy_predicted) for point in points]
    pairs = [pair for pair in known if pair[0] is not None]
    if pairs:
        axes.plot(
            *zip(*pairs, strict=True),
            marker,
            color=colour,
            markersize=size,
            linestyle="none",
            label=label,
        )


def _baselines(axes: Axes, search: SearchReport, quantity: Axis, palette: Palette) -> None:
    _series(axes, search.baselines, quantity, "x", palette.muted, "uniform, predicted", size=5)
    for point in search.baselines:
        value = quantity.of(point)
        if value is None or point.label is None:
            continue
        weights, _, reads = point.label.removeprefix("w").partition("a")
        if len(search.baselines) <= LABELLED or weights == reads:
            axes.annotate(
                point.label,
                (value, 100 * point.accuracy_predicted),
                textcoords="offset points",
                xytext=(4, -10),
                color=palette.muted,
                fontsize=8,
            )


def _chosen(axes: Axes, search: SearchReport, quantity: Axis, palette: Palette) -> None:
    best = search.best.sha256()
    for point in (*search.front, *search.baselines):
        value = quantity.of(point)
        if point.sha256 == best and value is not None:
            accuracy = point.accuracy_predicted
            if point.measured is not None:
                accuracy = point.measured.accuracy
            axes.plot(
                value,
                100 * accuracy,
                "o",
                markersize=14,
                color=palette.ink,
                markerfacecolor="none",
                markeredgewidth=1.8,
                linestyle="none",
                label="chosen",
            )
            return
