"""Static quantization as custom operators, so that an exported graph keeps them as one node.

``eqnet::quantize_dequantize`` becomes QuantizeLinear -> (Clip) -> DequantizeLinear, and
``eqnet::dequantize`` becomes DequantizeLinear on an integer initializer.
"""

from __future__ import annotations

import torch
from torch import Tensor

from eqnet.quant.functional import along


@torch.library.custom_op("eqnet::quantize_dequantize", mutates_args=())
def quantize_dequantize(x: Tensor, scale: Tensor, zero_point: Tensor, lo: int, hi: int) -> Tensor:
    """Quantize to integers in [lo, hi] and back.

    x: float32, any shape. scale: float32 scalar. zero_point: uint8 or int8 scalar, whose type
    is the storage type of the integers.
    """
    z = zero_point.to(torch.float32)
    return torch.div(x, scale).round_().add_(z).clamp_(lo, hi).sub_(z).mul_(scale)


@quantize_dequantize.register_fake
def _(x: Tensor, scale: Tensor, zero_point: Tensor, lo: int, hi: int) -> Tensor:
    return torch.empty_like(x)


@torch.library.custom_op("eqnet::dequantize", mutates_args=())
def dequantize(integers: Tensor, scale: Tensor, zero_point: Tensor, axis: int = 0) -> Tensor:
    """Real values of a weight: integers int8, scale float32 [C], zero_point int8 [C].

    axis: that of the C channels among the integers' axes.
    """
    shape = along(axis, integers.dim())
    centred = integers.to(torch.float32) - zero_point.to(torch.float32).view(shape)
    return centred * scale.view(shape)


@dequantize.register_fake
def _(integers: Tensor, scale: Tensor, zero_point: Tensor, axis: int = 0) -> Tensor:
    return torch.empty_like(integers, dtype=torch.float32)
