"""Elastic quantizers: one learned scale and zero-point for each form and bit-width.

A scale is learned as its logarithm: it stays positive, and one learning rate suits the scales
of 2 bits and of 8. Every parameter is created in ``__init__``, so a checkpoint loads without a
forward pass. Each (form, bits) has parameters of its own: those of forms that a step does not
use get no gradient, and so no update.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from eqnet.quant.clip_search import search_clip
from eqnet.quant.functional import (
    fake_quantize,
    nearest_even,
    power_of_two,
    quantize,
    whole_zero_point,
)
from eqnet.quant.rounding import pack, unpack
from eqnet.spec.scheme import (
    BITS,
    Granularity,
    IntegerRange,
    Scales,
    Symmetry,
    activation_range,
    weight_range,
)

MAX_SAMPLES = 1 << 16
MAX_CHANNEL_SAMPLES = 1 << 10
# Below it a product of scale and factor is that of a channel without effect.
MIN_PRODUCT = 1e-30
# A lesser scale cuts off a channel's largest weights, which shifts its gain and costs more than
# coarser steps do. On validation images 1.2 to 1.3 was best at 2, 4 and 8 bits.
MAX_SHRINK = 1.25

# The submodule of a captured graph that holds its activation quantizers by tensor name.
QUANTIZERS = "quantizers"


def _sample_columns(values: Tensor, limit: int) -> Tensor:
    """At most `limit` columns of [C, N], evenly spaced: deterministic and cheap."""
    stride = math.ceil(values.shape[1] / limit)
    return values[:, ::stride]


class WeightQuantizer(nn.Module):
    """Quantizer of one weight tensor, over bits x granularity x symmetry.

    `bits` is the active bit-width; None leaves the weight in float. `snapped`, float32 [C], are
    scales that `snap` chose in place of the learned ones, or None. `rounding` holds, for each form
    that was reconstructed, how far its integers are from the nearest ones, packed.
    """

    snapped: Tensor | None

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.channels = channels
        self.log_scale = nn.ParameterDict()
        self.zero_point = nn.ParameterDict()
        for granularity in Granularity:
            rows = channels if granularity is Granularity.PER_CHANNEL else 1
            for symmetry in Symmetry:
                for bits in BITS:
                    key = self.key(granularity, symmetry, bits)
                    self.log_scale[key] = nn.Parameter(torch.zeros(rows))
                    if symmetry is Symmetry.ASYMMETRIC:
                        self.zero_point[key] = nn.Parameter(torch.zeros(rows))
        self.granularity = Granularity.PER_CHANNEL
        self.symmetry = Symmetry.SYMMETRIC
        self.bits: int | None = None
        self.register_buffer("snapped", None, persistent=False)
        self.rounding = nn.Module()
        self._unpacked: tuple[str, Tensor] | None = None

    @staticmethod
    def key(granularity: Granularity, symmetry: Symmetry, bits: int) -> str:
        """Name of the parameters of one form, such as ``per_channel_symmetric_4``."""
        return f"{granularity}_{symmetry}_{bits}"

    def parameters_of(self, bits: int) -> tuple[Tensor, Tensor, IntegerRange]:
        """scale [C or 1], zero-point [C or 1] and integer range in the active form."""
        key = self.key(self.granularity, self.symmetry, bits)
        scale = self.log_scale[key].exp()
        zero = self.zero_point[key] if key in self.zero_point else torch.zeros_like(scale)
        if self.snapped is not None:
            scale, zero = self.snapped, zero.expand_as(self.snapped)
        return scale, zero, weight_range(bits, self.symmetry)

    @torch.no_grad()
    def snap(self, factor: Tensor) -> None:
        """Use scales whose products with `factor` are powers of two, until `snapped` is cleared.

        factor: non-negative float64 [C], what batch norm will multiply the scales by when it is
        absorbed; so a tensor with one scale gets one for each channel. A scale shrinks by 1.25
        at most and grows by 1.6 at most. Where the product is next to nothing it stays.
        """
        assert self.bits is not None
        self.snapped = None
        learned = self.parameters_of(self.bits)[0].double()
        product = learned * factor
        live = product > MIN_PRODUCT
        positive = torch.where(live, product, torch.ones_like(product))
        scale = torch.where(live, power_of_two(positive, MAX_SHRINK) / factor, learned)
        self.snapped = scale.float()

    @torch.no_grad()
    def set_rounding(self, key: str, offsets: Tensor) -> None:
        """Let integers of a form differ from the nearest: by -1, 0 or 1, in the weight's shape."""
        self.rounding.register_buffer(key, pack(offsets))
        self._unpacked = None

    def _offsets(self, weight: Tensor) -> Tensor | None:
        """How far the active form's integers are from the nearest ones, or None."""
        if self.bits is None or self.snapped is not None:
            return None  # other scales have other integers
        key = self.key(self.granularity, self.symmetry, self.bits)
        packed = self.rounding._buffers.get(key)
        if packed is None:
            return None
        stored = self._unpacked
        if stored is None or stored[0] != key or stored[1].device != weight.device:
            self._unpacked = stored = (key, unpack(packed.to(weight.device), weight.shape))
        return stored[1]

    def _quantize(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Integers as float32 [C, ...], scale and whole zero-point, shaped to match."""
        assert self.bits is not None
        scale, zero, span = self.parameters_of(self.bits)
        shape = (-1,) + (1,) * (weight.dim() - 1)
        scale, zero = (
            scale.view(shape),
            whole_zero_point(zero, span.lo, span.hi).view(shape),
        )
        integers = quantize(weight, scale, zero, span.lo, span.hi)
        offsets = self._offsets(weight)
        if offsets is not None:
            integers = torch.clamp(integers + offsets, span.lo, span.hi)
        return integers, scale, zero

    def forward(self, weight: Tensor) -> Tensor:
        """Fake-quantize a weight of shape [C, ...]; unchanged when `bits` is None.

        Without gradients, integers are those of `integers`; training rounds to the nearest.
        """
        if self.bits is None:
            return weight
        if not torch.is_grad_enabled():
            integers, scales, zeros = self._quantize(weight.float())
            return integers.sub_(zeros).mul_(scales)
        scale, zero, span = self.parameters_of(self.bits)
        shape = (-1,) + (1,) * (weight.dim() - 1)
        per_scale = weight.numel() / scale.numel()
        gradient_scale = 1.0 / math.sqrt(per_scale * span.hi)
        scale, zero = scale.view(shape), zero.view(shape)
        return fake_quantize(weight, scale, zero, span.lo, span.hi, gradient_scale)

    @torch.no_grad()
    def integers(self, weight: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Integers (int32, shape of weight), scale [C] and zero-point int32 [C] as they are now.

        Raises ValueError when the weight stays in float.
        """
        if self.bits is None:
            raise ValueError("the weight is in the remainder: it has no integers")
        integers, scale, zero = self._quantize(weight)
        return (
            integers.to(torch.int32),
            scale.detach().reshape(-1).expand(self.channels).clone(),
            zero.to(torch.int32).reshape(-1).expand(self.channels).clone(),
        )

    @torch.no_grad()
    def initialize(self, weight: Tensor) -> None:
        """Set every form's parameters by clip search on `weight` [C, ...]."""
        for granularity in Granularity:
            rows, limit = weight.reshape(1, -1), MAX_SAMPLES
            if granularity is Granularity.PER_CHANNEL:
                rows, limit = weight.reshape(self.channels, -1), MAX_CHANNEL_SAMPLES
            sample, low, high = _sample_columns(rows, limit), rows.amin(1), rows.amax(1)
            for symmetry in Symmetry:
                symmetric = symmetry is Symmetry.SYMMETRIC
                for bits in BITS:
                    key, span = self.key(granularity, symmetry, bits), weight_range(bits, symmetry)
                    grid = search_clip(sample, low, high, span, symmetric=symmetric)
                    self.log_scale[key].copy_(grid.scale.log())
                    if not symmetric:
                        self.zero_point[key].copy_(grid.zero_point)


class ActivationQuantizer(nn.Module):
    """Quantizer of one activation tensor, at its producer, shared by all its readers.

    The tensor may be held as a `carrier` (what Add and pooling read) and, requantized from it,
    as a `narrow` tensor (what Conv and Linear read). Either is off when its bits are None; with
    equal bits both are one tensor. Non-negative tensors are unsigned with zero-point 0 in every
    form; `upper` is a bound that the producer keeps anyway (6 for ReLU6).
    """

    def __init__(self, non_negative: bool, upper: float | None = None) -> None:
        super().__init__()
        self.non_negative = non_negative
        self.upper = upper
        self.log_scale = nn.ParameterDict()
        self.zero_point = nn.ParameterDict()
        for symmetry in self._symmetries():
            for bits in BITS:
                key = f"{symmetry}_{bits}"
                self.log_scale[key] = nn.Parameter(torch.zeros(()))
                if symmetry == Symmetry.ASYMMETRIC:
                    self.zero_point[key] = nn.Parameter(torch.zeros(()))
        self.symmetry = Symmetry.ASYMMETRIC
        self.scales = Scales.FREE
        self.carrier_bits: int | None = None
        self.narrow_bits: int | None = None

    def _symmetries(self) -> tuple[str, ...]:
        if self.non_negative:
            return ("unsigned",)
        return tuple(Symmetry)

    def parameters_of(self, bits: int) -> tuple[Tensor, Tensor, IntegerRange]:
        """scale [], zero-point [] and integer range in the active form."""
        symmetry = "unsigned" if self.non_negative else self.symmetry
        key = f"{symmetry}_{bits}"
        span = activation_range(bits, self.symmetry, self.non_negative)
        scale = self.log_scale[key].exp()
        if self.upper is not None:
            # A grid inside the producer's own bound lets its clip be absorbed exactly. The gradient
            # passes, or a scale that is at its bound would never leave it.
            bound = self.upper / span.hi
            scale = torch.where(scale > bound, bound + (scale - scale.detach()), scale)
        if self.scales is Scales.POWER_OF_TWO:
            # A bound such as 6 lies on each such grid. The gradient passes straight through.
            scale = power_of_two(scale.detach()) + (scale - scale.detach())
        if key not in self.zero_point:
            return scale, torch.zeros_like(scale), span
        zero = self.zero_point[key]
        if self.scales is Scales.POWER_OF_TWO:
            zero = zero + (nearest_even(zero.detach(), span.lo, span.hi) - zero.detach())
        return scale, zero, span

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(carrier, narrow), each of the shape of x: [N, C, H, W] or [N, C]."""
        carrier = x
        if self.carrier_bits is not None:
            carrier = self._quantize(x, self.carrier_bits)
        if self.narrow_bits is None or self.narrow_bits == self.carrier_bits:
            return carrier, carrier
        return carrier, self._quantize(carrier, self.narrow_bits)

    def _quantize(self, x: Tensor, bits: int) -> Tensor:
        scale, zero, span = self.parameters_of(bits)
        per_image = x.numel() / max(1, x.shape[0])
        weight = 1.0 / math.sqrt(per_image * span.hi)
        return fake_quantize(x, scale, zero, span.lo, span.hi, weight)

    @torch.no_grad()
    def project(self) -> None:
        """Bring scales that an optimizer moved past the bound back to it."""
        if self.upper is None:
            return
        for key, log_scale in self.log_scale.items():
            bits = int(key.rsplit("_", 1)[1])
            span = activation_range(bits, self.symmetry, self.non_negative)
            log_scale.clamp_(max=math.log(self.upper / span.hi))

    @torch.no_grad()
    def initialize(
        self, values: Tensor, low: float, high: float, weights: Tensor | None = None
    ) -> None:
        """Set every form's parameters by clip search on `values` [N], a sample in [low, high].

        weights: [N], how much each value's error counts (None: all alike).
        """
        row = _sample_columns(values.reshape(1, -1).float(), MAX_SAMPLES)
        if weights is not None:
            weights = _sample_columns(weights.reshape(1, -1).float(), MAX_SAMPLES)[0]
        bounds = (row.new_tensor([low]), row.new_tensor([high]))
        for key, log_scale in self.log_scale.items():
            symmetry, bits = key.rsplit("_", 1)
            kind = Symmetry.SYMMETRIC if self.non_negative else Symmetry(symmetry)
            span = activation_range(int(bits), kind, self.non_negative)
            symmetric = kind is Symmetry.SYMMETRIC
            grid = search_clip(
                row, *bounds, span, symmetric=symmetric, weights=weights, skewed=True
            )
            log_scale.copy_(grid.scale[0].log())
            if key in self.zero_point:
                self.zero_point[key].copy_(grid.zero_point[0])
