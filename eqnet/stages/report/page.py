"""The HTML page: one file that needs nothing else, in the reader's light or dark theme."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eqnet.backend.files import write_file
from eqnet.spec.errors import ArtifactError, MissingExtraError
from eqnet.spec.reports import SearchReport
from eqnet.spec.version import __version__
from eqnet.stages.report import wording
from eqnet.stages.report.load import ReportInputs, Training, load
from eqnet.stages.report.style import DARK, LIGHT, PAGE, css_variables, drawing, png, themed_svg
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
    title: str = "eqnet report",
    failures: Mapping[str, str] | None = None,
    now: Callable[[], datetime] = lambda: datetime.now(UTC),
) -> Path:
    """Write one self-contained HTML page about artifacts, searches and trainings.

    `picture` also writes the comparison of the artifacts as a PNG; `failures` maps profiles that
    failed to the reason. Returns `out`. Raises ArtifactError for paths that are not reportable,
    OutputError where nothing can be written, MissingExtraError without matplotlib or jinja2.
    """
    require_plotting()
    inputs = load(paths) if paths or not failures else ReportInputs()
    if picture is not None and not inputs.artifacts:
        raise ArtifactError("a picture compares artifacts, and none was given")
    rows = summarize(inputs.artifacts, failures)
    write_file(out, render(inputs, rows, title=title, now=now()))
    if picture is not None:
        write_picture(inputs, rows, picture)
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


def _search_plots(searches: Sequence[SearchReport]) -> list[tuple[SearchReport, Plot | None]]:
    from eqnet.stages.report.curves import front_figure

    plots = []
    for index, search in enumerate(searches):
        plot = _plot(
            f"search{index}",
            front_figure(search, PAGE),
            f"Pareto front of {search.profile}",
            f"{search.evaluations} subnets in {search.seconds:.1f} s; {search.stop_reason}.",
        )
        plots.append((search, plot))
    return plots


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
