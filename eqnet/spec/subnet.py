"""SubnetSpec: one static choice out of the elastic space, in a canonical, hashable form."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Literal

from pydantic import Field, ValidationError, field_validator, model_validator

from eqnet.spec.errors import CheckpointError, one_line
from eqnet.spec.fields import first_problem
from eqnet.spec.scheme import BITS, STORAGE_BITS, Form, Frozen, Scales
from eqnet.spec.texts import parse_json

SCHEMA_VERSION: Literal[1] = 1
REMAINDER: Literal["remainder"] = "remainder"
WeightChoice = int | Literal["remainder"]
STORAGE = ("weight_scales", "activation_scales", "weight_storage_bits")


class Score(Frozen):
    """What is known of a subnet: accuracies in [0, 1], bits on average, cost in `unit`."""

    accuracy: float | None = None
    images: int | None = None
    cost: float | None = None
    unit: str | None = None


class SubnetSpec(Frozen):
    """A subnet of one supernet.

    weights: layer name -> bits, or "remainder" for a layer that stays in float.
    activations: tensor name -> bits that the Conv and Linear readers of the tensor see.
    carriers: tensor name -> bits of the tensor as every other reader (Add, pool) sees it.
    A tensor that is in neither mapping is float.
    weight_scales: whether the scales that batch norm leaves are powers of two, and
    activation_scales: the same for tensors. weight_storage_bits: of the 8 that integer weights
    are stored in, those that they may use.
    """

    schema_version: Literal[1] = SCHEMA_VERSION
    supernet: str = Field(description="sha256 of the supernet's tensors and header")
    profile: str | None = Field(default=None, description="name of the hardware profile")
    profile_sha256: str | None = None
    form: Form
    weights: dict[str, WeightChoice]
    activations: dict[str, int]
    carriers: dict[str, int]
    weight_scales: Scales = Scales.FREE
    activation_scales: Scales = Scales.FREE
    weight_storage_bits: Literal[7, 8] = STORAGE_BITS
    avg_weight_bits: float
    avg_activation_bits: float
    predicted: Score | None = None
    measured: Score | None = None

    @field_validator("weights", "activations", "carriers")
    @classmethod
    def _known_bits(cls, value: dict[str, WeightChoice]) -> dict[str, WeightChoice]:
        for name, bits in value.items():
            if bits != REMAINDER and bits not in BITS:
                raise ValueError(f"{name}: {bits} bits (allowed: {BITS[0]} to {BITS[-1]})")
        return value

    @model_validator(mode="after")
    def _fits_in_storage(self) -> SubnetSpec:
        for name, bits in self.weights.items():
            if bits != REMAINDER and int(bits) > self.weight_storage_bits:
                raise ValueError(
                    f"weights.{name}: {bits} bits (allowed: {BITS[0]} to "
                    f"{self.weight_storage_bits}, the subnet's weight_storage_bits)"
                )
        return self

    def choices_json(self) -> str:
        """The choices alone, as canonical JSON: what two equal subnets share.

        Choices of storage are part of it where they are not the default.
        """
        names = {"supernet", "form", "weights", "activations", "carriers"}
        names |= {name for name in STORAGE if getattr(self, name) != _default(name)}
        choices = self.model_dump(mode="json", include=names)
        return json.dumps(choices, sort_keys=True, separators=(",", ":"))

    def sha256(self) -> str:
        """Hash of the canonical form; scores and the profile's name are not part of it."""
        return hashlib.sha256(self.choices_json().encode()).hexdigest()

    def quantized_layers(self) -> list[str]:
        """Names of the layers whose weights are integers."""
        return [name for name, bits in self.weights.items() if bits != REMAINDER]


def _default(name: str) -> object:
    return SubnetSpec.model_fields[name].default


def load_subnet(path: Path) -> SubnetSpec:
    """Read a subnet file. Raises CheckpointError with one line if it is not one."""
    try:
        return SubnetSpec.model_validate(parse_json(path.read_bytes()))
    except OSError as error:
        raise CheckpointError(f"{path}: cannot read the subnet: {error.strerror}") from error
    except ValidationError as error:
        raise CheckpointError(f"{path}: not a subnet file: {first_problem(error)}") from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not a subnet file: {one_line(error)}") from error
