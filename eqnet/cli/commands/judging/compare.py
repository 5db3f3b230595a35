"""`eqnet compare`: several models side by side."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eqnet.cli.options import Json, OwnData, Quiet, Seed
from eqnet.spec.hardware.limits import BATCH, REPEATS, THREADS

FORMATS = ("table", "markdown")
HELP = """Compare models side by side: size, int8 layers, latency, agreement, accuracy; no torch.

Takes artifacts and any ONNX file: float or quantized, of any tool. All run in turns, an artifact
in its own backend; latency is told against the first. Images are those of --data, else those that
the first artifact holds. What is not known is '-', and the reason is printed.

\b
Examples:
  eqnet compare float.onnx quantize_static.onnx artifacts/onnxruntime_x86
  eqnet compare nncf.onnx artifacts/openvino_asym --backend openvino --data photos
  eqnet compare main.onnx branch.onnx --format markdown >> "$GITHUB_STEP_SUMMARY\""""


def compare(
    models: Annotated[list[Path], typer.Argument(help="Artifacts or ONNX files, two or more.")],
    backend: Annotated[str, typer.Option(help="What runs the ONNX files.")] = "onnxruntime",
    data: OwnData = None,
    batch: Annotated[int, typer.Option(min=BATCH[0], max=BATCH[1], help="Images of a call.")] = 1,
    threads: Annotated[int, typer.Option(min=THREADS[0], max=THREADS[1], help="Threads.")] = 1,
    repeats: Annotated[
        int, typer.Option(min=REPEATS[0], max=REPEATS[1], help="Timed rounds.")
    ] = 50,
    seed: Seed = 0,
    layout: Annotated[str, typer.Option("--format", help="table or markdown.")] = "table",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Compare several models."""
    from eqnet.cli.options import require_folder
    from eqnet.cli.output import print_json
    from eqnet.cli.progress import progress
    from eqnet.cli.tables.comparison import print_report, to_markdown
    from eqnet.spec.errors import DataError, UsageError, unknown
    from eqnet.stages.compare import compare as run

    if layout not in FORMATS:
        raise UsageError(f"--format: {unknown('format', layout, FORMATS)}")
    require_folder("--data", data, DataError)
    with progress(quiet) as listener:
        report = run(
            models,
            backend=backend,
            data=data,
            batch=batch,
            threads=threads,
            repeats=repeats,
            seed=seed,
            progress=listener,
        )
    if as_json:
        print_json(report)
    elif layout == "markdown":
        typer.echo(to_markdown(report))
    else:
        print_report(report)
