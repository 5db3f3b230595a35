"""`eqnet train`: a float model and data in, an elastic supernet out."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

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
    SizeOption,
    Std,
    Weights,
    WeightsKey,
)
from eqnet.spec.errors import DataError, UsageError
from eqnet.spec.hardware.limits import MAX_SEED

if TYPE_CHECKING:
    from eqnet.stages.train.recipe import StaticRecipe

HELP = """Make an elastic supernet: train one by a recipe, or find the scales of your own model.

--recipe trains all bit-widths and forms at once, or with --static one of them alone, to compare
with: a network of the recipe's, or yours with its weights; images without labels are learned from
by distillation alone. --post-training takes any float classifier and a few hundred images, which
need no labels, and is done in minutes. Images are prepared as timm's or torchvision's
configuration of the network says; --size and the like say otherwise.

\b
Examples:
  eqnet train --recipe fashion_mnist_resnet20 --out runs/fm
  eqnet train --recipe fashion_mnist_resnet20 --out runs/fm \\
    --resume
  eqnet train --recipe fashion_mnist_resnet20 --out runs/w4 \\
    --static w4a4:per_tensor:symmetric
  eqnet train --recipe fine_tuning --model torchvision:resnet18 \\
    --weights resnet18.pth --data photos --out runs/tuned
  eqnet train --post-training --model torchvision:resnet18 \\
    --weights resnet18.pth --data photos --out runs/mine
  eqnet train --post-training --model my_package.nets:tiny --allow-code \\
    --weights tiny.pth --data scans --channels 1 --size 96x128 \\
    --mean 0.5 --std 0.5 --out runs/scans"""

_RECIPE_ONLY: tuple[str, ...] = ("resume", "static", "epochs", "batch", "tensorboard")
_POST_ONLY: tuple[str, ...] = ("reconstruct", "images")


def train(
    out: Annotated[Path, typer.Option(help="Folder to write the supernet to.")],
    recipe: Annotated[
        str | None,
        typer.Option(help="Recipe of elastic training: a YAML file, or a built-in one's name."),
    ] = None,
    post_training: Annotated[
        bool,
        typer.Option("--post-training", help="Find the scales of a float model; no training."),
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(help=SOURCES),
    ] = None,
    weights: Weights = None,
    weights_key: WeightsKey = None,
    data: OwnData = None,
    dataset: DatasetName = None,
    images: Annotated[
        int | None,
        typer.Option(min=1, help="Images for the scales, post-training.", show_default="256"),
    ] = None,
    size: SizeOption = None,
    resize: Resize = None,
    crop: Crop = None,
    mean: Mean = None,
    std: Std = None,
    channels: ChannelsOption = None,
    interpolation: InterpolationOption = None,
    reconstruct: Annotated[
        bool | None,
        typer.Option(
            "--reconstruct/--no-reconstruct",
            help="Fit every form's rounding to the layers' outputs: minutes, and low bits that "
            "work. Goes on where it was interrupted.",
            show_default="on, post-training",
        ),
    ] = None,
    static: Annotated[
        str | None,
        typer.Option(
            help="With --recipe: train for one form at one bit-width alone, such as "
            "w4a4:per_tensor:symmetric/asymmetric, or float.",
            show_default="all of them",
        ),
    ] = None,
    epochs: Annotated[
        int | None, typer.Option(min=1, help="Of elastic training.", show_default="the recipe's")
    ] = None,
    batch: Annotated[
        int | None, typer.Option(min=2, help="Of elastic training.", show_default="the recipe's")
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Write curves to OUT/tensorboard.")
    ] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Go on from --out.")] = False,
    device: Annotated[
        str | None, typer.Option(help="auto, cpu or cuda.", show_default="auto")
    ] = None,
    seed: Annotated[
        int | None,
        typer.Option(min=0, max=MAX_SEED, help="Seed.", show_default="the recipe's, or 0"),
    ] = None,
    allow_code: AllowCode = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Train one supernet."""
    from eqnet.cli.options import parse_inputs, parse_static, require_writable
    from eqnet.cli.progress import progress

    options: dict[str, Any] = {
        "size": size,
        "resize": resize,
        "crop": crop,
        "mean": mean,
        "std": std,
        "channels": channels,
        "interpolation": interpolation,
    }
    set_by_user = {
        "model": model is not None,
        "images": images is not None,
        "reconstruct": reconstruct is not None,
        "resume": resume,
        "static": static is not None,
        "epochs": epochs is not None,
        "batch": batch is not None,
        "tensorboard": tensorboard,
    }
    _check_mode(recipe, post_training, set_by_user)
    if data is not None and not data.exists():
        raise DataError(f"--data: {data}: no such folder")
    inputs = parse_inputs(**options)
    alone = None if static is None else parse_static(static)
    require_writable(out, folder=True)
    with progress(quiet) as listener:
        shared = {
            "model": model,
            "weights": weights,
            "weights_key": weights_key,
            "data": data,
            "dataset": dataset,
            "inputs": inputs,
            "device": device or "auto",
            "allow_code": allow_code,
            "progress": listener,
        }
        if recipe is not None:
            summary = _by_recipe(
                recipe,
                out,
                seed=seed,
                epochs=epochs,
                batch=batch,
                static=alone,
                tensorboard=tensorboard,
                resume=resume,
                **shared,
            )
        else:
            summary = _post_training(
                out=out,
                images=images or 256,
                reconstruct=reconstruct is not False,
                seed=seed or 0,
                **shared,
            )
    from eqnet.stages.train.workers import is_first

    if is_first():  # of several processes
        _print(summary, out, as_json)


