"""How the error of a deployed network grows with depth."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from eqnet.stages.report.load import Artifact
from eqnet.stages.report.plots.compare import folded, legend_columns, new_figure
from eqnet.stages.report.style import MARKERS, Palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LEAST = 1e-4
"""Of a step: errors below it are drawn there, as 0 has no place among logarithms."""


def depth_figure(artifacts: Sequence[Artifact], palette: Palette, width: float) -> Figure | None:
    """Root mean square errors by the tensors' places; None where nothing was located."""
    located = []
    for index, artifact in enumerate(artifacts):
        location = None if artifact.verify is None else artifact.verify.location
        if location is not None and location.tensors:
            located.append((index, artifact.manifest.profile.name, location))
    if not located:
        return None
    figure = new_figure(width, 3.8)
    axes = figure.subplots()
    for index, name, location in located:
        colour, marker = palette.of(index), MARKERS[index % len(MARKERS)]
        known = [(one, one.error) for one in location.tensors if one.error is not None]
        places = [one.depth for one, _ in known]
        errors = [max(error, LEAST) for _, error in known]
        axes.plot(places, errors, marker, color=colour, linestyle="-", linewidth=1.2, ms=4)
        wrong = [at for at, (one, _) in enumerate(known) if one.beyond]
        axes.plot(
            [places[at] for at in wrong],
            [errors[at] for at in wrong],
            "o",
            color=palette.bad,
            mfc="none",
            ms=12,
            mew=1.6,
        )
        axes.plot([], [], marker + "-", color=colour, label=folded(name, 72 * width - 40))
    axes.set_yscale("log")
    axes.set(xlabel="quantized tensor, in the order of computation", ylabel="error, steps")
    axes.grid(True)
    names = [name for _, name, _ in located]
    figure.legend(loc="outside lower center", ncols=legend_columns(names, width))
    figure.set_layout_engine("constrained")
    return figure
