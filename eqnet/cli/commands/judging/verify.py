"""`eqnet verify`: the artifact in its real runtime against PyTorch and the float model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eqnet.cli.options import Json, Quiet
from eqnet.spec.hardware.limits import THREADS

if TYPE_CHECKING:
    from eqnet.spec.reports import VerifyReport

HELP = """Run an artifact in its real runtime and judge it twice; needs no torch.

Is the export right? The files' hashes, top-1 agreement and the error of the logits against those
of PyTorch's subnet, and that the promised layers really ran in int8; with --data also the
accuracy. Is the quantization good? Top-1 agreement with the float model and the accuracy lost
against it. Where the logits are wrong, the runtime's tensors are compared with the reference
graph's one by one: the first layer that goes wrong is named. Prints the report, then exits with
11 if a check failed.

\b
Examples:
  eqnet verify artifacts/tensorrt_int8
  eqnet verify artifacts/openvino_asym --data /usr/share/datasets/fashion-mnist --json
  eqnet verify artifacts/openvino_asym --data photographs --locate
  eqnet verify artifacts/tensorrt_int8 --expect $DIGEST
  eqnet verify artifacts/onnxruntime_x86 --junit verify.xml \\
    --format markdown >> "$GITHUB_STEP_SUMMARY\""""

FORMATS = ("table", "markdown")


def verify(
    artifact: Annotated[Path, typer.Argument(help="Folder that 'eqnet export' wrote.")],
    data: Annotated[
        Path | None,
        typer.Option(
            help="Folder of images to be classified too, with labels or without: Fashion-MNIST IDX "
            "files, one folder of images a class, or any images.",
            show_default="none, the stored images alone",
        ),
    ] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=THREADS[0],
            max=THREADS[1],
            help="Threads of the runtime.",
            show_default="the runtime's own choice",
        ),
    ] = None,
    expect: Annotated[
        str | None,
        typer.Option(
            metavar="DIGEST",
            help="Refuse an artifact of another digest than this, which export printed.",
        ),
    ] = None,
    locate: Annotated[
        bool | None,
        typer.Option(
            "--locate/--no-locate",
            help="Compare the runtime's tensors one by one, and name the first wrong one.",
            show_default="where the logits are wrong",
        ),
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(help="File for the report.", show_default="ARTIFACT/verify.json"),
    ] = None,
    junit: Annotated[
        Path | None, typer.Option(help="File for the checks as JUnit XML.", show_default="none")
    ] = None,
    layout: Annotated[str, typer.Option("--format", help="table or markdown.")] = "table",
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Verify one artifact."""
    from eqnet.backend.files import write_file
    from eqnet.cli.options import parse_digest, require_artifact, require_folder, require_writable
    from eqnet.cli.output import print_json, to_json
    from eqnet.cli.progress import progress
    from eqnet.spec.errors import DataError, UsageError, VerificationError, unknown
    from eqnet.spec.progress import Stages

    expected = parse_digest("--expect", expect)
    require_artifact(artifact)
    require_folder("--data", data, DataError)
    target = out or artifact / "verify.json"
    require_writable(target, folder=False)
    if junit is not None:
        require_writable(junit, folder=False)
    if layout not in FORMATS:
        raise UsageError(f"--format: {unknown('format', layout, FORMATS)}")
    if as_json and layout != "table":
        raise UsageError("--json and --format: each prints a document (allowed: one of them)")
    from eqnet.stages.verify import to_junit, to_markdown
    from eqnet.stages.verify import verify as run

    with progress(quiet) as listener:
        stages = Stages(listener)
        report = run(
            artifact,
            data=data,
            threads=threads,
            expect=expected,
            locate=locate,
            progress=stages,
        )
        stages.close()
    write_file(target, to_json(report))
    if junit is not None:
        write_file(junit, to_junit(report))
    if as_json:
        print_json(report)
    elif layout == "markdown":
        typer.echo(to_markdown(report))
    else:
        _print_build(artifact)
        _print(report, target)
    if report.verdict == "failed":
        failed = [check.name for check in report.checks if check.verdict == "failed"]
        raise VerificationError(
            f"{artifact}: verification failed: {', '.join(failed)}{_where(report)}"
        )


def _where(report: VerifyReport) -> str:
    """The first wrong tensor, for the last line."""
    if report.location is None or report.location.tensor is None:
        return ""
    layer = report.location.layer
    by = f", layer '{layer}'" if layer else ""
    return f" (first wrong tensor: '{report.location.tensor}'{by})"


def _print_build(artifact: Path) -> None:
    """The table that the target's own compiler left in the artifact, where it has one."""
    from eqnet.backend.artifact import read_manifest
    from eqnet.cli.output import build_table, console

    build = read_manifest(artifact).build
    if build is not None:
        console().print(build_table(build))


def _print(report: VerifyReport, target: Path) -> None:
    from eqnet.cli.output import against_float, checks_table, console, facts, share, verdict
    from eqnet.cli.tables.verification import growth_table, location_facts, outputs_table

    out = console()
    out.print(checks_table(f"{report.profile} in {report.runtime}", report.checks))
    out.print(outputs_table(report.outputs))
    if report.location is not None:
        out.print(growth_table(report.location))
        out.print(location_facts(report.location))
        out.print()
    rows: dict[str, str | None] = {}
    if report.top1_agreement is not None:
        agreement = share(report.top1_agreement)
        rows["against PyTorch"] = f"{agreement} of {report.images} images agree"
    rows["against float"] = against_float(report.against_float)
    if report.accuracy is not None:
        rows["accuracy"] = share(report.accuracy)
    if report.test_accuracy is not None:
        accuracy = share(report.test_accuracy)
        rows["test accuracy"] = f"{accuracy} on {report.test_images} images"
    if report.int8_layers is not None:
        rows["int8"] = f"{report.int8_layers} of {report.layers} layers"
    rows["digest"] = report.digest
    rows["report"] = str(target)
    out.print(facts(rows))
    for name, answer in (
        ("export", report.export_verdict),
        ("quantization", report.quantization_verdict),
    ):
        if answer is not None:
            out.print(f"{name}:", verdict(answer))
    out.print(verdict(report.verdict))
