"""Rounding of weights that keeps a layer's output, not each weight (OBQ, GPTQ).

Rounding to the nearest integer minimises the error of each weight. What a layer's readers see is
the error of its output, ``(Q - W) x``, whose mean square is ``(q - w) H (q - w)^T`` for each row w
with H the second moments of the inputs. It is minimised column by column: what rounding one
column costs is made up for by the columns that are not rounded yet (GPTQ, arXiv 2210.17323,
after OBQ, arXiv 2208.11580); then each integer is tried again with all others fixed.

Several forms of one layer are further rows: they share H, and so its decomposition and the loop.
Integers stay within one of the nearest, so that what is stored for a form is -1, 0 or 1 a weight.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

# Added to H's diagonal as a share of its mean: what is not seen on a few hundred images.
DAMPING = 0.05
BLOCK = 64
# Rows of more columns are rounded once, by GPTQ alone: what trying again gains there is small, and
# its work grows with the square of the columns.
WIDE = 1024
# How far a scale may move when it is fitted to the rounded weights.
MAX_REFIT = 0.2
DIGITS = 5  # offsets of -1, 0 or 1 in one byte, in base 3


class WeightGrid(NamedTuple):
    """scale and zero-point [G, R, 1], and the integers' bounds, likewise or plain numbers."""

    scale: Tensor
    zero_point: Tensor
    lo: Tensor
    hi: Tensor

    def nearest(self, weight: Tensor) -> Tensor:
        """Integers of a weight [G, R, K], each rounded on its own."""
        return (torch.round(weight / self.scale) + self.zero_point).clamp(self.lo, self.hi)

    def real(self, integers: Tensor) -> Tensor:
        """The values that integers stand for."""
        return (integers - self.zero_point) * self.scale


def damped(moments: Tensor, damping: float = DAMPING) -> Tensor:
    """H, [G, K, K], with a multiple of the identity that makes it positive definite."""
    level = moments.diagonal(dim1=1, dim2=2).mean(1) * damping
    level = level.clamp_min(torch.finfo(torch.float32).tiny * 1e8)
    return moments + torch.diag_embed(level[:, None].expand(moments.shape[:2]))


class Decomposition(NamedTuple):
    """H in the order in which columns are rounded, and what GPTQ needs of its inverse.

    order: columns by falling diagonal [K]. inverse: upper Cholesky factor of H^-1 [G, K, K].
    """

    moments: Tensor
    order: Tensor
    inverse: Tensor

    @classmethod
    def of(cls, moments: Tensor) -> Decomposition:
        """Of damped second moments [G, K, K]. Columns with large inputs are rounded first."""
        order = moments.diagonal(dim1=1, dim2=2).mean(0).argsort(descending=True, stable=True)
        sorted_moments = moments[:, order][:, :, order]
        factor = torch.linalg.cholesky(sorted_moments.double())
        inverse = torch.linalg.cholesky(torch.cholesky_inverse(factor), upper=True)
        return cls(sorted_moments, order, inverse.to(moments.dtype))


def round_columns(weight: Tensor, grid: WeightGrid, parts: Decomposition) -> Tensor:
    """Integers [G, R, K] of a weight [G, R, K] for the least error of the layer's output.

    Up to WIDE columns no row's error is above that of its nearest integers.
    """
    ordered = weight[:, :, parts.order]
    low, high = _bounds(ordered, grid)
    integers, _ = _column_by_column(ordered, grid, low, high, parts.inverse)
    if weight.shape[2] > WIDE:
        return _in_place_of(parts, integers)
    _improve(integers, ordered, grid, low, high, parts.moments)
    # Neither step is sure to be better than the nearest integers, so each row has the better.
    nearest = grid.nearest(ordered)
    worse = _error(ordered, integers, grid, parts) > _error(ordered, nearest, grid, parts)
    return _in_place_of(parts, torch.where(worse[:, :, None], nearest, integers))


def _in_place_of(parts: Decomposition, integers: Tensor) -> Tensor:
    """Integers in the weight's own order of columns."""
    result = torch.empty_like(integers)
    result[:, :, parts.order] = integers
    return result


def _error(weight: Tensor, integers: Tensor, grid: WeightGrid, parts: Decomposition) -> Tensor:
    difference = grid.real(integers) - weight
    return ((difference @ parts.moments) * difference).sum(2)


def output_error(weight: Tensor, grid: WeightGrid, parts: Decomposition) -> Tensor:
    """Mean squared error of each row's output, [G, R], as GPTQ leaves it: to compare grids by."""
    ordered = weight[:, :, parts.order]
    _, errors = _column_by_column(ordered, grid, *_bounds(ordered, grid), parts.inverse)
    return errors


