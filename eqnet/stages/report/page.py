"""The HTML page: one file that needs nothing else, in the reader's light or dark theme."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from eqnet.backend.files import write_file, write_files
from eqnet.spec.errors import ArtifactError, MissingExtraError
from eqnet.spec.reports import SearchReport
from eqnet.spec.version import __version__
from eqnet.stages.report import wording
from eqnet.stages.report.load import ReportInputs, Training, load
from eqnet.stages.report.style import (
    DARK,
    LIGHT,
    PAGE,
    Palette,
    css_variables,
    drawing,
    png,
    svg,
    themed_svg,
)
from eqnet.stages.report.summary import Row, summarize

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEMPLATE = "page.html.j2"
PICTURE_TITLE = "One supernet, every target: verified in each runtime"


@dataclass(frozen=True)
class Plot:
    """A plot on the page; `svg` is safe markup made here, the texts are plain."""

    title: str
    caption: str
    svg: str


def report(
    paths: Sequence[Path],
    out: Path,
    *,
    picture: Path | None = None,
    plots: Path | None = None,
    title: str = "eqnet report",
    failures: Mapping[str, str] | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Path:
    """Write one self-contained HTML page about artifacts, searches and trainings.

    `picture` also writes the comparison of the artifacts as a PNG, `plots` every plot of the
    searches as SVG and PNG into a folder; `failures` maps profiles that
    failed to the reason. Returns `out`. Raises ArtifactError for paths that are not reportable,
    OutputError where nothing can be written, MissingExtraError without matplotlib or jinja2.
    """
    require_plotting()
    inputs = load(paths) if paths or not failures else ReportInputs()
    if picture is not None and not inputs.artifacts:
        raise ArtifactError("a picture compares artifacts, and none was given")
    if plots is not None and not inputs.searches:
        raise ArtifactError("plots are of searches, and none was given (allowed: a search folder)")
    rows = summarize(inputs.artifacts, failures)
    write_file(out, render(inputs, rows, title=title, now=now()))
    if picture is not None:
        write_picture(inputs, rows, picture)
    if plots is not None:
        write_plots(inputs, plots)
    return out


def require_plotting() -> None:
    """Raise MissingExtraError before any work when the page could not be drawn."""
    for package in ("jinja2", "matplotlib"):
        if find_spec(package) is None:
            raise MissingExtraError(
                f"'{package}' is not installed and a report needs it: pip install 'eqnet[report]'"
            )


def render(inputs: ReportInputs, rows: Sequence[Row], *, title: str, now: datetime) -> str:
    """The page as text."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("eqnet.stages.report", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(percent=wording.percent, kib=wording.kib)
    return environment.get_template(TEMPLATE).render(
        title=title,
        rows=rows,
        inputs=inputs,
        headline=headline(rows, inputs),
        plots=_plots(inputs, rows),
        words=wording,
        light=css_variables(LIGHT),
        dark=css_variables(DARK),
        made=now.strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
    )


def headline(rows: Sequence[Row], inputs: ReportInputs) -> str:
    """The result in one sentence."""
    if not rows:
        return f"{len(inputs.searches)} searches, {len(inputs.trainings)} training logs."
    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    for row in rows:
        counts[row.verdict] += 1
    supernets = {artifact.manifest.subnet.supernet for artifact in inputs.artifacts}
    origin = "one supernet" if len(supernets) == 1 else f"{len(supernets)} supernets"
    told = ", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number)
    profiles = "profile" if len(rows) == 1 else "profiles"
    return f"{len(rows)} {profiles} from {origin}: {told}."


def write_picture(inputs: ReportInputs, rows: Sequence[Row], path: Path) -> None:
    """Write the comparison as a PNG. Raises ArtifactError when there is no artifact."""
    from eqnet.stages.report.picture import comparison_figure

    with drawing(LIGHT):
        figure = comparison_figure(rows, inputs.artifacts, LIGHT, PICTURE_TITLE)
        if figure is None:
            raise ArtifactError("a picture compares artifacts, and none was given")
        write_file(path, png(figure))


