"""The elastic quantization space: what a form is, and which integers it uses (EQ-Net).

The project's numerics are ``q = clamp(round_half_even(x / s) + z, lo, hi)`` and
``x' = (q - z) * s`` with an integer z inside [lo, hi].
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from typing import Literal, NamedTuple

from pydantic import BaseModel, ConfigDict

BITS: tuple[int, ...] = (2, 3, 4, 5, 6, 7, 8)
CARRIER_BITS = 8
STORAGE_BITS: Literal[8] = 8


class Frozen(BaseModel):
    """A value that passes between stages: immutable, strict about unknown keys, and without
    infinities and NaN, which JSON cannot hold."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Granularity(StrEnum):
    """How many scales a weight tensor has: one, or one for each output channel."""

    PER_TENSOR = "per_tensor"
    PER_CHANNEL = "per_channel"


class Symmetry(StrEnum):
    """Whether the zero-point is fixed at the middle of the range or free."""

    SYMMETRIC = "symmetric"
    ASYMMETRIC = "asymmetric"


class Scales(StrEnum):
    """Which scales quantizers may have: any, or powers of two, by which hardware just shifts."""

    FREE = "free"
    POWER_OF_TWO = "power_of_two"


class IntegerRange(NamedTuple):
    """The inclusive range of integers that a quantized tensor may hold."""

    lo: int
    hi: int


class Form(Frozen):
    """What is uniform over one subnet, and what CQAP is conditioned on."""

    weight_granularity: Granularity = Granularity.PER_CHANNEL
    weight_symmetry: Symmetry = Symmetry.SYMMETRIC
    activation_symmetry: Symmetry = Symmetry.ASYMMETRIC

    def label(self) -> str:
        """A short name, such as ``per_channel:symmetric/asymmetric``."""
        return f"{self.weight_granularity}:{self.weight_symmetry}/{self.activation_symmetry}"


def all_forms() -> Iterator[Form]:
    """The eight forms of the elastic space, in a fixed order."""
    for granularity in Granularity:
        for weight in Symmetry:
            for activation in Symmetry:
                yield Form(
                    weight_granularity=granularity,
                    weight_symmetry=weight,
                    activation_symmetry=activation,
                )


def weight_range(bits: int, symmetry: Symmetry) -> IntegerRange:
    """Integers of a b-bit weight.

    Symmetric weights are narrow-range at 8 bits (runtimes expect -127..127) and use the full
    range below, where one more level matters.
    """
    half = 1 << (bits - 1)
    if symmetry is Symmetry.SYMMETRIC and bits == 8:
        return IntegerRange(-half + 1, half - 1)
    return IntegerRange(-half, half - 1)


def activation_range(bits: int, symmetry: Symmetry, non_negative: bool) -> IntegerRange:
    """Integers of a b-bit activation.

    A non-negative tensor is always unsigned with its zero at the bottom, so the symmetric and
    the asymmetric form are one; a signed symmetric tensor is signed, a signed asymmetric one
    is unsigned with a free zero-point.
    """
    if non_negative or symmetry is Symmetry.ASYMMETRIC:
        return IntegerRange(0, (1 << bits) - 1)
    half = 1 << (bits - 1)
    return IntegerRange(-half, half - 1)
