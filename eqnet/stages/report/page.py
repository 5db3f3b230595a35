"""The HTML page: one file that needs nothing else, in the reader's light or dark theme."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from hashlib import sha256
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

from eqnet.backend.files import write_file, write_files
from eqnet.spec.errors import ArtifactError, MissingExtraError
from eqnet.spec.version import __version__
from eqnet.stages.report import wording
from eqnet.stages.report.figures import PagePlots, page_plots, search_figures
from eqnet.stages.report.load import Artifact, ReportInputs, load
from eqnet.stages.report.style import (
    BIT_COLOURS,
    DARK,
    FLOAT_COLOUR,
    LIGHT,
    WIDE,
    css_variables,
    drawing,
    png,
    svg,
)
from eqnet.stages.report.summary import Row, summarize
from eqnet.stages.report.tables import artifacts as over_artifacts
from eqnet.stages.report.tables import one, parity
from eqnet.stages.report.tables.summary import summary_table
from eqnet.stages.report.tables.table import Table

WEB, TEMPLATE, SCRIPT = "web", "page.html.j2", "sort.js"
PICTURE_TITLE = "One supernet, every target: verified in each runtime"


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
    """Write one self-contained HTML page about artifacts, searches, evaluations and trainings.

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
        loader=PackageLoader("eqnet.stages.report", WEB),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    script = (files("eqnet.stages.report") / WEB / SCRIPT).read_text()
    plots = page_plots(inputs, rows)
    return environment.get_template(TEMPLATE).render(
        title=title,
        headline=headline(rows, inputs),
        sections=_sections(inputs, rows, plots),
        inputs=inputs,
        plots=plots,
        tables=_tables(inputs, rows),
        one=one,
        parity=parity,
        notes=list(_notes(rows)),
        untimed=list(_untimed(inputs.artifacts)),
        words=wording,
        light=css_variables(LIGHT),
        dark=css_variables(DARK),
        bit_colours={**BIT_COLOURS, "f": FLOAT_COLOUR},
        script=script,
        script_hash=_source_hash(script),
        made=now.strftime("%Y-%m-%d %H:%M UTC"),
        version=__version__,
    )


def _source_hash(script: str) -> str:
    """By which the page's content security policy lets this script run, and no other."""
    return f"sha256-{b64encode(sha256(script.encode()).digest()).decode()}"


def headline(rows: Sequence[Row], inputs: ReportInputs) -> str:
    """The result in one sentence."""
    if not rows:
        named = {
            ("search", "searches"): inputs.searches,
            ("evaluation", "evaluations"): inputs.evaluations,
            ("training log", "training logs"): inputs.trainings,
        }
        parts = [f"{len(them)} {names[len(them) > 1]}" for names, them in named.items() if them]
        return f"{', '.join(parts)}."
    counts = dict.fromkeys(("passed", "failed", "skipped"), 0)
    for row in rows:
        counts[row.verdict] += 1
    supernets = {artifact.manifest.subnet.supernet for artifact in inputs.artifacts}
    origin = "one supernet" if len(supernets) == 1 else f"{len(supernets)} supernets"
    told = ", ".join(f"{number} {verdict}" for verdict, number in counts.items() if number)
    profiles = "profile" if len(rows) == 1 else "profiles"
    return f"{len(rows)} {profiles} from {origin}: {told}."


def _sections(inputs: ReportInputs, rows: Sequence[Row], plots: PagePlots) -> dict[str, str]:
    """The sections that have something to say, in order: the template's name and the heading."""
    every = {
        "summary": ("Summary", rows),
        "bits": ("Bits per layer", inputs.artifacts),
        "accuracy": ("Accuracy against size and speed", plots.accuracy),
        "pareto": ("Pareto front", inputs.searches),
        "forms": ("Accuracy per form", inputs.artifacts or inputs.evaluations),
        "parity": ("Parity", inputs.artifacts),
        "latency": ("Latency", [item for item in inputs.artifacts if item.bench]),
        "sizes": ("Sizes", inputs.artifacts),
        "manifest": ("Manifests", inputs.artifacts),
        "training": ("Training", plots.trainings),
    }
    return {name: heading for name, (heading, content) in every.items() if content}


def _tables(inputs: ReportInputs, rows: Sequence[Row]) -> dict[str, Table | None]:
    """The tables over all artifacts, by the sections that show them."""
    return {
        "summary": summary_table(rows),
        "forms": over_artifacts.forms_table(inputs.artifacts, inputs.evaluations),
        "questions": over_artifacts.questions_table(inputs.artifacts),
        "outputs": parity.outputs_table(inputs.artifacts),
        "latency": over_artifacts.latency_table(inputs.artifacts),
        "sizes": over_artifacts.sizes_table(inputs.artifacts),
    }


def _notes(rows: Sequence[Row]) -> Iterator[tuple[str, str]]:
    """What is told below the summary, with the profile that it is of."""
    for row in rows:
        if row.without_quantization is not None:
            yield row.profile, row.without_quantization
        for reason in row.reasons:
            yield row.profile, reason


def _untimed(artifacts: Sequence[Artifact]) -> Iterator[tuple[str, str]]:
    """Profiles that were to be timed and were not, with the reason."""
    for artifact in artifacts:
        if artifact.bench is not None and artifact.bench.quantized is None:
            yield artifact.bench.profile, artifact.bench.reason or "not measured"


def write_picture(inputs: ReportInputs, rows: Sequence[Row], path: Path) -> None:
    """Write the comparison as a PNG. Raises ArtifactError when there is no artifact."""
    from eqnet.stages.report.plots.picture import comparison_figure

    with drawing(LIGHT):
        figure = comparison_figure(rows, inputs.artifacts, LIGHT, PICTURE_TITLE)
        if figure is None:
            raise ArtifactError("a picture compares artifacts, and none was given")
        write_file(path, png(figure))


def write_plots(inputs: ReportInputs, folder: Path) -> list[Path]:
    """Write every plot of every search as ``PROFILE.NAME.svg`` and ``.png``; returns the paths.

    Of several searches of one profile the later ones are numbered from 2 on.
    """
    written: dict[Path, bytes | str] = {}
    seen: dict[str, int] = {}
    with drawing(LIGHT):
        for search in inputs.searches:
            seen[search.profile] = number = seen.get(search.profile, 0) + 1
            stem = search.profile if number == 1 else f"{search.profile}-{number}"
            for one_figure in search_figures():
                figure = one_figure.draw(search, LIGHT, WIDE)
                if figure is not None:
                    written[folder / f"{stem}.{one_figure.name}.svg"] = svg(figure)
                    written[folder / f"{stem}.{one_figure.name}.png"] = png(figure)
    write_files(written)
    return list(written)
