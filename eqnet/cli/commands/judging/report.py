"""`eqnet report`: one self-contained HTML page of artifacts, searches, evaluations, trainings."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eqnet.cli.options import Json

HELP = """Write one self-contained HTML page: table and plots of artifacts, searches, trainings.

Each PATH is an artifact folder (with its verify.json and bench.json), a search folder or
search.json, what `eqnet eval --json` printed (a file, or eval*.json of a folder), or a training
folder or log. The page needs no network, reads on a phone too, and its tables sort.

\b
Examples:
  eqnet report artifacts/*
  eqnet report artifacts/* runs/search/* runs/fm --out report.html
  eqnet report artifacts/* --picture comparison.png
  eqnet report runs/search/custom_lowbit --plots plots"""


def report(
    paths: Annotated[
        list[Path], typer.Argument(help="Artifacts, searches, evaluations, trainings.")
    ],
    out: Annotated[Path, typer.Option(help="The HTML file.")] = Path("report.html"),
    picture: Annotated[
        Path | None, typer.Option(help="Also write the comparison as one PNG.")
    ] = None,
    plots: Annotated[
        Path | None,
        typer.Option(help="Also write the plots of searches, as SVG and PNG, into this folder."),
    ] = None,
    title: Annotated[str, typer.Option(help="Title of the page.")] = "eqnet report",
    as_json: Json = False,
) -> None:
    """Write one page."""
    from eqnet.cli.output import print_json, say
    from eqnet.stages.report import load, summarize
    from eqnet.stages.report import report as write
    from eqnet.stages.report.terminal import rows_table

    page = write(paths, out, picture=picture, plots=plots, title=title)
    rows = summarize(load(paths).artifacts)
    if as_json:
        files = {
            "report": str(page),
            "picture": None if picture is None else str(picture),
            "plots": None if plots is None else str(plots),
        }
        print_json({**files, "rows": [row.model_dump(mode="json") for row in rows]})
        return
    if rows:
        from eqnet.cli.output import console

        console().print(rows_table(rows))
    written = f"report in {page}"
    if picture is not None:
        written += f", picture in {picture}"
    if plots is not None:
        written += f", plots in {plots}"
    say(written)
