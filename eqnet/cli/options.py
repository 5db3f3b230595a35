"""Options that several commands share, and the parsers of their short spellings.

The sugar (`w4a4`, `per_tensor:asymmetric`, `avg_weight_bits=4`, `5%`) lives here alone, but for
budgets with units, which Python takes too (`eqnet.subnets.limits`).
"""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from eqnet.spec.errors import ArtifactError, OutputError, UsageError, unknown
from eqnet.spec.hardware.limits import BATCH, MAX_SECONDS, MAX_SEED, REPEATS, THREADS

if TYPE_CHECKING:
    from eqnet.spec.inputs import Inputs
    from eqnet.spec.scheme import Form, Symmetry
    from eqnet.stages.train.recipe import StaticRecipe
    from eqnet.subnets.limits import Budget

Seed = Annotated[int, typer.Option(min=0, max=MAX_SEED, help="Seed of every random choice.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and no table.")]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress bars.")]
SupernetOption = Annotated[
    Path | None,
    typer.Option(help="Folder of a trained supernet.", show_default="the bundled one"),
]
Data = Annotated[
    Path | None,
    typer.Option(
        help="Folder with the data: images, with a folder for each class or without, or "
        "Fashion-MNIST IDX files.",
        show_default="the bundled slice, or what is found",
    ),
]
AllowCode = Annotated[
    bool,
    typer.Option(
        "--allow-code",
        help="Let a supernet made from 'module:callable' import and run that module.",
    ),
]
Threads = Annotated[
    int | None,
    typer.Option(
        min=THREADS[0], max=THREADS[1], help="Threads of the runtime.", show_default="the profile's"
    ),
]
# When a measurement of latency is enough.
Repeats = Annotated[
    int | None,
    typer.Option(
        min=REPEATS[0],
        max=REPEATS[1],
        help="A fixed number of timed rounds.",
        show_default="as many as --precision needs",
    ),
]
Precision = Annotated[
    str | None,
    typer.Option(help="Half width of the 95% intervals at which it is enough.", show_default="2%"),
]
MaxSeconds = Annotated[
    float | None,
    typer.Option(
        min=MAX_SECONDS[0],
        max=MAX_SECONDS[1],
        help="Most time of a measurement's calls.",
        show_default="10",
    ),
]
Profile = Annotated[
    str,
    typer.Option(
        "--profile", "-p", help="Built-in name ('eqnet profiles list') or a YAML file's path."
    ),
]

# A float model of one's own, and its images.
SOURCES = "torchvision:NAME, timm:NAME, eqnet:resnet20, or module:callable."
Weights = Annotated[
    Path | None,
    typer.Option(help="State dict, or a checkpoint with one.", show_default="the model's own"),
]
WeightsKey = Annotated[
    str | None,
    typer.Option(help="Which weights of a checkpoint.", show_default="averaged, if there are"),
]
OwnData = Annotated[
    Path | None, typer.Option(help="Folder of images, by class or not, or of IDX files.")
]
DatasetName = Annotated[
    str | None, typer.Option(help="Name of the data set.", show_default="by the folder")
]

# How images become a network's input; see `parse_inputs`.
SizeOption = Annotated[
    str | None,
    typer.Option(help="Input size, HxW or one number.", show_default="the network's own"),
]
Resize = Annotated[
    str | None,
    typer.Option(
        help="Before the center crop: N, the shorter side; or HxW, squashed to it.",
        show_default="by --crop",
    ),
]
Crop = Annotated[
    float | None,
    typer.Option(
        help="Share of the resized side that the center crop keeps, as timm's crop_pct.",
        show_default="the network's own",
    ),
]
Mean = Annotated[
    str | None,
    typer.Option(
        help="Mean of pixels / 255: one number or one a channel, such as 0.5 or 127/255.",
        show_default="the network's own",
    ),
]
Std = Annotated[
    str | None,
    typer.Option(help="Standard deviation, as --mean.", show_default="the network's own"),
]
ChannelsOption = Annotated[
    int | None,
    typer.Option(help="1 (gray), 3 (RGB) or 4 (RGBA).", show_default="the network's own"),
]
InterpolationOption = Annotated[
    str | None,
    typer.Option(
        help="nearest, bilinear, bicubic, lanczos, box or hamming, filtered as Pillow does.",
        show_default="the network's own",
    ),
]


def parse_inputs(
    *,
    size: str | None = None,
    resize: str | None = None,
    crop: float | None = None,
    mean: str | None = None,
    std: str | None = None,
    channels: int | None = None,
    interpolation: str | None = None,
) -> Inputs:
    """The options of how images become inputs as one value. Raises UsageError."""
    from eqnet.spec.inputs import Inputs

    return Inputs(
        size=_sides("--size", size),
        resize=_sides("--resize", resize),
        crop=crop,
        mean=_numbers("--mean", mean),
        std=_numbers("--std", std),
        channels=channels,
        interpolation=interpolation,
    )


