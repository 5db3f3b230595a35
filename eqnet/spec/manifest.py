"""Manifest of an artifact folder: what is in it, where it came from, what it promises."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, model_validator

from eqnet.spec.comparison import FloatComparison
from eqnet.spec.profile import HardwareProfile
from eqnet.spec.scheme import Frozen
from eqnet.spec.subnet import SubnetSpec

SCHEMA_VERSION: Literal[1] = 1
MANIFEST = "manifest.json"
MODEL = "model.onnx"
REFERENCE = "reference.onnx"
PARITY = "parity.safetensors"


class Preprocessing(Frozen):
    """float32 input = (pixels / 255 - mean) / std, for uint8 pixels of shape [N, C, H, W].

    mean, std: one number for each of the C channels, std above 0.
    """

    mean: tuple[float, ...] = Field(min_length=1)
    std: tuple[Annotated[float, Field(gt=0)], ...]

    @model_validator(mode="after")
    def _paired(self) -> Preprocessing:
        if len(self.mean) != len(self.std):
            raise ValueError(
                f"{len(self.mean)} means and {len(self.std)} deviations (allowed: as many of each)"
            )
        return self


class ModelInfo(Frozen):
    """The network behind the artifact. classes: width of its logits; 1 tells two classes."""

    source: str
    input_shape: tuple[int, int, int] = Field(description="C, H, W of one image")
    classes: int
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


class Manifest(Frozen):
    """manifest.json."""

    schema_version: Literal[1] = SCHEMA_VERSION
    backend: str
    profile: HardwareProfile
    subnet: SubnetSpec
    subnet_origin: str = Field(description="'search', 'default' or the path of a subnet file")
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

    @model_validator(mode="after")
    def _has_channels(self) -> Manifest:
        found, channels = len(self.preprocessing.mean), self.model.input_shape[0]
        if found != channels:
            raise ValueError(
                f"preprocessing: {found} channels (allowed: {channels}, as in model.input_shape)"
            )
        return self