def refitted(weight: Tensor, grid: WeightGrid, parts: Decomposition) -> tuple[Tensor, Tensor]:
    """u H w and u H u, [G, R] each, for GPTQ's integers u = q - z.

    Their quotient is the scale of least error for these integers.
    """
    ordered = weight[:, :, parts.order]
    integers, _ = _column_by_column(ordered, grid, *_bounds(ordered, grid), parts.inverse)
    centred = integers - grid.zero_point
    weighted = centred @ parts.moments
    return (weighted * ordered).sum(2), (weighted * centred).sum(2)


def near(scale: Tensor, products: Tensor, squares: Tensor) -> Tensor:
    """The scale products / squares, all of one shape, where it is near the one before."""
    positive = (products > 0) & (squares > 0)
    best = torch.where(positive, products, scale) / torch.where(
        positive, squares, torch.ones_like(squares)
    )
    return torch.where(positive & ((best / scale - 1).abs() < MAX_REFIT), best, scale)


def _bounds(weight: Tensor, grid: WeightGrid) -> tuple[Tensor, Tensor]:
    """The integers next to the nearest ones, inside the grid."""
    nearest = grid.nearest(weight)
    return torch.maximum(nearest - 1, grid.lo), torch.minimum(nearest + 1, grid.hi)


def _column_by_column(
    weight: Tensor, grid: WeightGrid, low: Tensor, high: Tensor, inverse: Tensor
) -> tuple[Tensor, Tensor]:
    """GPTQ: round a column, and let those after it make up for its error.

    Returns the integers and each row's error, [G, R].
    """
    rest = weight.clone()
    integers = torch.empty_like(rest)
    groups, columns = inverse.shape[0], weight.shape[2]
    total = torch.zeros_like(weight[:, :, 0])
    for start in range(0, columns, BLOCK):
        stop = min(columns, start + BLOCK)
        block, factor = rest[:, :, start:stop], inverse[:, start:stop, start:stop]
        errors = torch.empty_like(block)
        for column in range(stop - start):
            at = start + column
            value = block[:, :, column : column + 1]
            rounded = torch.round(value / grid.scale) + grid.zero_point
            rounded = rounded.clamp(low[:, :, at : at + 1], high[:, :, at : at + 1])
            integers[:, :, at : at + 1] = rounded
            error = (value - grid.real(rounded)) / factor[:, column, column].view(groups, 1, 1)
            errors[:, :, column : column + 1] = error
            block[:, :, column:] -= error * factor[:, column : column + 1, column:]
        total += errors.square().sum(2)
        rest[:, :, stop:] -= errors @ inverse[:, start:stop, stop:]
    return integers, total


def _improve(
    integers: Tensor, weight: Tensor, grid: WeightGrid, low: Tensor, high: Tensor, moments: Tensor
) -> None:
    """One pass of coordinate descent over the columns, in place."""
    gradient = (grid.real(integers) - weight) @ moments
    groups, columns = moments.shape[0], weight.shape[2]
    for start in range(0, columns, BLOCK):
        stop = min(columns, start + BLOCK)
        part, inside = gradient[:, :, start:stop], moments[:, start:stop, start:stop]
        steps = torch.zeros_like(part)
        for column in range(stop - start):
            at = start + column
            now = integers[:, :, at : at + 1]
            curvature = inside[:, column, column].view(groups, 1, 1) * grid.scale
            wanted = torch.round(now - part[:, :, column : column + 1] / curvature)
            wanted = wanted.clamp(low[:, :, at : at + 1], high[:, :, at : at + 1])
            step = (wanted - now) * grid.scale
            integers[:, :, at : at + 1] = wanted
            steps[:, :, column : column + 1] = step
            part += step * inside[:, column : column + 1, :]
        gradient[:, :, stop:] += steps @ moments[:, start:stop, stop:]


def pack(offsets: Tensor) -> Tensor:
    """Offsets of -1, 0 or 1, any shape, as uint8 [ceil(n / 5)]: five base-3 digits a byte."""
    digits = (offsets.reshape(-1).to(torch.int16) + 1).to(torch.uint8)
    spare = -len(digits) % DIGITS
    digits = torch.cat([digits, digits.new_zeros(spare)]).view(-1, DIGITS)
    packed = torch.zeros(len(digits), dtype=torch.uint8, device=digits.device)
    for place in range(DIGITS):
        packed = packed * 3 + digits[:, place]
    return packed


def unpack(packed: Tensor, shape: torch.Size) -> Tensor:
    """The offsets, float32 of `shape`, that `pack` stored."""
    digits = torch.empty(len(packed), DIGITS, dtype=torch.float32, device=packed.device)
    rest = packed
    for place in reversed(range(DIGITS)):
        digits[:, place] = (rest % 3).float() - 1
        rest = rest // 3
    return digits.view(-1)[: shape.numel()].view(shape)
