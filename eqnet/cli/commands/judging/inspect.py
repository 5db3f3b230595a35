"""`eqnet inspect`: what any ONNX file holds in int8, and what each backend makes of it."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eqnet.cli.options import Json

HELP = """Say what an ONNX file quantizes, which layers each backend runs in int8, and why not.

Takes any ONNX file: float, QDQ or QOperator, of any tool; or an artifact's folder. Each installed
runtime loads it and is asked; no data is needed. Nothing is written.

\b
Examples:
  eqnet inspect model.onnx
  eqnet inspect model.onnx --layers --backend openvino
  eqnet inspect artifacts/onnxruntime_x86 --json"""


def inspect(
    model: Annotated[Path, typer.Argument(help="ONNX file, or a folder of 'eqnet export'.")],
    backend: Annotated[
        list[str] | None,
        typer.Option(help="Ask this one; may be repeated.", show_default="all that are known"),
    ] = None,
    layers: Annotated[bool, typer.Option("--layers", help="A row for each layer.")] = False,
    as_json: Json = False,
) -> None:
    """Inspect one file."""
    from eqnet.cli.output import print_json
    from eqnet.cli.tables.inspection import print_report
    from eqnet.stages.inspect import inspect as run

    report = run(model, backends=backend)
    if as_json:
        print_json(report)
    else:
        print_report(report, each=layers)
