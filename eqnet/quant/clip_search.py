"""Scales and zero-points from data: a search for the clip level of least squared error.

Coarse levels first, then finer ones around the best: the result of an 80-level sweep for a
third of the work.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from eqnet.spec.scheme import IntegerRange

MIN_SCALE = 1e-10
COARSE = tuple(0.05 * step for step in range(2, 21))
FINE = tuple(0.0125 * step for step in (-3, -2, -1, 1, 2, 3))
# Of activations a few images may be far from all others, and the range with them.
FAR = (0.0025, 0.0035, 0.005, 0.007, 0.01, 0.014, 0.02, 0.028, 0.04, 0.056, 0.08)
FAR_BELOW = 0.15
# Values at once on a CPU: what stays in its cache, and is too little to be worth a second thread.
CPU_BLOCK = 1 << 14
# Adding and subtracting it rounds a float32 of less than 2^22 half to even. `torch.round` starts
# threads for 2,048 values already, and then crawls where other processes hold the cores.
ROUNDER = 1.5 * 2.0**23


class ScaleZero(NamedTuple):
    """scale and zero_point, float32 of shape [C]; the zero-point is a whole number."""

    scale: Tensor
    zero_point: Tensor


def search(
    samples: Tensor,
    low: Tensor,
    high: Tensor,
    span: IntegerRange,
    *,
    symmetric: bool,
    weights: Tensor | None = None,
    skewed: bool = False,
) -> ScaleZero:
    """Scale and zero-point of each row that minimise its mean squared error.

    samples: float32 [C, N], a sample of the values of C channels. low, high: float32 [C], the
    true smallest and largest values. symmetric: fix the zero-point at 0; `span` is then either
    signed or, for non-negative values, [0, hi]. weights: float32 [N], how much each value's
    error counts (None: all alike). skewed: search both ends of the range apart (where the
    zero-point is not 0) and far smaller ranges, as values need that are far out in few images,
    at one end, such as a SiLU's.
    """
    rows = len(samples)
    if samples.device.type == "cpu":
        rows = max(1, CPU_BLOCK // samples.shape[1])
    blocks = zip(samples.split(rows), low.split(rows), high.split(rows), strict=True)
    found = [_Search(*block, span, symmetric, weights, skewed).best() for block in blocks]
    return ScaleZero(
        torch.cat([grid.scale for grid in found]), torch.cat([grid.zero_point for grid in found])
    )


@dataclass(frozen=True)
class _Search:
    """The search over one block of rows; the names are those of `search`."""

    samples: Tensor
    low: Tensor
    high: Tensor
    span: IntegerRange
    symmetric: bool
    weights: Tensor | None
    skewed: bool

    def best(self) -> ScaleZero:
        """The grid of least error of each row."""
        centre = self._coarse()
        found = self._tried(centre.low, centre.high)
        for step in FINE:
            low, high = (self._moved(end, step) for end in (centre.low, centre.high))
            found = self._lesser(found, low, high)
            if self._apart:
                found = self._lesser(found, centre.low, high)
                found = self._lesser(found, low, centre.high)
        return found.grid

    def _coarse(self) -> _Found:
        """The best of ratios that are far apart.

        By the whole sample: by a third of it EfficientNet-Lite0's logits lost 0.3 dB.
        """
        whole = torch.ones_like(self.low)
        found = self._tried(whole, whole)
        for one in COARSE[:-1] + (FAR if self.skewed else ()):
            ratio = torch.full_like(self.low, one)
            found = self._lesser(found, ratio, ratio)
            if self._apart:
                found = self._lesser(found, whole, ratio)
                found = self._lesser(found, ratio, whole)
        return found

    def _lesser(self, found: _Found, low: Tensor, high: Tensor) -> _Found:
        """Row by row the grid of less error, with these ratios or as found; of equals as found."""
        other = self._tried(low, high)
        better = other.error < found.error

        def pick(one: Tensor, two: Tensor) -> Tensor:
            return torch.where(better, two, one)

        return _Found(
            ScaleZero(*map(pick, found.grid, other.grid)),
            torch.minimum(other.error, found.error),
            pick(found.low, low),
            pick(found.high, high),
        )

    @property
    def _apart(self) -> bool:
        return self.skewed and not self.symmetric

    def _moved(self, ratio: Tensor, step: float) -> Tensor:
        """A ratio and a step; of ratios that are far down the steps are as much smaller."""
        steps = step * (ratio / FAR_BELOW).clamp(max=1.0) if self.skewed else step
        return (ratio + steps).clamp(FAR[0] / 2 if self.skewed else 0.01, 1.0)

    def _tried(self, low: Tensor, high: Tensor) -> _Found:
        """The grid that covers these ratios of both ends, float32 [C]."""
        ends = self.low.clamp(max=0.0) * low, self.high.clamp(min=0.0) * high
        grid = _grid(*ends, self.span, self.symmetric)
        return _Found(grid, self._error(grid), low, high)

    def _error(self, grid: ScaleZero) -> Tensor:
        """Weighted squared error of each row, float32 [C]."""
        scale, zero = grid.scale[:, None], grid.zero_point[:, None]
        size, span = self.samples.shape[1], self.span
        width = CPU_BLOCK if self.samples.device.type == "cpu" else size
        weights = (None,) * size if self.weights is None else self.weights.split(width)
        total = torch.zeros_like(grid.scale)
        for block, weight in zip(self.samples.split(width, dim=1), weights, strict=False):
            # The bounds are whole numbers: clamping first changes nothing but the size to round.
            restored = torch.clamp(block / scale, span.lo - zero, span.hi - zero)
            restored.add_(ROUNDER).sub_(ROUNDER).mul_(scale).sub_(block).square_()
            total += restored.sum(dim=1) if weight is None else restored @ weight
        return total / size


class _Found(NamedTuple):
    """A grid for each row, its error, how much of both ends it covers; float32 [C] each."""

    grid: ScaleZero
    error: Tensor
    low: Tensor
    high: Tensor


def _grid(low: Tensor, high: Tensor, span: IntegerRange, symmetric: bool) -> ScaleZero:
    """The grid that covers the range [low, high]."""
    if symmetric:
        top = float(span.hi) if span.lo == 0 else (span.hi - span.lo) / 2.0
        reach = high if span.lo == 0 else torch.maximum(-low, high)
        scale = (reach / top).clamp_min(MIN_SCALE)
        return ScaleZero(scale, torch.zeros_like(scale))
    scale = ((high - low) / (span.hi - span.lo)).clamp_min(MIN_SCALE)
    zero = (span.lo - torch.round(low / scale)).clamp(span.lo, span.hi)
    return ScaleZero(scale, zero)
