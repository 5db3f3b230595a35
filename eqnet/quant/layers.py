"""Elastic layers: a float layer whose weight passes through an elastic quantizer."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from eqnet.quant.quantizers import WeightQuantizer


class ElasticConv2d(nn.Conv2d):
    """Conv2d whose weight [O, I/groups, kh, kw] is quantized in the active form."""

    weight_quantizer: WeightQuantizer

    @classmethod
    def from_float(cls, conv: nn.Conv2d) -> ElasticConv2d:
        """Take over a float convolution's parameters (shared, not copied)."""
        layer = cls(
            conv.in_channels, conv.out_channels, conv.kernel_size, conv.stride,  # type: ignore[arg-type]  # loose sizes
            conv.padding, conv.dilation, conv.groups, conv.bias is not None,  # type: ignore[arg-type]  # loose sizes
            conv.padding_mode, device="meta",
        )  # fmt: skip
        layer.weight, layer.bias = conv.weight, conv.bias
        layer.weight_quantizer = WeightQuantizer(conv.out_channels)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """[N, I, H, W] -> [N, O, H', W']."""
        weight: Tensor = self.weight_quantizer(self.weight)
        result: Tensor = self._conv_forward(x, weight, self.bias)
        return result


class ElasticLinear(nn.Linear):
    """Linear whose weight [O, I] is quantized in the active form."""

    weight_quantizer: WeightQuantizer

    @classmethod
    def from_float(cls, linear: nn.Linear) -> ElasticLinear:
        """Take over a float layer's parameters (shared, not copied)."""
        layer = cls(linear.in_features, linear.out_features, device="meta")
        layer.weight, layer.bias = linear.weight, linear.bias
        layer.weight_quantizer = WeightQuantizer(linear.out_features)
        return layer

    def forward(self, x: Tensor) -> Tensor:
        """[N, I] -> [N, O]."""
        weight: Tensor = self.weight_quantizer(self.weight)
        return torch.nn.functional.linear(x, weight, self.bias)


ElasticLayer = ElasticConv2d | ElasticLinear
