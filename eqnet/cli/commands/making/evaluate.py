"""`eqnet eval`: accuracy of one uniform subnet in PyTorch."""

from __future__ import annotations

from typing import Annotated

import typer

from eqnet.cli.options import AllowCode, Data, Json, Quiet, Seed, SupernetOption

HELP = """Accuracy of one uniform subnet of a supernet, in PyTorch.

\b
Examples:
  eqnet eval --bits w4a4
  eqnet eval --bits w4a4 --weights per_tensor:asymmetric \\
    --activations symmetric
  eqnet eval --bits w8a8 --scales power_of_two
  eqnet eval --bits w2a2 --placement paper --split validation --json"""


def evaluate(
    bits: Annotated[str, typer.Option(help="Weight and activation bits, 2 to 8 each.")] = "w8a8",
    weights: Annotated[
        str, typer.Option(help="per_tensor or per_channel, ':', symmetric or asymmetric.")
    ] = "per_channel:symmetric",
    activations: Annotated[str, typer.Option(help="symmetric or asymmetric.")] = "asymmetric",
    placement: Annotated[
        str,
        typer.Option(help="Where quantizers stand: a profile's name, or 'paper'."),
    ] = "onnxruntime_x86",
    supernet: SupernetOption = None,
    data: Data = None,
    split: Annotated[str, typer.Option(help="test or validation.")] = "test",
    scales: Annotated[
        str, typer.Option(help="free or power_of_two, of weights and activations.")
    ] = "free",
    seed: Seed = 0,
    allow_code: AllowCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Measure one uniform subnet."""
    from eqnet.cli.options import parse_bits, parse_form, require_folder
    from eqnet.cli.output import console, facts, judged, print_json, share
    from eqnet.cli.progress import progress
    from eqnet.spec.errors import CheckpointError, DataError
    from eqnet.spec.scheme import Scales

    weight_bits, activation_bits = parse_bits(bits)
    form = parse_form(weights, activations)
    _check_names(placement, split, scales)
    require_folder("--supernet", supernet, CheckpointError)
    require_folder("--data", data, DataError)
    from eqnet.stages.evaluate.evaluate import evaluate as run

    with progress(quiet) as listener:
        report = run(
            supernet=supernet,
            form=form,
            weight_bits=weight_bits,
            activation_bits=activation_bits,
            placement=placement,
            data=data,
            split=split,
            scales=Scales(scales),
            seed=seed,
            allow_code=allow_code,
            progress=listener,
        )
    if as_json:
        print_json(report)
        return
    console().print(
        facts(
            {
                "accuracy": f"{share(report.accuracy)} "
                f"({share(report.interval[0])} to {share(report.interval[1])})",
                "accuracies": judged(report.judge),
                "subnet": report.label,
                "placement": report.placement,
                "data": f"{report.dataset}, {report.split}, {report.images} images",
                "supernet": report.supernet,
            }
        )
    )


def _check_names(placement: str, split: str, scales: str) -> None:
    from eqnet.spec.errors import ProfileError, UsageError, unknown
    from eqnet.spec.hardware.load import builtin_profiles
    from eqnet.spec.scheme import Scales
    from eqnet.subnets.build import PAPER_STYLE

    placements = [*builtin_profiles(), PAPER_STYLE.name]
    if placement not in placements and not placement.endswith((".yaml", ".yml")):
        raise ProfileError(f"--placement: {unknown('placement', placement, placements)}")
    splits = ("test", "validation")
    if split not in splits:
        raise UsageError(f"--split: {unknown('split', split, splits)}")
    if scales not in tuple(Scales):
        raise UsageError(f"--scales: {unknown('choice', scales, Scales)}")
