"""Scales and zero-points from data: a search for the clip level of least squared error.

Coarse levels first, then finer ones around the best: the result of an 80-level sweep for a
third of the work.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from eqnet.spec.scheme import IntegerRange

MIN_SCALE = 1e-10
COARSE = tuple(0.05 * step for step in range(2, 21))
FINE = tuple(0.0125 * step for step in (-3, -2, -1, 1, 2, 3))
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
    samples: Tensor, low: Tensor, high: Tensor, span: IntegerRange, *, symmetric: bool
) -> ScaleZero:
    """Scale and zero-point of each row that minimise its mean squared error.

    samples: float32 [C, N], a sample of the values of C channels. low, high: float32 [C], the
    true smallest and largest values. symmetric: fix the zero-point at 0; `span` is then either
    signed or, for non-negative values, [0, hi].
    """
    rows = len(samples)
    if samples.device.type == "cpu":
        rows = max(1, CPU_BLOCK // samples.shape[1])
    blocks = zip(samples.split(rows), low.split(rows), high.split(rows), strict=True)
    found = [_search(*block, span, symmetric) for block in blocks]
    return ScaleZero(
        torch.cat([grid.scale for grid in found]), torch.cat([grid.zero_point for grid in found])
    )


def _search(
    samples: Tensor, low: Tensor, high: Tensor, span: IntegerRange, symmetric: bool
) -> ScaleZero:
    low, high = low.clamp(max=0.0), high.clamp(min=0.0)
    best = _grid(low, high, span, 1.0, symmetric)
    best_error = _error(samples, best, span)
    best_ratio = torch.ones_like(low)
    for ratio in COARSE[:-1]:
        best, best_error, best_ratio = _try(
            samples, low, high, span, best, best_error, best_ratio,
            torch.full_like(low, ratio), symmetric,
        )  # fmt: skip
    centre = best_ratio.clone()
    for step in FINE:
        ratio_now = (centre + step).clamp(0.01, 1.0)
        best, best_error, best_ratio = _try(
            samples, low, high, span, best, best_error, best_ratio, ratio_now, symmetric
        )
    return best


def _try(
    samples: Tensor,
    low: Tensor,
    high: Tensor,
    span: IntegerRange,
    best: ScaleZero,
    best_error: Tensor,
    best_ratio: Tensor,
    ratio: Tensor,
    symmetric: bool,
) -> tuple[ScaleZero, Tensor, Tensor]:
    found = _grid(low, high, span, ratio, symmetric)
    error = _error(samples, found, span)
    better = error < best_error
    kept = ScaleZero(
        torch.where(better, found.scale, best.scale),
        torch.where(better, found.zero_point, best.zero_point),
    )
    return kept, torch.minimum(error, best_error), torch.where(better, ratio, best_ratio)


def _grid(
    low: Tensor, high: Tensor, span: IntegerRange, ratio: Tensor | float, symmetric: bool
) -> ScaleZero:
    """The grid that covers `ratio` of the range [low, high]."""
    low, high = low * ratio, high * ratio
    if symmetric:
        top = float(span.hi) if span.lo == 0 else (span.hi - span.lo) / 2.0
        reach = high if span.lo == 0 else torch.maximum(-low, high)
        scale = (reach / top).clamp_min(MIN_SCALE)
        return ScaleZero(scale, torch.zeros_like(scale))
    scale = ((high - low) / (span.hi - span.lo)).clamp_min(MIN_SCALE)
    zero = (span.lo - torch.round(low / scale)).clamp(span.lo, span.hi)
    return ScaleZero(scale, zero)


def _error(samples: Tensor, grid: ScaleZero, span: IntegerRange) -> Tensor:
    """Mean squared error of each row, float32 [C]."""
    scale, zero = grid.scale[:, None], grid.zero_point[:, None]
    width = CPU_BLOCK if samples.device.type == "cpu" else samples.shape[1]
    total = torch.zeros_like(grid.scale)
    for block in samples.split(width, dim=1):
        # The bounds are whole numbers, so clamping first changes nothing but the size to round.
        restored = torch.clamp(block / scale, span.lo - zero, span.hi - zero)
        restored.add_(ROUNDER).sub_(ROUNDER).mul_(scale).sub_(block)
        total += restored.square_().sum(dim=1)
    return total / samples.shape[1]
