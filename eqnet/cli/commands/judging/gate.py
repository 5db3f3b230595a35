"""`eqnet gate`: several artifacts verified and timed, for CI."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, cast

import typer

from eqnet.cli.options import Json, MaxSeconds, Precision, Quiet, Repeats, Seed, Threads

if TYPE_CHECKING:
    from eqnet.spec.reports import GateReport
    from eqnet.stages.gate.baselines import Keep

HELP = """Verify and time artifacts as one gate for CI; needs no torch.

Every artifact is verified, and timed if it is right, whatever becomes of the others. Writes
NAME.verify.json, NAME.junit.xml and NAME.bench.json to --reports, and a table for the job's
summary to --summary (default: the file that GITHUB_STEP_SUMMARY names). With --baselines the
latency is compared with the artifact NAME there, which runs in turns with this one, or with
NAME.bench.json, if that is of this machine; where there is none, this run's artifact or report
is kept as it (--keep). Ends with the exit code of the first artifact that fails: 11 for
verification, 12 for a regression.

\b
Examples:
  eqnet gate artifacts/* --reports reports
  eqnet gate artifacts/* --reports reports --baselines .eqnet-baselines \\
    --max-regression 10%"""


def gate(
    artifacts: Annotated[list[Path], typer.Argument(help="Folders that 'eqnet export' wrote.")],
    reports: Annotated[Path, typer.Option(help="Folder for the reports.")] = Path("reports"),
    baselines: Annotated[
        Path | None,
        typer.Option(help="Folder of earlier artifacts or bench reports.", show_default="none"),
    ] = None,
    keep: Annotated[
        str, typer.Option(help="What a first run leaves in --baselines: artifact or report.")
    ] = "artifact",
    max_regression: Annotated[
        str, typer.Option(help="How much slower than a baseline is allowed.")
    ] = "5%",
    summary: Annotated[
        Path | None,
        typer.Option(
            help="File that the table in Markdown is added to.",
            show_default="$GITHUB_STEP_SUMMARY, if set",
        ),
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(help="As of 'eqnet verify'.", show_default="none, the stored images alone"),
    ] = None,
    repeats: Repeats = None,
    precision: Precision = None,
    max_seconds: MaxSeconds = None,
    threads: Threads = None,
    seed: Seed = 0,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the gate."""
    from eqnet.cli.options import parse_percent, require_artifact, require_folder, require_writable
    from eqnet.cli.output import print_json
    from eqnet.cli.progress import progress
    from eqnet.spec.errors import DataError, UsageError, unknown

    allowed = parse_percent("--max-regression", max_regression)
    kept = cast("Keep", keep)
    if kept not in ("artifact", "report"):
        raise UsageError(f"--keep: {unknown('baseline', keep, ('artifact', 'report'))}")
    for artifact in artifacts:
        require_artifact(artifact)
    require_folder("--data", data, DataError)
    require_writable(reports, folder=True)
    if baselines is not None:
        require_writable(baselines, folder=True)
    from eqnet.stages.gate import gate as run
    from eqnet.stages.gate import to_markdown

    with progress(quiet) as listener:
        report = run(
            artifacts,
            reports=reports,
            baselines=baselines,
            keep=kept,
            max_regression=allowed,
            data=data,
            repeats=repeats,
            precision=None if precision is None else parse_percent("--precision", precision),
            max_seconds=max_seconds,
            threads=threads,
            seed=seed,
            progress=listener,
        )
    _add(summary or _job_summary(), to_markdown(report))
    if as_json:
        print_json(report)
    else:
        _print(report, reports)
    _end(report)


def _job_summary() -> Path | None:
    named = os.environ.get("GITHUB_STEP_SUMMARY", "")
    return Path(named) if named else None


def _add(path: Path | None, text: str) -> None:
    """Add to a file that other steps write to as well. Raises OutputError."""
    from eqnet.spec.errors import OutputError

    if path is None:
        return
    try:
        with path.open("a", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise OutputError(f"--summary: {path}: cannot write: {error.strerror}") from error


def _print(report: GateReport, folder: Path) -> None:
    from eqnet.cli.output import console, facts, table, verdict
    from eqnet.stages.gate.summary import COLUMNS, cells

    shown = [place for place, name in enumerate(COLUMNS) if name not in ("verdict", "why")]
    rows = table("gate", tuple(COLUMNS[place] for place in shown), ())
    for row in report.rows:
        rows.add_row(*(cells(row)[place] for place in shown))
    out = console()
    out.print(rows)
    for row in report.rows:
        out.print(f"{row.artifact}:", verdict(row.verdict), row.why, markup=False)
    out.print(facts({"reports": str(folder)}))
    out.print(verdict(report.verdict))


def _end(report: GateReport) -> None:
    """Raise what the first failed artifact's own command would have ended with."""
    from eqnet.spec.errors import EqnetError

    failed = [row for row in report.rows if row.failure is not None]
    if not failed:
        return
    error = EqnetError("; ".join(f"{row.artifact}: {row.failure}" for row in failed))
    error.exit_code = failed[0].exit_code
    raise error
