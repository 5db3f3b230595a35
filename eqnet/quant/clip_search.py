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


def search_clip(
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
    grids = [_Search(*block, span, symmetric, weights, skewed).best() for block in blocks]
    scales, zero_points = zip(*grids, strict=True)
    return ScaleZero(torch.cat(scales), torch.cat(zero_points))


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
        best = self._tried(centre.low, centre.high)
        for step in FINE:
            low, high = self._moved(centre.low, step), self._moved(centre.high, step)
            best = self._better(best, low, high)
            if self._apart:
                best = self._better(best, centre.low, high)
                best = self._better(best, low, centre.high)
        return best.grid

    def _coarse(self) -> _Tried:
        """The best of ratios that are far apart.

        By the whole sample: by a third of it EfficientNet-Lite0's logits lost 0.3 dB.
        """
        whole = torch.ones_like(self.low)
        best = self._tried(whole, whole)
        levels = COARSE[:-1]
        if self.skewed:
            levels += FAR
        for level in levels:
            ratio = torch.full_like(self.low, level)
            best = self._better(best, ratio, ratio)
            if self._apart:
                best = self._better(best, whole, ratio)
                best = self._better(best, ratio, whole)
        return best

    def _better(self, best: _Tried, low: Tensor, high: Tensor) -> _Tried:
        """Row by row the grid of less error: that of these ratios, or `best`, also of equals."""
        other = self._tried(low, high)
        better = other.error < best.error

        def pick(old: Tensor, new: Tensor) -> Tensor:
            return torch.where(better, new, old)

        return _Tried(
            ScaleZero(*map(pick, best.grid, other.grid)),
            torch.minimum(other.error, best.error),
            pick(best.low, low),
            pick(best.high, high),
        )

    @property
    def _apart(self) -> bool:
        return self.skewed and not self.symmetric

    def _moved(self, ratio: Tensor, step: float) -> Tensor:
        """A ratio and a step; of ratios that are far down the steps are as much smaller."""
        if not self.skewed:
            return (ratio + step).clamp(0.01, 1.0)
        steps = step * (ratio / FAR_BELOW).clamp(max=1.0)
        return (ratio + steps).clamp(FAR[0] / 2, 1.0)

    def _tried(self, low: Tensor, high: Tensor) -> _Tried:
        """The grid that covers these ratios of both ends, float32 [C]."""
        ends = self.low.clamp(max=0.0) * low, self.high.clamp(min=0.0) * high
        grid = _grid(*ends, self.span, self.symmetric)
        return _Tried(grid, self._error(grid), low, high)

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
            if weight is None:
                total += restored.sum(dim=1)
            else:
                total += restored @ weight
        return total / size


class _Tried(NamedTuple):
    """A grid for each row, its error, how much of both ends it covers; float32 [C] each."""

    grid: ScaleZero
    error: Tensor
    low: Tensor
    high: Tensor


def _grid(low: Tensor, high: Tensor, span: IntegerRange, symmetric: bool) -> ScaleZero:
    """The grid that covers the range [low, high]."""
    if symmetric:
        if span.lo == 0:
            reach, top = high, float(span.hi)
        else:
            reach, top = torch.maximum(-low, high), (span.hi - span.lo) / 2.0
        scale = (reach / top).clamp_min(MIN_SCALE)
        return ScaleZero(scale, torch.zeros_like(scale))
    scale = ((high - low) / (span.hi - span.lo)).clamp_min(MIN_SCALE)
    zero = (span.lo - torch.round(low / scale)).clamp(span.lo, span.hi)
    return ScaleZero(scale, zero)