def _sides(option: str, text: str | None) -> int | tuple[int, int] | None:
    if text is None:
        return None
    match = re.fullmatch(r"(\d{1,6})(?:\s*[xX\u00d7*,]\s*(\d{1,6}))?", text.strip())
    if match is None:
        raise UsageError(f"{option}: found '{text}' (allowed: N or HxW, such as 224 or 224x160)")
    if match[2] is None:
        return int(match[1])
    return int(match[1]), int(match[2])


def _numbers(option: str, text: str | None) -> tuple[float, ...] | None:
    """`0.5`, `127/255` or `0.485,0.456,0.406`; spaces may stand for commas."""
    if text is None:
        return None
    parts = text.replace(",", " ").split()
    try:
        numbers = tuple(_ratio(part) for part in parts)
    except (ValueError, ZeroDivisionError):
        numbers = ()
    if not numbers:
        raise UsageError(
            f"{option}: found '{text}' (allowed: a number or one a channel, such as 0.5, 127/255 "
            "or 0.485,0.456,0.406)"
        )
    return numbers


def _ratio(text: str) -> float:
    number, slash, divisor = text.partition("/")
    if not slash:
        return float(number)
    return float(number) / float(divisor)


def parse_bits(text: str) -> tuple[int, int]:
    """`w4a8` as (weight bits, activation bits). Raises UsageError."""
    from eqnet.spec.scheme import BITS

    match = re.fullmatch(r"w(\d{1,2})a(\d{1,2})", text.strip().lower())
    bits = (0, 0)
    if match is not None:
        bits = (int(match[1]), int(match[2]))
    if any(value not in BITS for value in bits):
        raise UsageError(
            f"--bits: found '{text}' (allowed: w<N>a<M> with N and M from {BITS[0]} to {BITS[-1]}, "
            "such as w4a4)"
        )
    return bits


def parse_form(weights: str, activations: str) -> Form:
    """`per_tensor:asymmetric` and `symmetric` as a Form. Raises UsageError."""
    from eqnet.spec.scheme import Form, Granularity

    granularity, _, symmetry = weights.strip().lower().partition(":")
    allowed = [item.value for item in Granularity]
    if granularity not in allowed:
        raise UsageError(f"--weights: {unknown('granularity', granularity, allowed)}")
    return Form(
        weight_granularity=Granularity(granularity),
        weight_symmetry=_symmetry("--weights", symmetry or "symmetric"),
        activation_symmetry=_symmetry("--activations", activations.strip().lower()),
    )


def parse_static(text: str) -> StaticRecipe:
    """`w4a4:per_tensor:symmetric/asymmetric`, or `float`. Raises UsageError."""
    from eqnet.stages.train.recipe import StaticRecipe

    text = text.strip().lower()
    if text == "float":
        return StaticRecipe()
    bits, _, form = text.partition(":")
    weights, _, activations = (form or "per_channel").partition("/")
    try:
        weight_bits, activation_bits = parse_bits(bits)
        parsed = parse_form(weights, activations or "asymmetric")
    except UsageError as error:
        raise UsageError(
            f"--static: found '{text}' (allowed: float, or bits and a form such as "
            "w4a4:per_tensor:symmetric/asymmetric, with per_tensor or per_channel)"
        ) from error
    return StaticRecipe(weight_bits=weight_bits, activation_bits=activation_bits, form=parsed)


def _symmetry(option: str, text: str) -> Symmetry:
    from eqnet.spec.scheme import Symmetry

    allowed = [item.value for item in Symmetry]
    if text not in allowed:
        raise UsageError(f"{option}: {unknown('symmetry', text, allowed)}")
    return Symmetry(text)


def parse_budgets(texts: Sequence[str]) -> dict[str, Budget]:
    """`avg_weight_bits=4`, `size=300KB`, `latency=0.5x` and the like by name. Raises UsageError."""
    from eqnet.subnets.limits import parse_limit

    budgets: dict[str, Budget] = {}
    for text in texts:
        given, _, value = text.partition("=")
        name, limit = parse_limit(given.strip(), value.strip())
        if name in budgets:
            raise UsageError(f"--budget: {name} is given twice (allowed: once)")
        budgets[name] = limit
    return budgets


