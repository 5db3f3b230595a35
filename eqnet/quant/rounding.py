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
BLOCK = 128
# How far a scale may move when it is fitted to the rounded weights.
MAX_REFIT = 0.2
DIGITS = 5  # offsets of -1, 0 or 1 in one byte, in base 3


class Grid(NamedTuple):
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


def round_columns(weight: Tensor, grid: Grid, parts: Decomposition) -> Tensor:
    """Integers [G, R, K] of a weight [G, R, K] for the least error of the layer's output."""
    weight = weight[:, :, parts.order]
    nearest = grid.nearest(weight)
    low = torch.maximum(nearest - 1, grid.lo)
    high = torch.minimum(nearest + 1, grid.hi)
    integers = _column_by_column(weight, grid, low, high, parts.inverse)
    _improve(integers, weight, grid, low, high, parts.moments)
    result = torch.empty_like(integers)
    result[:, :, parts.order] = integers
    return result


def _column_by_column(
    weight: Tensor, grid: Grid, low: Tensor, high: Tensor, inverse: Tensor
) -> Tensor:
    """GPTQ: round a column, and let those after it make up for its error."""
    rest = weight.clone()
    integers = torch.empty_like(rest)
    groups, columns = inverse.shape[0], weight.shape[2]
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
        rest[:, :, stop:] -= errors @ inverse[:, start:stop, stop:]
    return integers


def _improve(
    integers: Tensor, weight: Tensor, grid: Grid, low: Tensor, high: Tensor, moments: Tensor
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


class Fit(NamedTuple):
    """Sums over a row's columns from which scale and error follow, each [G, R]."""

    weight_by_integers: Tensor
    integers_by_integers: Tensor
    weight_by_weight: Tensor

    @classmethod
    def of(cls, weight: Tensor, integers: Tensor, zero_point: Tensor, moments: Tensor) -> Fit:
        """u H w, u H u and w H w for u = q - z, all [G, R, K] in the order of `moments`."""
        centred = integers - zero_point
        weighted = centred @ moments
        return cls(
            (weighted * weight).sum(2), (weighted * centred).sum(2),
            ((weight @ moments) * weight).sum(2),
        )  # fmt: skip

    def scale(self, before: Tensor) -> Tensor:
        """The scale of least error for these integers, where it is near the one `before`."""
        positive = (self.integers_by_integers > 0) & (self.weight_by_integers > 0)
        best = torch.where(positive, self.weight_by_integers, before) / torch.where(
            positive, self.integers_by_integers, torch.ones_like(before)
        )
        near = (best / before - 1).abs() < MAX_REFIT
        return torch.where(positive & near, best, before)

    def error(self, scale: Tensor) -> Tensor:
        """Mean squared error of the output under a scale."""
        error = scale.square() * self.integers_by_integers - 2 * scale * self.weight_by_integers
        return error + self.weight_by_weight


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
