"""Every plot of the page, drawn for a wide and for a narrow screen."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from eqnet.spec.reports import SearchReport
from eqnet.stages.report.load import ReportInputs
from eqnet.stages.report.style import NARROW, PAGE, WIDE, Palette, drawing, fits_a_phone, themed_svg
from eqnet.stages.report.summary import Row

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    Draw = Callable[[Palette, float], Figure | None]


FRONT = "pareto"


@dataclass(frozen=True)
class Plot:
    """A plot on the page, of which the style sheet shows one drawing: `wide` or `narrow`. Both
    are safe markup made here, the texts are plain. narrow: None where `wide` fits a phone too."""

    title: str
    caption: str
    wide: str
    narrow: str | None


class SearchPlots(NamedTuple):
    """Of one search: its front, and what it rests on."""

    front: Plot | None
    others: list[Plot]


class PagePlots(NamedTuple):
    """The page's plots; `searches` and `trainings` are in the order of the inputs."""

    accuracy: Plot | None
    depth: Plot | None
    latency: Plot | None
    searches: list[SearchPlots]
    trainings: list[Plot]


class SearchFigure(NamedTuple):
    """A plot of one search: its file's name, its title and caption, and what draws it in a
    palette and a width in inches. on_page: False where the page says the same in text."""

    name: str
    title: str
    caption: str
    draw: Callable[[SearchReport, Palette, float], Figure | None]
    on_page: bool = True


def page_plots(inputs: ReportInputs, rows: Sequence[Row]) -> PagePlots:
    """Draw all that the inputs have."""
    from eqnet.stages.report.plots import compare, depth

    with drawing(PAGE):
        return PagePlots(
            accuracy=_plot(
                "accuracy",
                "Accuracy against size and speed",
                "Filled: measured in the runtime. Hollow: the subnet in PyTorch. Dashed: the float "
                "model.",
                lambda palette, width: compare.accuracy_figure(rows, palette, width),
            ),
            depth=_plot(
                "depth",
                "Error by depth",
                "Root mean square, in steps of each tensor's grid, against the reference graph. "
                "Ringed: more than rounding explains.",
                lambda palette, width: depth.depth_figure(inputs.artifacts, palette, width),
            ),
            latency=_plot(
                "latency",
                "Latency distributions",
                "Every timed run: the artifact and the float model of the same net in the same "
                "runtime, in turns. Box: the middle half, whiskers: 5 to 95 %, ticks: single runs.",
                lambda palette, width: compare.latency_figure(inputs.artifacts, palette, width),
            ),
            searches=[_search_plots(index, search) for index, search in enumerate(inputs.searches)],
            trainings=_training_plots(inputs),
        )


def search_figures() -> tuple[SearchFigure, ...]:
    """All plots of a search, in the page's order."""
    from eqnet.stages.report.searches import details, pareto

    return (
        SearchFigure(
            FRONT,
            "Accuracy against each cost",
            "Dots: the front as predicted; diamonds: measured, with a line to what was predicted; "
            "crosses: uniform subnets, within the budgets or not.",
            pareto.pareto_figure,
        ),
        SearchFigure(
            "bits",
            "Bits of the chosen subnet",
            "f: stays in float.",
            details.bits_figure,
            on_page=False,
        ),
        SearchFigure(
            "sensitivities",
            "Sensitivities",
            "Accuracy that is predicted to be lost when a layer alone has the profile's fewest "
            "bits, against the most accurate uniform subnet.",
            details.sensitivity_figure,
        ),
        SearchFigure(
            "predicted",
            "Predicted and measured",
            "What was measured on validation images.",
            details.scatter_figure,
        ),
        SearchFigure(
            "progress",
            "Progress over generations",
            "Hypervolume: share of the box between no error at no cost and the worst uniform "
            "subnet that the population's front dominates.",
            details.progress_figure,
        ),
    )


def _search_plots(index: int, search: SearchReport) -> SearchPlots:
    drawn = {}
    for figure in search_figures():
        if not figure.on_page:
            continue
        plot = _plot(
            f"search{index}-{figure.name}",
            figure.title,
            figure.caption,
            lambda palette, width, draw=figure.draw: draw(search, palette, width),  # type: ignore[misc]  # mypy takes no default for Draw
        )
        if plot is not None:
            drawn[figure.name] = plot
    return SearchPlots(drawn.pop(FRONT, None), [*drawn.values()])


def _training_plots(inputs: ReportInputs) -> list[Plot]:
    from eqnet.stages.report.plots.curves import training_figure

    drawn = []
    for index, training in enumerate(inputs.trainings):
        plot = _plot(
            f"training{index}",
            f"Training: {training.path.parent.name or training.path.name}",
            f"From {training.path.name}, over {training.axis}s.",
            lambda palette, width, one=training: training_figure(one, palette, width),  # type: ignore[misc]  # as above
        )
        if plot is not None:
            drawn.append(plot)
    return drawn


def _plot(name: str, title: str, caption: str, draw: Draw) -> Plot | None:
    wide = draw(PAGE, WIDE)
    if wide is None:
        return None
    markup = themed_svg(wide, name, title, caption)
    narrow = None if fits_a_phone(wide.get_figwidth()) else draw(PAGE, NARROW)
    if narrow is None:
        return Plot(title, caption, markup, None)
    return Plot(title, caption, markup, themed_svg(narrow, f"{name}-narrow", title, caption))
