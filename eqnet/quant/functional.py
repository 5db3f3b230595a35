"""Quantization maths on tensors (paper Eq. 1), with the gradients that train it.

``q = clamp(round_half_even(x / s) + z, lo, hi)`` and ``x' = (q - z) * s``, all in float32.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor
from torch.autograd.function import FunctionCtx, once_differentiable


def whole_zero_point(zero_point: Tensor, lo: int, hi: int) -> Tensor:
    """The integer in [lo, hi] that a learned zero-point stands for, in its own shape."""
    return torch.clamp(torch.round(zero_point), lo, hi)


def quantize(x: Tensor, scale: Tensor, zero_point: Tensor, lo: int, hi: int) -> Tensor:
    """Integers of `x`, as float32 values of the same shape.

    scale, zero_point: float32, broadcastable to `x`; the zero-point is rounded to an integer
    inside [lo, hi]. Rounding is half to even, as in ONNX QuantizeLinear.
    """
    z = whole_zero_point(zero_point, lo, hi)
    return torch.clamp(torch.round(x / scale) + z, lo, hi)


def fake_quantize(
    x: Tensor, scale: Tensor, zero_point: Tensor, lo: int, hi: int, gradient_scale: float = 1.0
) -> Tensor:
    """Quantize and dequantize `x` (paper Eq. 1), differentiable in x, scale and zero-point.

    x: any floating shape, computed in float32 even under autocast. scale and zero_point:
    float32, broadcastable to x. The gradient of x is passed straight through inside the range
    (straight-through); scale's follows LSQ and the zero-point's LSQ+, both times `gradient_scale`.
    """
    if not torch.is_grad_enabled():
        z = whole_zero_point(zero_point, lo, hi)
        return _in_place(x.float(), scale, z, lo, hi)
    result: Tensor = _FakeQuantize.apply(x.float(), scale, zero_point, lo, hi, gradient_scale)
    return result


def power_of_two(x: Tensor, shrink: float = math.sqrt(2.0)) -> Tensor:
    """A power of two next to each positive value, exactly, in its own floating type and shape.

    It is the one below where that is x / `shrink` at least, and else the one above. With the
    default it is ``2^round(log2 x)``. No logarithm is taken: its rounding would decide values
    near the middle, and a power that is computed from an exponent need not be exact.
    """
    mantissa, _ = torch.frexp(x)
    power = x / mantissa  # the mantissa is in [0.5, 1), so this is the power of two above x
    return torch.where(mantissa < shrink / 2, power / 2, power)


def nearest_even(x: Tensor, lo: int, hi: int) -> Tensor:
    """The even integer in [lo, hi] that is nearest to each value, in its own type and shape.

    Zero-points of scales that are powers of two are such. Some kernels (OpenVINO, ONNX Runtime's
    QLinearMul) compute ``round(x / s + z)``, which differs from ``round(x / s) + z`` where x / s is
    exactly a half and z is odd; powers of two make halves common.
    """
    return torch.clamp(2 * torch.round(x / 2), lo + lo % 2, hi - hi % 2)


def along(axis: int, dims: int) -> list[int]:
    """The shape that lays a tensor [C] along one of `dims` axes, so that it is broadcast."""
    shape = [1] * dims
    shape[axis] = -1
    return shape


def _in_place(x: Tensor, scale: Tensor, z: Tensor, lo: int, hi: int) -> Tensor:
    """The same values with one new tensor instead of six: memory is what evaluation waits for."""
    levels = torch.div(x, scale).round_().add_(z).clamp_(lo, hi)
    return levels.sub_(z).mul_(scale)


class _FakeQuantize(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        lo: int,
        hi: int,
        gradient_scale: float,
    ) -> Tensor:
        z = whole_zero_point(zero_point, lo, hi)
        steps = x / scale
        levels = torch.round(steps).add_(z)
        clamped = torch.clamp(levels, lo, hi)
        inside = levels == clamped
        clamped -= z
        ctx.save_for_backward(steps, clamped, inside, scale, zero_point)
        ctx.gradient_scale = gradient_scale  # type: ignore[attr-defined]  # torch leaves ctx open
        return clamped * scale

    @staticmethod
    @once_differentiable
    def backward(ctx: FunctionCtx, *grads: Tensor) -> tuple[Tensor | None, ...]:
        grad = grads[0]
        steps, levels, inside, scale, zero_point = ctx.saved_tensors  # type: ignore[attr-defined]  # torch leaves ctx open
        weight: float = ctx.gradient_scale  # type: ignore[attr-defined]  # torch leaves ctx open
        grad_x = grad * inside
        # d x' / d s is q - z outside the range, and q - z - x/s inside it.
        by_scale = levels * grad
        by_scale.addcmul_(steps, grad_x, value=-1.0)
        grad_scale = by_scale.sum_to_size(scale.shape).mul_(weight)
        grad_zero = None
        if ctx.needs_input_grad[2]:  # type: ignore[attr-defined]  # torch leaves ctx open
            outside = ((grad_x - grad) * scale).sum_to_size(zero_point.shape)
            grad_zero = outside.mul_(weight)
        return grad_x, grad_scale, grad_zero, None, None, None