def _check_mode(recipe: str | None, post_training: bool, set_by_user: dict[str, bool]) -> None:
    if (recipe is None) == (not post_training):
        raise UsageError("give either --recipe FILE or --post-training --model NAME")
    if post_training and not set_by_user["model"]:
        raise UsageError("--post-training needs --model, such as --model torchvision:resnet18")
    mode, foreign = "--recipe", _POST_ONLY
    if post_training:
        mode, foreign = "--post-training", _RECIPE_ONLY
    for name in foreign:
        if set_by_user[name]:
            raise UsageError(f"--{name.replace('_', '-')} has no meaning with {mode}")


def _by_recipe(
    recipe: str, out: Path, *, seed: int | None, static: StaticRecipe | None, **options: Any
) -> dict[str, Any]:
    from eqnet.stages.search.accuracy.predictor import make_predictor
    from eqnet.stages.train.devices import pick_device
    from eqnet.stages.train.elastic import train as elastic
    from eqnet.stages.train.recipe import load_recipe
    from eqnet.stages.train.workers import is_first

    summary = elastic(recipe, out, seed=seed, static=static, **options)
    plan = load_recipe(recipe)
    alone = static or plan.elastic.static
    # One subnet has nothing to predict.
    if alone is not None or plan.cqap is None or not is_first():
        return summary
    predictor = make_predictor(
        out,
        data=options["data"] or plan.data,
        subnets=plan.cqap.subnets,
        images=plan.cqap.images,
        epochs=plan.cqap.epochs,
        members=plan.cqap.seeds,
        seed=plan.seed if seed is None else seed,
        device=pick_device(options["device"]),
        allow_code=options["allow_code"],
        progress=options["progress"],
    )
    return {**summary, "predictor": predictor, "kendall_tau": predictor["kendall_tau"]}


def _post_training(**arguments: Any) -> dict[str, Any]:
    from eqnet.stages.train.post_training import post_training

    return post_training(**arguments)


def _print(summary: dict[str, Any], out: Path, as_json: bool) -> None:
    from eqnet.cli.output import console, facts, print_json, share
    from eqnet.spec.manifest import Preprocessing

    if "warning" in summary:
        typer.echo(f"warning: {summary['warning']}", err=True)
    for line in summary.get("notes", ()):
        typer.echo(f"note: {line}", err=True)
    if as_json:
        print_json({"out": str(out), **summary})
        return
    told = {}
    for name, value in summary.items():
        if name == "warning" or value is None or isinstance(value, list | dict):
            continue
        shown = share(value) if name.endswith("accuracy") else str(value)
        told[name.replace("_", " ")] = shown
    if "inputs" in summary:
        told["inputs"] = str(Preprocessing.model_validate(summary["inputs"]))
    console().print(facts({**told, "next": f"eqnet export --profile NAME --supernet {out}"}))
