"""What was chosen, what it rests on, and how the search came there: bars, scatter, progress."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from eqnet.spec.reports import SearchReport
from eqnet.stages.report.plots.compare import new_figure
from eqnet.stages.report.style import BIT_COLOURS, FLOAT_COLOUR, Palette, is_narrow

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMED = 6.5
"""Bars on an inch that still have room for their names."""
FLOAT_HEIGHT = 9.0


def bits_figure(search: SearchReport, palette: Palette, width: float) -> Figure | None:
    """Bits of the chosen subnet as bars: of every layer's weights, and of every tensor read."""
    best = search.best
    if not best.weights:
        return None
    rows: list[tuple[str, Mapping[str, int | str]]] = [("weights", dict(best.weights))]
    if best.activations:
        rows.append(("activations that layers read", dict(best.activations)))
    figure = new_figure(width, 2.9 * len(rows))
    for axes, (title, bits) in zip(
        figure.subplots(len(rows), 1, squeeze=False)[:, 0], rows, strict=True
    ):
        for place, choice in enumerate(bits.values()):
            whole = isinstance(choice, int)
            colour = BIT_COLOURS[int(choice)][0] if whole else FLOAT_COLOUR[0]
            height = float(choice) if whole else FLOAT_HEIGHT
            axes.bar(place, height, width=0.8, color=colour)
            if not whole:
                axes.annotate("f", (place, height), ha="center", va="bottom", color=palette.muted)
        axes.set(ylabel="bits", title=title, ylim=(0, FLOAT_HEIGHT + 1), yticks=range(0, 9, 2))
        _name(axes, list(bits), width)
    figure.set_layout_engine("constrained")
    return figure


def sensitivity_figure(search: SearchReport, palette: Palette, width: float) -> Figure | None:
    """Predicted loss of accuracy where one layer alone has the fewest bits; None if unknown."""
    if not search.sensitivities:
        return None
    figure = new_figure(width, 3.0)
    axes = figure.subplots()
    points = [100 * value for value in search.sensitivities.values()]
    axes.bar(range(len(points)), points, width=0.8, color=palette.of(0))
    axes.axhline(0, color=palette.muted, linewidth=0.8)
    axes.set_ylabel("points lost, predicted")
    axes.grid(True, axis="y")
    _name(axes, list(search.sensitivities), width)
    figure.set_layout_engine("constrained")
    return figure


def _name(axes: Axes, names: Sequence[str], width: float) -> None:
    axes.set_xlim(-0.6, len(names) - 0.4)
    if len(names) <= NAMED * width:
        axes.set_xticks(range(len(names)), names, rotation=60, ha="right", rotation_mode="anchor")
        axes.tick_params(axis="x", labelsize=8, length=0)
    else:
        axes.set_xlabel(f"{len(names)}, in graph order")


def scatter_figure(search: SearchReport, palette: Palette, width: float) -> Figure | None:
    """Predicted against measured accuracy of what was measured; None for fewer than two."""
    kinds = {"front": search.front, "uniform": search.baselines}
    found: dict[str, list[tuple[float, float]]] = {}
    for kind, points in kinds.items():
        for point in points:
            if point.measured is not None:
                pair = (100 * point.accuracy_predicted, 100 * point.measured.accuracy)
                found.setdefault(kind, []).append(pair)
    every = [value for pairs in found.values() for pair in pairs for value in pair]
    if len(every) < 4:
        return None
    figure = new_figure(min(width, 4.2), 4.0)
    axes = figure.subplots()
    margin = max(0.1 * (max(every) - min(every)), 0.05)
    ends = (min(every) - margin, max(every) + margin)
    axes.plot(ends, ends, color=palette.muted, linestyle="--", linewidth=1, label="equal")
    for index, (kind, pairs) in enumerate(found.items()):
        axes.plot(*zip(*pairs, strict=True), "oD"[index], color=palette.of(index), label=kind)
    axes.set(xlim=ends, ylim=ends, xlabel="predicted, %", ylabel="measured, %", aspect="equal")
    axes.grid(True)
    axes.legend(loc="best")
    figure.set_layout_engine("constrained")
    return figure


def progress_figure(search: SearchReport, palette: Palette, width: float) -> Figure | None:
    """Best feasible accuracy and hypervolume by generation; None without generations."""
    if len(search.history) < 2:
        return None
    narrow = is_narrow(width)
    figure = new_figure(width, 5.4 if narrow else 3.2)
    left, right = figure.subplots(2, 1) if narrow else figure.subplots(1, 2)
    known = [one for one in search.history if one.accuracy is not None]
    accuracies = [100 * (one.accuracy or 0.0) for one in known]
    left.plot([one.generation for one in known], accuracies, color=palette.of(0))
    left.set(xlabel="generation", ylabel="best predicted accuracy, %")
    volumes = [one.hypervolume for one in search.history]
    right.plot([one.generation for one in search.history], volumes, color=palette.of(1))
    right.set(xlabel="generation", ylabel="hypervolume")
    for axes in (left, right):
        axes.grid(True)
    figure.set_layout_engine("constrained")
    return figure
