"""Plots of trainings."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from eqnet.stages.report.load import Training
from eqnet.stages.report.plots import new_figure
from eqnet.stages.report.style import Palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLUMNS = 3


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
