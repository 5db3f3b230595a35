"""`eqnet explain`: what quantization costs and saves, place by place, and what to pin."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from eqnet.cli.options import AllowCode, Data, Json, Profile, Quiet, SupernetOption

HELP = """Say which layers, tensors and op groups quantization costs most in, and what to pin.

Each place is quantized alone and compared with the float network (KL of the classes'
probabilities, in nats) on unlabelled images, and what it saves is timed in the profile's runtime.
Remedies are pins of the profile, each measured on top of those before it. What was measured is
kept beside the supernet, and an interrupted run goes on.

\b
Examples:
  eqnet explain --profile onnxruntime_x86
  eqnet explain -p openvino_asym --supernet runs/mine --apply my_cpu.yaml
  eqnet explain -p custom_lowbit --subnet runs/search/custom_lowbit/subnet.json
  eqnet explain -p onnxruntime_x86 --images 256 --top 20 --no-latency --json"""


def explain(
    profile: Profile,
    supernet: SupernetOption = None,
    subnet: Annotated[
        Path | None, typer.Option(help="A subnet.json.", show_default="the default subnet")
    ] = None,
    data: Data = None,
    images: Annotated[
        int,
        typer.Option(
            min=2, max=10_000, help="That the worst places are measured on; needs no labels."
        ),
    ] = 128,
    top: Annotated[int, typer.Option(min=1, max=10_000, help="Worst places that are shown.")] = 12,
    latency: Annotated[
        bool, typer.Option("--latency/--no-latency", help="Whether costs are told.")
    ] = True,
    apply: Annotated[
        Path | None,
        typer.Option(
            help="Profile to write with the remedies, measured anew on other images.",
            show_default="none is written",
        ),
    ] = None,
    allow_code: AllowCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Explain one subnet."""
    from eqnet.cli.options import require_folder, require_writable
    from eqnet.cli.output import print_json
    from eqnet.cli.progress import progress
    from eqnet.cli.tables.explanation import print_explanation
    from eqnet.spec.errors import CheckpointError, DataError
    from eqnet.spec.hardware.load import load_profile

    load_profile(profile)
    require_folder("--supernet", supernet, CheckpointError)
    require_folder("--data", data, DataError)
    if subnet is not None and not subnet.is_file():
        raise CheckpointError(f"--subnet: {subnet}: no such file")
    if apply is not None:
        require_writable(apply, folder=False)
    from eqnet.stages.explain import explain as run

    with progress(quiet) as listener:
        report = run(
            profile=profile,
            supernet=supernet,
            subnet=subnet,
            data=data,
            images=images,
            top=top,
            latency=latency,
            apply=apply,
            allow_code=allow_code,
            progress=listener,
        )
    if as_json:
        print_json(report)
    else:
        print_explanation(report, top)
