"""Plots of trainings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from eqnet.stages.report.load import Training
from eqnet.stages.report.plots.compare import new_figure
from eqnet.stages.report.style import Palette, is_narrow

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3


def training_figure(training: Training, palette: Palette, width: float) -> Figure | None:
    """One small plot for each quantity in the log; None when the log holds none."""
    curves = training.curves
    if not curves:
        return None
    columns = 1 if is_narrow(width) else min(COLUMNS, len(curves))
    lines = math.ceil(len(curves) / columns)
    figure = new_figure(width, 2.5 * lines)
    grid = figure.subplots(lines, columns, squeeze=False).flat
    for index, (axes, (name, points)) in enumerate(zip(grid, curves.items(), strict=False)):
        axes.plot(*zip(*points, strict=True), color=palette.of(index), linewidth=1.5)
        axes.set_title(name.replace("_", " "))
        axes.set_xlabel(training.axis)
        axes.grid(True)
    for axes in list(figure.axes)[len(curves) :]:
        axes.set_visible(False)
    figure.set_layout_engine("constrained")
    return figure
