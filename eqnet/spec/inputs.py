"""What a user says of a network's inputs; what is left out follows from the network."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import get_args

from eqnet.spec.errors import UsageError, unknown
from eqnet.spec.manifest import MAX_SIDE, Interpolation

CHANNELS = (1, 3, 4)
INTERPOLATIONS: tuple[str, ...] = get_args(Interpolation)


@dataclass(frozen=True)
class Inputs:
    """How images become a network's input; None is what the network's own configuration says.

    size: H and W of the input, one number for both. resize: one number, that the shorter side
    becomes before the middle is cut out; or H and W, to which an image is squashed. crop: instead
    of resize, the share of the resized image's side that the crop keeps, in (0, 1], as timm's
    crop_pct. mean, std: of pixels / 255, one number for all channels or one for each. channels:
    1 (gray), 3 (RGB) or 4 (RGBA). interpolation: nearest, bilinear, bicubic, lanczos, box or
    hamming. Raises UsageError for values outside of what is allowed.
    """

    size: int | tuple[int, int] | None = None
    resize: int | tuple[int, int] | None = None
    crop: float | None = None
    mean: float | Sequence[float] | None = None
    std: float | Sequence[float] | None = None
    channels: int | None = None
    interpolation: str | None = None

    def __post_init__(self) -> None:
        for name in ("size", "resize"):
            _check_sides(name, getattr(self, name))
        for name in ("mean", "std"):
            _check_values(name, getattr(self, name), self.channels)
        if self.crop is not None and not 0 < self.crop <= 1:
            raise UsageError(f"crop {self.crop:g} (allowed: a share above 0, at most 1)")
        if self.crop is not None and self.resize is not None:
            raise UsageError("crop and resize both say what surrounds the crop (allowed: one)")
        if self.channels is not None and self.channels not in CHANNELS:
            raise UsageError(f"{self.channels} channels (allowed: 1, 3 or 4)")
        if self.interpolation is not None and self.interpolation not in INTERPOLATIONS:
            raise UsageError(unknown("interpolation", self.interpolation, INTERPOLATIONS))

    def named(self) -> list[str]:
        """Names of what the user said."""
        return [item.name for item in fields(self) if getattr(self, item.name) is not None]


def pair(sides: int | tuple[int, int]) -> tuple[int, int]:
    """H and W of one number, or of two."""
    return sides if isinstance(sides, tuple) else (sides, sides)


def each(values: float | Sequence[float], channels: int) -> tuple[float, ...]:
    """One number for each channel. Raises UsageError for another number of them."""
    numbers = (values,) if isinstance(values, int | float) else tuple(values)
    if len(numbers) == 1:
        return numbers * channels
    if len(numbers) != channels:
        raise UsageError(
            f"{len(numbers)} means or deviations for {channels} channels (allowed: 1, or "
            f"{channels}; see channels)"
        )
    return numbers


def _check_sides(name: str, sides: int | tuple[int, int] | None) -> None:
    if sides is None:
        return
    both = pair(sides)
    if len(both) != 2 or not all(isinstance(n, int) and 1 <= n <= MAX_SIDE for n in both):
        raise UsageError(f"{name} {sides} (allowed: 1 to {MAX_SIDE} pixels, or (H, W))")


def _check_values(name: str, values: float | Sequence[float] | None, channels: int | None) -> None:
    if values is None:
        return
    least, allowed = math.ulp(0.0), "above 0, at most 1"
    if name == "mean":
        least, allowed = 0.0, "0 to 1"
    if not channels:
        channels = 1 if isinstance(values, int | float) else len(values)
    for value in each(values, channels):
        if not least <= value <= 1:
            hint = f"; {value:g}/255 is {value / 255:.4g}" if 1 < value < math.inf else ""
            raise UsageError(
                f"{name} {value:g} (allowed: {allowed}, in units of pixels / 255{hint})"
            )
