"""`eqnet bench`: latency against the float model, and against a baseline for CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from eqnet.cli.options import Json, MaxSeconds, Precision, Quiet, Repeats, Seed, Threads

if TYPE_CHECKING:
    from eqnet.spec.reports import BenchReport, Latency, Sampling

FORMATS = ("github-action", "bencher", "markdown")
HELP = """Measure an artifact's latency against the float model of the same net and runtime.

All run in turns, so the ratio holds on a busy machine, until the 95% intervals are narrow
(--precision) or the time is spent (--max-seconds). With --baseline (an artifact of before, which
runs in turns with this one, or the bench.json of an earlier run on the same machine) a slowdown
beyond --max-regression that a second measurement confirms exits with 12.

\b
Examples:
  eqnet bench artifacts/openvino_asym
  eqnet bench artifacts/openvino_asym --baseline main/openvino_asym \\
    --max-regression 5%
  eqnet bench artifacts/openvino_asym --baseline main/bench.json
  eqnet bench artifacts/onnxruntime_x86 --batch 1,8 --threads 4 --json
  eqnet bench artifacts/openvino_asym --format github-action > bench-ci.json"""


def bench(
    artifact: Annotated[Path, typer.Argument(help="Folder that 'eqnet export' wrote.")],
    baseline: Annotated[
        Path | None,
        typer.Option(help="An artifact, a folder with one, or a bench.json of the same machine."),
    ] = None,
    max_regression: Annotated[
        str, typer.Option(help="How much slower than the baseline is allowed.")
    ] = "5%",
    allow_other_machine: Annotated[
        bool,
        typer.Option("--allow-other-machine", help="Take a bench.json of another machine too."),
    ] = False,
    repeats: Repeats = None,
    precision: Precision = None,
    max_seconds: MaxSeconds = None,
    batch: Annotated[
        str | None, typer.Option(help="Images, such as 1 or 1,8.", show_default="the profile's")
    ] = None,
    threads: Threads = None,
    pin: Annotated[
        bool, typer.Option("--pin/--no-pin", help="Keep all threads on as many CPUs.")
    ] = True,
    seed: Seed = 0,
    out: Annotated[
        Path | None,
        typer.Option(help="File for the report.", show_default="ARTIFACT/bench.json"),
    ] = None,
    ci_format: Annotated[
        str | None,
        typer.Option(
            "--format",
            help="Print for a service: JSON for github-action (github-action-benchmark) or "
            "bencher, or markdown for a job's summary.",
        ),
    ] = None,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure one artifact."""
    from eqnet.backend.files import write_file
    from eqnet.cli.options import parse_batches, parse_percent, require_artifact, require_writable
    from eqnet.cli.output import print_json, to_json
    from eqnet.cli.progress import progress
    from eqnet.spec.errors import RegressionError, UsageError, unknown

    allowed = parse_percent("--max-regression", max_regression)
    if ci_format not in (None, *FORMATS):
        raise UsageError(f"--format: {unknown('format', str(ci_format), FORMATS)}")
    if ci_format is not None and as_json:
        raise UsageError("--json and --format: each prints a document (allowed: one of them)")
    require_artifact(artifact)
    if baseline is not None and not (baseline.is_file() or baseline.is_dir()):
        raise UsageError(f"--baseline: {baseline}: no such file or folder")
    target = out or artifact / "bench.json"
    if baseline is not None and target.resolve() == baseline.resolve():
        raise UsageError(
            f"--baseline: {baseline} would be overwritten (allowed: another file for --out)"
        )
    require_writable(target, folder=False)
    from eqnet.stages.bench import bench as run
    from eqnet.stages.bench import to_markdown

    with progress(quiet) as listener:
        report = run(
            artifact,
            baseline=baseline,
            max_regression=allowed,
            allow_other_machine=allow_other_machine,
            repeats=repeats,
            precision=None if precision is None else parse_percent("--precision", precision),
            max_seconds=max_seconds,
            batch=parse_batches(batch),
            threads=threads,
            pin=pin,
            seed=seed,
            progress=listener,
        )
    write_file(target, to_json(report))
    if ci_format == "markdown":
        typer.echo(to_markdown(report))
    elif ci_format is not None:
        print_json(_for_service(report, ci_format))
    elif as_json:
        print_json(report)
    else:
        _print(report, target)
    if report.verdict == "failed":
        raise RegressionError(f"{artifact}: {report.reason}")


def _for_service(report: BenchReport, name: str) -> list[Any] | dict[str, Any]:
    from eqnet.stages.bench.formats import to_bencher, to_github_action

    if name == "github-action":
        return to_github_action(report)
    return to_bencher(report)


def _print(report: BenchReport, target: Path) -> None:
    from eqnet.cli.output import console, facts, table, verdict
    from eqnet.stages.bench.formats import latencies
    from eqnet.stages.report.wording import ratio_text

    columns = ("batch", "model", "median ms", "p90", "p99", "min", "mean", "images/s")
    rows = table(f"{report.profile}: {report.threads} threads", columns, columns[2:])
    ratios = []
    for one in report.batches:
        for name, latency in latencies(one):
            rows.add_row(str(one.batch), name, *_row(latency))
        if one.ratio is not None:
            ratio = ratio_text(one.ratio, one.ratio_interval)
            ratios.append(f"{ratio}, batch {one.batch}" if report.more else ratio)
    out = console()
    if rows.row_count:
        out.print(rows)
    told: dict[str, str | None] = {
        f"against {report.float_precision}": "; ".join(ratios) or None,
        "reason": report.reason or None,
    }
    for one in report.batches:
        if one.sampling is not None:
            name = f"sampling, batch {one.batch}" if report.more else "sampling"
            told[name] = _sampling(one.sampling)
    out.print(facts({**told, "report": str(target)}))
    out.print(verdict(report.verdict))


def _sampling(how: Sampling) -> str:
    sessions = f"{len(how.legs)} openings" if len(how.legs) > 1 else "1 opening"
    return f"{how.rounds} rounds, {sessions}, {how.pinned}; {how.stopped}"


def _row(latency: Latency) -> list[str]:
    times = (latency.median, latency.p90, latency.p99, latency.minimum, latency.mean)
    return [f"{value:.3f}" for value in times] + [f"{latency.throughput:.0f}"]
