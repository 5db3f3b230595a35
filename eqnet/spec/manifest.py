"""Manifest of an artifact folder: what is in it, where it came from, what it promises."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from eqnet.spec.hardware.profile import HardwareProfile
from eqnet.spec.judging.comparison import FloatComparison
from eqnet.spec.scheme import Frozen
from eqnet.spec.subnet import SubnetSpec

SCHEMA_VERSION: Literal[1] = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
REFERENCE = "reference.onnx"
PARITY = "parity.safetensors"


Interpolation = Literal["nearest", "bilinear", "bicubic", "lanczos", "box", "hamming"]
Fit = Literal["cover", "squash", "contain"]
MAX_SIDE = 4096
Side = Annotated[int, Field(ge=1, le=MAX_SIDE)]
InputShape = tuple[Annotated[int, Field(ge=1, le=64)], Side, Side]
Classes = Annotated[int, Field(ge=1, le=1_000_000)]


class Preprocessing(Frozen):
    """From an image file to a network's input, in every place where eqnet reads images.

    An image is converted to as many channels as there are means (1: gray, 3: RGB, 4: RGBA),
    resized to the box `resize`, and the middle `size` of it is cut out; then float32 input =
    (pixels / 255 - mean) / std, for uint8 pixels of shape [N, C, H, W].

    mean, std: one number for each of the C channels, std above 0. size: H, W of the input; None
    in files of before it was stored. resize: H, W of the box (None: `size`). fit: how an image
    meets the box: its sides keep their ratio and cover it (a square box is the shorter side),
    are squashed into it, or keep their ratio and lie inside of it, with the mean as border.
    interpolation: of Pillow, which always filters when it shrinks.
    """

    mean: tuple[float, ...] = Field(min_length=1)
    std: tuple[Annotated[float, Field(gt=0)], ...]
    size: tuple[Side, Side] | None = None
    resize: tuple[Side, Side] | None = None
    fit: Fit = "cover"
    interpolation: Interpolation = "bilinear"

    @model_validator(mode="after")
    def _paired(self) -> Preprocessing:
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"{len(self.mean)} means and {len(self.std)} deviations (allowed: as many of each)"
            )
        if self.resize is not None and self.size is None:
            raise ValueError("resize without size (allowed: both, or none of them)")
        return self

    @property
    def channels(self) -> int:
        """C of the input."""
        return len(self.mean)

    def complete(self, height: int, width: int) -> Preprocessing:
        """These rules, and where they lack a size that of the input, as a crop of 224 in 256 is:
        what was done with every image folder before files said it."""
        if self.size is not None:
            return self
        box = (round(height * 256 / 224), round(width * 256 / 224))
        return self.model_copy(update={"size": (height, width), "resize": box})

    def __str__(self) -> str:
        """In words, such as ``3 x 224 x 224: shorter side to 256, bilinear, center crop; ...``."""
        values = f"mean {_listed(self.mean)}; std {_listed(self.std)}"
        if self.size is None:
            return f"{self.channels} channels; {values}"
        (height, width), box = self.size, self.resize or self.size
        how = f"{self._resizing(*box)}, {self.interpolation}"
        if self.fit != "squash" or box != self.size:
            how += ", center crop"
        return f"{self.channels} x {height} x {width}: {how}; {values}"

    def _resizing(self, height: int, width: int) -> str:
        """How an image meets a box, in words."""
        if self.fit == "squash":
            return f"squashed to {height} x {width}"
        if self.fit == "contain":
            return f"fitted into {height} x {width}"
        if height == width:
            return f"shorter side to {height}"
        return f"to cover {height} x {width}"


def _listed(numbers: tuple[float, ...]) -> str:
    return ", ".join(f"{number:.4g}" for number in numbers)


class ModelInfo(Frozen):
    """The network behind the artifact. classes: width of its logits; 1 tells two classes."""

    source: str
    input_shape: InputShape = Field(description="C, H, W of one image")
    classes: Classes
    float_accuracy: float | None = Field(
        default=None, description="of the float model it began as, in [0, 1], on the parity images"
    )
    dataset: str | None = Field(
        default=None, description="name of the dataset, such as `verify` opens"
    )
    random_weights: bool = Field(
        default=False, description="no weights were given: accuracies mean nothing"
    )


class ParitySet(Frozen):
    """What parity.safetensors holds.

    `pixels` uint8 [N,C,H,W], `logits` float32 [N,K] of the PyTorch subnet, `labels` int64 [N]
    where known (-1 where not), and `float_logits` float32 [N,K] of the float model where the
    supernet still is that model, which one that was trained further is not.
    """

    images: Annotated[int, Field(ge=1)]
    source: str
    logit_step: float = Field(description="(max - min) of the PyTorch logits / 255")
    accuracy: float | None = Field(default=None, description="PyTorch subnet, in [0, 1]")
    against_float: FloatComparison | None = Field(
        default=None, description="the PyTorch subnet against the float model"
    )


class BuildReport(Frozen):
    """What a target's own compiler said of an artifact, for people to read.

    facts: such as the command that repeats the build. columns and rows: one table.
    """

    facts: dict[str, str] = Field(default_factory=dict)
    columns: tuple[str, ...] = ()
    rows: tuple[tuple[str, ...], ...] = ()


class Raced(Frozen):
    """One model of a race: median time of a batch, and its ratio to the float model's, paired,
    with a 95% interval."""

    name: str
    milliseconds: Annotated[float, Field(ge=0)]
    to_float: Annotated[float, Field(ge=0)]
    interval: tuple[float, float]


FLOAT, DEFAULT, ALL_FLOAT = "float model", "default", "all in float"
"""Of a race's entries: the model without quantization, the profile's default subnet, and the
subnet that leaves everything in float."""


class Race(Frozen):
    """How the subnet was chosen where nothing was searched: by time, on the exporting machine.

    The float model, whose ratio is 1, ran in `float_precision`, the fastest that the runtime has
    on that machine.
    """

    chosen: str
    entries: tuple[Raced, ...]
    float_precision: str = "float32"

    @property
    def winner(self) -> Raced:
        """The entry of the subnet that was taken. Raises KeyError where there is none."""
        for entry in self.entries:
            if entry.name == self.chosen:
                return entry
        raise KeyError(self.chosen)

    @property
    def slower_than_float(self) -> bool:
        """Whether what was taken is slower than the float model by more than chance."""
        return self.winner.interval[0] > 1.0


class Manifest(Frozen):
    """manifest.json."""

    schema_version: Literal[1] = SCHEMA_VERSION
    backend: str
    profile: HardwareProfile
    subnet: SubnetSpec
    subnet_origin: str = Field(
        description="'search', 'default', 'race' or the path of a subnet file"
    )
    race: Race | None = Field(
        default=None, description="the times by which a subnet was taken, where none was searched"
    )
    model: ModelInfo
    preprocessing: Preprocessing
    parity: ParitySet
    layers: tuple[str, ...] = Field(description="every Conv and Linear, in graph order")
    int8_layers: tuple[str, ...] = Field(description="those that the runtime must run in int8")
    slow: tuple[str, ...] = Field(
        default=(), description="demands that the target runs slowly, accepted by the profile"
    )
    weight_bytes: int = Field(description="sum of bits of all weights and biases / 8, rounded up")
    build: BuildReport | None = Field(
        default=None, description="what the target's own compiler said, where it has one"
    )
    versions: dict[str, str]
    files: dict[str, str] = Field(description="file name -> sha256")
    digest: str = Field(
        default="", description="sha256 of all the rest, put there when it is written"
    )

    @property
    def inputs(self) -> Preprocessing:
        """The preprocessing, with a size in any case."""
        size = self.model.input_shape[1:]
        if self.preprocessing.size is None and self.model.dataset != "image_folder":
            return self.preprocessing.model_copy(update={"size": size})
        return self.preprocessing.complete(*size)

    @model_validator(mode="after")
    def _takes_its_inputs(self) -> Manifest:
        means, channels = len(self.preprocessing.mean), self.model.input_shape[0]
        if means != channels:
            raise ValueError(
                f"preprocessing: {means} channels (allowed: {channels}, as in model.input_shape)"
            )
        size = self.preprocessing.size
        if size is not None and size != self.model.input_shape[1:]:
            raise ValueError(
                f"preprocessing: size {list(size)} (allowed: {list(self.model.input_shape[1:])}, "
                "as in model.input_shape)"
            )
        return self
