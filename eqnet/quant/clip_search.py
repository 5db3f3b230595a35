"""Scales and zero-points from data: a search for the clip level of least squared error.

Coarse levels first, then finer ones around the best: the result of an 80-level sweep for a
third of the work.
"""

from __future__ import annotations

import math
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
# Values at once. On a CPU what stays in its cache, and is too little to be worth a second thread.
CPU_BLOCK = 1 << 14
GPU_BLOCK = 1 << 24
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
    rows = max(1, _block(samples) // samples.shape[1])
    blocks = zip(samples.split(rows), low.split(rows), high.split(rows), strict=True)
    grids = [_Search(*block, span, symmetric, weights, skewed).best() for block in blocks]
    scales, zero_points = zip(*grids, strict=True)
    return ScaleZero(torch.cat(scales), torch.cat(zero_points))


def _block(samples: Tensor) -> int:
    return CPU_BLOCK if samples.device.type == "cpu" else GPU_BLOCK


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
        low, high = [centre.low], [centre.high]
        for step in FINE:
            less_low, less_high = self._moved(centre.low, step), self._moved(centre.high, step)
            low.append(less_low)
            high.append(less_high)
            if self._apart:
                low += [centre.low, less_low]
                high += [less_high, centre.high]
        return self._best_of(torch.stack(low), torch.stack(high)).grid

    def _coarse(self) -> _Tried:
        """The best of ratios that are far apart.

        By the whole sample: by a third of it EfficientNet-Lite0's logits lost 0.3 dB.
        """
        levels = COARSE[:-1]
        if self.skewed:
            levels += FAR
        low, high = [1.0], [1.0]
        for level in levels:
            low += [level, 1.0, level] if self._apart else [level]
            high += [level, level, 1.0] if self._apart else [level]
        rows = len(self.low)
        ratios = self.low.new_tensor([low, high])[:, :, None].expand(-1, -1, rows)
        return self._best_of(*ratios)

    def _best_of(self, low: Tensor, high: Tensor) -> _Tried:
        """Row by row the best grid of K ratios [K, C] of both ends, of equals the first."""
        ends = self.low.clamp(max=0.0) * low, self.high.clamp(min=0.0) * high
        grid = _grid(*ends, self.span, self.symmetric)
        # Values so large that their squares overflow count as far off; NaN would be the least.
        error = self._error(grid).nan_to_num(nan=math.inf, posinf=math.inf)
        chosen = error.argmin(dim=0, keepdim=True)

        def pick(values: Tensor) -> Tensor:
            return values.gather(0, chosen)[0]

        return _Tried(ScaleZero(*map(pick, grid)), pick(low), pick(high))

    @property
    def _apart(self) -> bool:
        return self.skewed and not self.symmetric

    def _moved(self, ratio: Tensor, step: float) -> Tensor:
        """A ratio and a step; of ratios that are far down the steps are as much smaller."""
        if not self.skewed:
            return (ratio + step).clamp(0.01, 1.0)
        steps = step * (ratio / FAR_BELOW).clamp(max=1.0)
        return (ratio + steps).clamp(FAR[0] / 2, 1.0)

    def _error(self, grid: ScaleZero) -> Tensor:
        """Weighted squared error of each row under K grids, float32 [K, C]."""
        most = _block(self.samples)
        width = min(most, self.samples.shape[1])
        together = max(1, most // (width * len(self.samples)))
        parts = zip(grid.scale.split(together), grid.zero_point.split(together), strict=True)
        return torch.cat([self._error_together(ScaleZero(*part), width) for part in parts])

    def _error_together(self, grid: ScaleZero, width: int) -> Tensor:
        """The same of few grids, `width` columns at once."""
        scale, zero = grid.scale[..., None], grid.zero_point[..., None]
        lowest, highest = self.span.lo - zero, self.span.hi - zero
        size = self.samples.shape[1]
        weights = (None,) * size if self.weights is None else self.weights.split(width)
        total = torch.zeros_like(grid.scale)
        for block, weight in zip(self.samples.split(width, dim=1), weights, strict=False):
            # The bounds are whole numbers: clamping first changes nothing but the size to round.
            restored = torch.clamp(block / scale, lowest, highest)
            restored.add_(ROUNDER).sub_(ROUNDER).mul_(scale).sub_(block).square_()
            if weight is None:
                total += restored.sum(dim=-1)
            else:
                total += restored @ weight
        return total / size


class _Tried(NamedTuple):
    """The best grid for each row, how much of both ends it covers; float32 [C] each."""

    grid: ScaleZero
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
