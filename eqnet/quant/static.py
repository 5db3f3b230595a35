"""Static layers: integer weights, fixed scales; what is exported and what runtimes are held to."""

from __future__ import annotations

import copy
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from eqnet.quant.ops import dequantize, quantize_dequantize
from eqnet.spec.scheme import STORAGE_BITS, IntegerRange


class QuantizationPoint(nn.Module):
    """One place where a tensor is brought onto a grid.

    scale: float32 scalar. zero_point: uint8 scalar for unsigned integers, int8 for signed ones.
    """

    scale: Tensor
    zero_point: Tensor

    def __init__(self, scale: Tensor, zero_point: int, span: IntegerRange) -> None:
        super().__init__()
        kind = torch.uint8 if span.lo >= 0 else torch.int8
        self.register_buffer("scale", scale.detach().clone().reshape(()))
        self.register_buffer("zero_point", torch.tensor(zero_point, dtype=kind))
        self.span = span

    def forward(self, x: Tensor) -> Tensor:
        """Any shape, float32."""
        lo, hi = self.span
        result: Tensor = quantize_dequantize(x, self.scale, self.zero_point, lo, hi)
        return result


class StaticQuantizer(nn.Module):
    """The static form of an ActivationQuantizer: (carrier, narrow) of one tensor."""

    def __init__(self, carrier: QuantizationPoint | None, narrow: QuantizationPoint | None) -> None:
        super().__init__()
        self.carrier, self.narrow = carrier, narrow

    def read_point(self) -> QuantizationPoint | None:
        """The point whose grid Conv and Linear readers see, or None in float."""
        return self.narrow or self.carrier

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Any shape, float32, twice."""
        carrier = x
        if self.carrier is not None:
            carrier = self.carrier(x)
        narrow = carrier
        if self.narrow is not None:
            narrow = self.narrow(carrier)
        return carrier, narrow


class IntegerWeight(nn.Module):
    """A weight as int8 [C, ...] with scale float32 [C] and zero-point int8 [C].

    axis: the one of the channels; 1 for the weight [I, O, kh, kw] of a transposed convolution.

    Integers of b bits lie shifted left by 8 - b, with the scale divided by 2^(8 - b): the same
    real values, on which a runtime's integer bias has a finer grid. With 7 bits of storage they
    lie shifted by 7 - b, so that the highest bit stays unused.
    """

    integers: Tensor
    scale: Tensor
    zero_point: Tensor

    def __init__(
        self,
        integers: Tensor,
        scale: Tensor,
        zero_point: Tensor,
        bits: int,
        storage_bits: int = STORAGE_BITS,
    ) -> None:
        super().__init__()
        shift = storage_bits - bits
        self.bits = bits
        self.axis = 0
        self.register_buffer("integers", (integers << shift).to(torch.int8))
        self.register_buffer("scale", scale / float(1 << shift))
        self.register_buffer("zero_point", (zero_point << shift).to(torch.int8))

    def forward(self) -> Tensor:
        """The real values, float32, in the shape of the integers."""
        result: Tensor = dequantize(self.integers, self.scale, self.zero_point, self.axis)
        return result

    def with_axis(self, axis: int) -> IntegerWeight:
        """The same weight with the axis of the channels, which is 0, in another place."""
        moved = copy.deepcopy(self)
        moved.integers = self.integers.transpose(0, axis).contiguous()
        moved.axis = axis
        return moved


class StaticConv2d(nn.Module):
    """A convolution with an integer weight; batch norm is absorbed into scale and bias."""

    bias: Tensor | None

    def __init__(
        self,
        like: nn.Conv2d,
        weight: IntegerWeight,
        bias: Tensor | None,
        pads: tuple[int, int, int, int] | None = None,
    ) -> None:
        """`pads` are zeros (left, right, top, bottom) beside the padding of `like`."""
        super().__init__()
        self.weight = weight
        self.register_buffer("bias", bias)
        self.stride, self.dilation, self.groups = like.stride, like.dilation, like.groups
        self.padding = like.padding
        self.pads = pads

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, H, W] -> [N, O, H', W']."""
        if self.pads is not None:
            x = functional.pad(x, self.pads)
        return functional.conv2d(
            x, self.weight(), self.bias, self.stride, self.padding, self.dilation, self.groups
        )


class StaticLinear(nn.Module):
    """A linear layer with an integer weight."""

    bias: Tensor | None

    def __init__(self, weight: IntegerWeight, bias: Tensor | None) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("bias", bias)

    def forward(self, x: Tensor) -> Tensor:
        """[N, ..., I] -> [N, ..., O]."""
        return functional.linear(x, self.weight(), self.bias)


class StaticConvTranspose2d(nn.Module):
    """A transposed convolution with an integer weight, [I, O, kh, kw] or depthwise [O, 1, kh, kw].

    geometry: the arguments of nn.ConvTranspose2d.
    """

    bias: Tensor | None

    def __init__(
        self, geometry: dict[str, Any], weight: IntegerWeight, bias: Tensor | None
    ) -> None:
        super().__init__()
        self.weight = weight
        self.register_buffer("bias", bias)
        self.geometry = geometry

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, H, W] -> [N, O, H', W']."""
        return functional.conv_transpose2d(
            x,
            self.weight(),
            self.bias,
            stride=self.geometry["stride"],
            padding=self.geometry["padding"],
            output_padding=self.geometry["output_padding"],
            groups=self.geometry["groups"],
            dilation=self.geometry["dilation"],
        )