def parse_accuracy(option: str, text: str | None) -> float | None:
    """A top-1 accuracy in percent, `92.5` or `92.5%`, as 0.925. Raises UsageError."""
    if text is None:
        return None
    number = text.strip().removesuffix("%")
    try:
        value = float(number)
    except ValueError:
        value = float("nan")
    if not 1 <= value <= 100:
        raise UsageError(f"{option}: found '{text}' (allowed: 1 to 100 percent, such as 92.5)")
    return value / 100


def parse_pick(text: str | None) -> str | int | None:
    """`knee`, `fastest`, `most-accurate`, or a point's number. Raises UsageError."""
    from eqnet.spec.reports import PICKS

    if text is None or text in PICKS:
        return text
    if re.fullmatch(r"\d{1,6}", text.strip()):
        return int(text)
    raise UsageError(
        f"--pick: found '{text}' (allowed: {', '.join(PICKS)}, or a number of the front's table)"
    )


def parse_percent(option: str, text: str) -> float:
    """`5%` or `0.05` as 0.05. Raises UsageError for what is not a share between 0 and 1."""
    number, scale = text.strip(), 1.0
    if number.endswith("%"):
        number, scale = number[:-1], 100.0
    try:
        value = float(number) / scale
    except ValueError:
        value = float("nan")
    if not 0 <= value <= 1:
        raise UsageError(f"{option}: found '{text}' (allowed: 0% to 100%, such as 5% or 0.05)")
    return value


def parse_batches(text: str | None) -> list[int] | None:
    """`1` or `1,8` as numbers of images. Raises UsageError."""
    if text is None:
        return None
    parts = [part.strip() for part in text.split(",")]
    batches = [int(part) for part in parts if re.fullmatch(r"[0-9]{1,6}", part)]
    outside = [batch for batch in batches if not BATCH[0] <= batch <= BATCH[1]]
    if len(batches) < len(parts) or outside or len(set(batches)) < len(batches):
        raise UsageError(
            f"--batch: found '{text}' (allowed: {BATCH[0]} to {BATCH[1]}, or several such as 1,8)"
        )
    return batches


def parse_digest(option: str, text: str | None) -> str | None:
    """A sha256 in hexadecimal digits. Raises UsageError for anything else."""
    from eqnet.spec.seal import DIGITS

    if text is None:
        return None
    if re.fullmatch(rf"[0-9a-fA-F]{{{DIGITS}}}", text.strip()):
        return text.strip().lower()
    raise UsageError(f"{option}: found '{text[:80]}' (allowed: {DIGITS} hexadecimal digits)")


def parse_names(option: str, text: str | None, allowed: Sequence[str]) -> list[str]:
    """`a,b` as a list of allowed names; all of them when not given. Raises UsageError."""
    if text is None:
        return list(allowed)
    names = [name.strip() for name in text.split(",") if name.strip()]
    for name in names:
        if name not in allowed:
            raise UsageError(f"{option}: {unknown('profile', name, allowed)}")
    if not names:
        raise UsageError(f"{option}: none given (allowed: {', '.join(allowed)})")
    return list(dict.fromkeys(names))


def require_folder(option: str, path: Path | None, error: type[Exception]) -> None:
    """Check early that a folder given by the user is there."""
    if path is not None and not path.is_dir():
        raise error(f"{option}: {path}: {_no_folder(path)}")


def require_artifact(path: Path) -> None:
    """Check early that a path is an artifact folder. Raises ArtifactError."""
    from eqnet.spec.manifest import MANIFEST

    if not path.is_dir():
        what = _no_folder(path)
        raise ArtifactError(f"{path}: {what} (allowed: a folder that 'eqnet export' wrote)")
    if not (path / MANIFEST).is_file():
        raise ArtifactError(f"{path}: not an artifact: no {MANIFEST} in it")


def _no_folder(path: Path) -> str:
    return "not a folder" if path.exists() else "no such folder"


def require_writable(path: Path, *, folder: bool) -> None:
    """Check before long work that `path`, a folder or a file to come, can be written later.

    Nothing is left behind. Raises OutputError.
    """
    if path.exists() and path.is_dir() != folder:
        present, allowed = "a folder", "a file"
        if folder:
            present, allowed = allowed, present
        raise OutputError(f"{path}: is {present} (allowed: {allowed}, or a new name)")
    if path.exists() and not path.is_file() and not path.is_dir():
        return  # a device or a pipe, which is written to
    path = Path(os.path.realpath(path)) if path.is_symlink() else path
    nearest = path if path.is_dir() else path.absolute().parent
    while not nearest.exists() and nearest != nearest.parent:
        nearest = nearest.parent
    try:
        with tempfile.TemporaryFile(dir=nearest):
            pass
    except OSError as error:
        raise OutputError(f"{path}: cannot write: {error.strerror} (see --out)") from error
