"""`eqnet quantize`: a float model and images in, verified artifacts for several targets out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eqnet.cli.options import (
    SOURCES,
    AllowCode,
    ChannelsOption,
    Crop,
    DatasetName,
    InterpolationOption,
    Json,
    Mean,
    OwnData,
    Quiet,
    Resize,
    Seed,
    SizeOption,
    Std,
    Weights,
    WeightsKey,
)

if TYPE_CHECKING:
    from eqnet.stages.quantize import QuantizeResult

HELP = """Quantize your own float classifier for one or several targets.

Makes one supernet of it, without training, from a few hundred images that need no labels; then
for each --profile a subnet is searched where that takes under a minute, exported, verified in
the target's runtime against PyTorch and against the float model, and timed. It ends with one
table and OUT/report.html. The steps are those of 'eqnet train --post-training', 'search',
'export', 'verify', 'bench' and 'report', whose --help says more.

Goes on from an earlier run with the same settings: what is done is only verified again. A
profile that fails has its reason in the table, the others go on, and the exit code is 11.

\b
Examples:
  eqnet quantize --model timm:resnet18 --weights w.pth --data photos \\
    --profile openvino_asym --out deploy
  eqnet quantize --model timm:resnet18 --weights w.pth --data photos \\
    --profile openvino_asym --profile onnxruntime_x86 --no-reconstruct
  eqnet quantize --model my_package.nets:tiny --allow-code \\
    --weights tiny.pth --data scans --channels 1 --size 96x128 \\
    --mean 0.5 --std 0.5 -p my_chip.yaml --search always"""


def quantize(
    model: Annotated[
        str,
        typer.Option(help=SOURCES),
    ],
    profile: Annotated[
        list[str],
        typer.Option(
            "--profile",
            "-p",
            help="Built-in name ('eqnet profiles list') or a YAML file's path; may be repeated.",
        ),
    ],
    weights: Weights = None,
    weights_key: WeightsKey = None,
    data: OwnData = None,
    dataset: DatasetName = None,
    out: Annotated[Path, typer.Option(help="Folder for supernet, artifacts and page.")] = Path(
        "deploy"
    ),
    images: Annotated[int, typer.Option(min=1, help="Images for the scales.")] = 256,
    size: SizeOption = None,
    resize: Resize = None,
    crop: Crop = None,
    mean: Mean = None,
    std: Std = None,
    channels: ChannelsOption = None,
    interpolation: InterpolationOption = None,
    reconstruct: Annotated[
        bool,
        typer.Option(
            "--reconstruct/--no-reconstruct",
            help="Fit every form's rounding to the layers' outputs: minutes, and low bits that "
            "work.",
        ),
    ] = True,
    search: Annotated[
        str, typer.Option(help="auto (where it takes under a minute), always or never.")
    ] = "auto",
    race: Annotated[
        bool, typer.Option(help="Time a default subnet against the float model first.")
    ] = True,
    device: Annotated[str, typer.Option(help="For the scales: auto, cpu or cuda.")] = "auto",
    seed: Seed = 0,
    allow_code: AllowCode = False,
    force: Annotated[
        bool, typer.Option("--force", help="Make everything anew, whatever --out holds.")
    ] = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run the whole way."""
    from eqnet.cli.options import parse_inputs, require_folder, require_writable
    from eqnet.cli.output import print_json
    from eqnet.cli.progress import progress
    from eqnet.spec.errors import DataError, VerificationError

    inputs = parse_inputs(
        size=size,
        resize=resize,
        crop=crop,
        mean=mean,
        std=std,
        channels=channels,
        interpolation=interpolation,
    )
    require_folder("--data", data, DataError)
    require_writable(out, folder=True)
    from eqnet.stages.quantize import quantize as run

    with progress(quiet) as listener:
        result = run(
            model=model,
            weights=weights,
            weights_key=weights_key,
            data=data,
            dataset=dataset,
            profiles=profile,
            out=out,
            images=images,
            inputs=inputs,
            reconstruct=reconstruct,
            search=search,
            race=race,
            seed=seed,
            device=device,
            allow_code=allow_code,
            force=force,
            progress=listener,
        )
    _warn(result)
    if as_json:
        print_json(result)
    else:
        _print(result)
    failed = [row.profile for row in result.rows if row.verdict == "failed"]
    if failed:
        raise VerificationError(f"failed: {', '.join(failed)} (the table says why)")


def _warn(result: QuantizeResult) -> None:
    from eqnet.cli.output import note

    if "warning" in result.training:
        note(f"warning: {result.training['warning']}")
    for line in result.training.get("notes", ()):
        note(f"note: {line}")


def _print(result: QuantizeResult) -> None:
    from eqnet.cli.output import console, facts
    from eqnet.spec.manifest import Preprocessing
    from eqnet.stages.report.terminal import float_table

    out = console()
    out.print(float_table(result.rows))
    inputs, origin = result.training.get("inputs"), result.training.get("inputs_from")
    rows: dict[str, str | None] = {}
    if inputs:
        rows["inputs"] = str(Preprocessing.model_validate(inputs))
    if origin:
        rows["inputs from"] = str(origin)
    rows["supernet"] = str(result.supernet)
    if result.reused:
        rows["supernet"] = f"{result.supernet}, of an earlier run"
    rows |= result.subnets
    rows["report"] = str(result.report)
    rows["time"] = f"{result.seconds:.0f} s"
    out.print(facts(rows))