def write_plots(inputs: ReportInputs, folder: Path) -> list[Path]:
    """Write every plot of every search as ``PROFILE.NAME.svg`` and ``.png``; returns the paths.

    Of several searches of one profile the later ones are numbered from 2 on.
    """
    files: dict[Path, bytes | str] = {}
    seen: dict[str, int] = {}
    with drawing(LIGHT):
        for search in inputs.searches:
            seen[search.profile] = number = seen.get(search.profile, 0) + 1
            stem = search.profile if number == 1 else f"{search.profile}-{number}"
            for name, _, _, draw in search_figures():
                figure = draw(search, LIGHT)
                if figure is not None:
                    files[folder / f"{stem}.{name}.svg"] = svg(figure)
                    files[folder / f"{stem}.{name}.png"] = png(figure)
    write_files(files)
    return list(files)


def _plots(inputs: ReportInputs, rows: Sequence[Row]) -> dict[str, Any]:
    from eqnet.stages.report import picture, plots

    artifacts = inputs.artifacts
    with drawing(PAGE):
        return {
            "overview": _plot(
                "overview",
                picture.comparison_figure(rows, artifacts, PAGE),
                "At a glance",
                "Bar: float model; ring: subnet in PyTorch; dot: in the runtime. Thin line on a "
                "time: 95 % interval. f: the layer stays in float.",
            ),
            "accuracy": _plot(
                "accuracy",
                plots.accuracy_figure(rows, PAGE),
                "Accuracy against size and speed",
                "Filled: measured in the runtime. Hollow: the subnet in PyTorch.",
            ),
            "bits": _plot(
                "bits",
                plots.bits_figure(artifacts, PAGE),
                "Bits of every layer",
                "In graph order. Deeper colour, fewer bits; f: the layer stays in float.",
            ),
            "latency": _plot(
                "latency",
                plots.latency_figure(artifacts, PAGE),
                "Latency",
                "Artifact and the float model of the same net in the same runtime, run in turn.",
            ),
            "searches": _search_plots(inputs.searches),
            "trainings": _training_plots(inputs.trainings),
        }


def _search_plots(searches: Sequence[SearchReport]) -> list[tuple[SearchReport, list[Plot]]]:
    plots = []
    for index, search in enumerate(searches):
        drawn = []
        for name, title, caption, draw in search_figures():
            plot = _plot(f"search{index}-{name}", draw(search, PAGE), title, caption)
            if plot is not None:
                drawn.append(plot)
        plots.append((search, drawn))
    return plots


class SearchFigure(NamedTuple):
    """A plot of one search: its file's name, its title and caption, and what draws it."""

    name: str
    title: str
    caption: str
    draw: Callable[[SearchReport, Palette], Figure | None]


def search_figures() -> tuple[SearchFigure, ...]:
    """All plots of a search, in the page's order."""
    from eqnet.stages.report.searches import details, pareto

    return (
        SearchFigure(
            "pareto",
            "Accuracy against each cost",
            "Dots: the front as predicted; diamonds: measured, with a line to what was predicted; "
            "crosses: uniform subnets, within the budgets or not.",
            pareto.pareto_figure,
        ),
        SearchFigure(
            "bits", "Bits of the chosen subnet", "f: stays in float.", details.bits_figure
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


def _training_plots(trainings: Sequence[Training]) -> list[Plot | None]:
    from eqnet.stages.report.curves import training_figure

    plots = []
    for index, training in enumerate(trainings):
        plot = _plot(
            f"training{index}",
            training_figure(training, PAGE),
            f"Training: {training.path.parent.name or training.path.name}",
            f"From {training.path.name}, over {training.axis}s.",
        )
        plots.append(plot)
    return plots


def _plot(name: str, figure: Figure | None, title: str, caption: str) -> Plot | None:
    if figure is None:
        return None
    return Plot(title, caption, themed_svg(figure, name, title, caption))
