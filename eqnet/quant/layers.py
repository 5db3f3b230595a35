"""Elastic layers: a float layer whose weight passes through an elastic quantizer.

Each holds its weight with the output channels first, has `to_float` and `to_static`, and takes
over the parameters of the float layer that it stands for.
"""

from __future__ import annotations

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from eqnet.quant.quantizers import WeightQuantizer
from eqnet.quant.static import IntegerWeight, StaticConv2d, StaticConvTranspose2d, StaticLinear

Pads = tuple[int, int, int, int]
FloatLayer = nn.Conv2d | nn.ConvTranspose2d | nn.Linear
BatchNorm = nn.BatchNorm2d | nn.BatchNorm1d


class PaddedConv2d(nn.Conv2d):
    """A convolution after a padding with zeros that differs from side to side.

    pads: (left, right, top, bottom); `padding` itself is 0.
    """

    pads: Pads = (0, 0, 0, 0)

    @staticmethod
    def of(conv: nn.Conv2d, pads: Pads) -> nn.Conv2d:
        """`conv` with these pads alone; a plain convolution where both sides have the same."""
        left, right, top, bottom = pads
        if left == right and top == bottom:
            padded = nn.Conv2d(**(_arguments(conv) | {"padding": (top, left)}), device="meta")
        else:
            padded = PaddedConv2d(**(_arguments(conv) | {"padding": 0}), device="meta")
            padded.pads = pads
        padded.weight, padded.bias = conv.weight, conv.bias
        return padded.train(conv.training)

    def forward(self, input: Tensor) -> Tensor:
        """[N, I, H, W] -> [N, O, H', W']."""
        return super().forward(functional.pad(input, self.pads))


def _arguments(conv: nn.Conv2d | nn.ConvTranspose2d) -> dict[str, Any]:
    return {
        "in_channels": conv.in_channels,
        "out_channels": conv.out_channels,
        "kernel_size": conv.kernel_size,
        "stride": conv.stride,
        "padding": conv.padding,
        "dilation": conv.dilation,
        "groups": conv.groups,
        "bias": conv.bias is not None,
        "padding_mode": conv.padding_mode,
    }


class Corrected(nn.Module):
    """What elastic layers have in common: a quantized weight, and a correction of their output.

    gain, shift: float32 [C] or None; the layer's output is ``gain * y + shift`` per channel
    (eqnet/supernet/settling/correction.py). They belong to the subnet in force, not to the
    checkpoint.
    """

    weight_quantizer: WeightQuantizer
    gain: Tensor | None
    shift: Tensor | None

    def _quantize(self, channels: int) -> None:
        self.weight_quantizer = WeightQuantizer(channels)
        self.register_buffer("gain", None, persistent=False)
        self.register_buffer("shift", None, persistent=False)

    def correct(self, gain: Tensor | None, shift: Tensor | None) -> None:
        """Set the correction, [C] each, or take it away."""
        weight = self._weight()
        self.gain = None if gain is None else gain.to(weight)
        self.shift = None if shift is None else shift.to(weight)

    def affine(self) -> tuple[Tensor, Tensor]:
        """The correction as float64 [C] each: ones and zeros where there is none."""
        channels = self.weight_quantizer.channels
        gain = self._weight().detach().new_ones(channels, dtype=torch.float64)
        shift = torch.zeros_like(gain)
        if self.gain is not None:
            gain = self.gain.double()
        if self.shift is not None:
            shift = self.shift.double()
        return gain, shift

    def effective(self) -> tuple[Tensor, Tensor | None]:
        """Weight [C, ...] in the active form and bias [C], with the correction in them."""
        weight: Tensor = self.weight_quantizer(self._weight())
        bias = cast("Tensor | None", self.bias)
        if self.gain is None or self.shift is None:
            return weight, bias
        weight = weight * self.gain.view((-1,) + (1,) * (weight.dim() - 1))
        if bias is None:
            return weight, self.shift
        return weight, bias * self.gain + self.shift

    def _weight(self) -> Tensor:
        return cast("Tensor", self.weight)


