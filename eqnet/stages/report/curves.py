"""Plots of searches (Pareto fronts) and of trainings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from eqnet.spec.reports import SearchReport
from eqnet.stages.report.load import Training
from eqnet.stages.report.plots import new_figure
from eqnet.stages.report.style import Palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3


def front_figure(search: SearchReport, palette: Palette) -> Figure | None:
    """Predicted accuracy against cost; the chosen subnet and its measured accuracy stand out.

    None for a front of one point, which has nothing to trade.
    """
    if len(search.front) < 2:
        return None
    points = sorted(search.front, key=lambda point: point.cost)
    figure = new_figure(8, 3.8)
    axes = figure.subplots()
    costs = [point.cost for point in points]
    accuracies = [100 * point.accuracy_predicted for point in points]
    axes.plot(costs, accuracies, color=palette.of(0), linewidth=1.2, alpha=0.5)
    axes.plot(
        costs, accuracies, "o", color=palette.of(0), markersize=5, label="Pareto front, predicted"
    )
    best = search.best.sha256()
    for point in points:
        if point.sha256 == best:
            place = (point.cost, 100 * point.accuracy_predicted)
            axes.plot(
                *place,
                "o",
                markersize=13,
                color=palette.of(1),
                markerfacecolor="none",
                markeredgewidth=2,
                label="chosen",
            )
    measured = search.best.measured
    if measured is not None and measured.accuracy is not None and measured.cost is not None:
        axes.plot(
            measured.cost,
            100 * measured.accuracy,
            "*",
            markersize=14,
            color=palette.of(1),
            label="chosen, measured",
        )
    limit = search.budgets.get("cost")
    if limit is not None:
        axes.axvline(limit, color=palette.muted, linestyle="--", label="budget")
    axes.set(xlabel=f"cost, {search.unit}", ylabel="top-1 accuracy, %")
    axes.grid(True)
    axes.legend(loc="lower right")
    figure.set_layout_engine("constrained")
    return figure


def training_figure(training: Training, palette: Palette) -> Figure | None:
    """One small plot for each quantity in the log; None when the log holds none."""
    curves = training.curves
    if not curves:
        return None
    lines = math.ceil(len(curves) / COLUMNS)
    figure = new_figure(11, 2.5 * lines)
    grid = figure.subplots(lines, COLUMNS, squeeze=False).flat
    for index, (axes, (name, points)) in enumerate(zip(grid, curves.items(), strict=False)):
        axes.plot(*zip(*points, strict=True), color=palette.of(index), linewidth=1.5)
        axes.set_title(name.replace("_", " "))
        axes.set_xlabel(training.axis)
        axes.grid(True)
    for axes in list(figure.axes)[len(curves) :]:
        axes.set_visible(False)
    figure.set_layout_engine("constrained")
    return figure