class ElasticConv2d(nn.Conv2d, Corrected):
    """Conv2d whose weight [O, I/groups, kh, kw] is quantized in the active form."""

    pads: Pads | None

    @classmethod
    def from_float(cls, conv: nn.Conv2d) -> ElasticConv2d:
        """Take over a float convolution's parameters (shared, not copied)."""
        layer = cls(**_arguments(conv), device="meta")
        layer.weight, layer.bias = conv.weight, conv.bias
        layer.pads = conv.pads if isinstance(conv, PaddedConv2d) else None
        layer._quantize(conv.out_channels)
        return layer

    def forward(self, input: Tensor) -> Tensor:
        """[N, I, H, W] -> [N, O, H', W']."""
        if self.pads is not None:
            input = functional.pad(input, self.pads)
        weight, bias = self.effective()
        result: Tensor = self._conv_forward(input, weight, bias)
        return result

    def to_float(self, weight: Tensor, bias: Tensor) -> nn.Conv2d:
        """A float convolution of this geometry with other parameters."""
        arguments = _arguments(self) | {"bias": True}
        if self.pads is None:
            plain = nn.Conv2d(**arguments, device="meta")
        else:
            plain = PaddedConv2d(**arguments, device="meta")
            plain.pads = self.pads
        plain.weight, plain.bias = nn.Parameter(weight), nn.Parameter(bias)
        return plain

    def to_static(self, weight: IntegerWeight, bias: Tensor | None) -> nn.Module:
        """The convolution with an integer weight."""
        return StaticConv2d(self, weight, bias, self.pads)


class ElasticLinear(nn.Linear, Corrected):
    """Linear whose weight [O, I] is quantized in the active form."""

    @classmethod
    def from_float(cls, linear: nn.Linear) -> ElasticLinear:
        """Take over a float layer's parameters (shared, not copied)."""
        layer = cls(linear.in_features, linear.out_features, device="meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        layer._quantize(linear.out_features)
        return layer

    def forward(self, input: Tensor) -> Tensor:
        """[N, ..., I] -> [N, ..., O]."""
        weight, bias = self.effective()
        return functional.linear(input, weight, bias)

    def to_float(self, weight: Tensor, bias: Tensor) -> nn.Linear:
        """A float layer of these sizes with other parameters."""
        plain = nn.Linear(self.in_features, self.out_features, device="meta")
        plain.weight, plain.bias = nn.Parameter(weight), nn.Parameter(bias)
        return plain

    def to_static(self, weight: IntegerWeight, bias: Tensor | None) -> nn.Module:
        """The layer with an integer weight."""
        return StaticLinear(weight, bias)


class ElasticConvTranspose2d(Corrected):
    """ConvTranspose2d whose weight is quantized in the active form, by output channel.

    weight: [O, I, kh, kw], the float layer's [I, O, kh, kw] with its first two axes swapped; for
    a depthwise one [O, 1, kh, kw], as it is. `supports` says which others have no such form.
    """

    weight: nn.Parameter
    bias: nn.Parameter | None

    def __init__(self, conv: nn.ConvTranspose2d) -> None:
        super().__init__()
        self.geometry = _arguments(conv) | {"output_padding": conv.output_padding}
        self.swaps = conv.groups == 1
        self.weight = nn.Parameter(self.natural(conv.weight.detach()).contiguous())
        self.bias = conv.bias  # type: ignore[assignment]  # torch types a parameter as a tensor
        self._quantize(conv.out_channels)

    @staticmethod
    def supports(conv: nn.ConvTranspose2d) -> bool:
        """Whether one axis of the weight tells the output channels apart."""
        depthwise = conv.groups == conv.in_channels == conv.out_channels
        return conv.groups == 1 or depthwise

    @classmethod
    def from_float(cls, conv: nn.ConvTranspose2d) -> ElasticConvTranspose2d:
        """Take over a float layer's bias and a copy of its weight."""
        return cls(conv)

    def natural(self, weight: Tensor) -> Tensor:
        """Between output channels first and torch's own order of axes; its own inverse."""
        return weight.transpose(0, 1) if self.swaps else weight

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, H, W] -> [N, O, H', W']."""
        weight, bias = self.effective()
        return functional.conv_transpose2d(
            x,
            self.natural(weight),
            bias,
            stride=self.geometry["stride"],
            padding=self.geometry["padding"],
            output_padding=self.geometry["output_padding"],
            groups=self.geometry["groups"],
            dilation=self.geometry["dilation"],
        )

    def to_float(self, weight: Tensor, bias: Tensor) -> nn.ConvTranspose2d:
        """A float layer of this geometry with other parameters; weight: [O, ...]."""
        plain = nn.ConvTranspose2d(**(self.geometry | {"bias": True}), device="meta")
        plain.weight = nn.Parameter(self.natural(weight).contiguous())
        plain.bias = nn.Parameter(bias)
        return plain

    def to_static(self, weight: IntegerWeight, bias: Tensor | None) -> nn.Module:
        """The layer with an integer weight."""
        if self.swaps:
            weight = weight.with_axis(1)
        return StaticConvTranspose2d(self.geometry, weight, bias)


ElasticLayer = ElasticConv2d | ElasticLinear | ElasticConvTranspose2d
ELASTIC = (ElasticConv2d, ElasticLinear, ElasticConvTranspose2d)
