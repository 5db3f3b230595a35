"""Making subnets: which tensors carry quantizers under a placement, and average bits."""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from eqnet.spec.hardware.load import load_profile
from eqnet.spec.hardware.profile import ActivationRules, HardwareProfile, OpGroup, Placement
from eqnet.spec.network import NetworkInfo, TensorInfo
from eqnet.spec.scheme import BITS, CARRIER_BITS, Form, Symmetry
from eqnet.spec.subnet import REMAINDER, SubnetSpec, WeightChoice

FLOAT_BITS = 32
PAPER = Placement(residual_bits="float", add="none", carriers=())


@dataclass(frozen=True)
class PlacementStyle:
    """A shipped way of placing quantizers: what training samples and targets deploy."""

    name: str
    placement: Placement
    activations: ActivationRules

    @classmethod
    def of(cls, profile: HardwareProfile) -> PlacementStyle:
        """The style of a hardware profile."""
        return cls(profile.name, profile.placement, profile.activations)

    def stored_bits(self, bits: int, tensor: TensorInfo, quantized: Collection[str]) -> int:
        """Bits of a tensor in this style's storage (b - 1 where half of it would stay empty).

        quantized: the layers that are not in the remainder.
        """
        if not tensor.non_negative or self.activations.zero_point != "zero":
            return bits
        all_quantized = all(layer in quantized for layer in tensor.layers)
        if self.activations.unsigned == "shifted" and tensor.shiftable and all_quantized:
            return bits
        return max(BITS[0], bits - 1)


PAPER_STYLE = PlacementStyle("paper", PAPER, ActivationRules(symmetry=Symmetry.ASYMMETRIC))


def load_style(name: str) -> PlacementStyle:
    """The style "paper" (quantizers at Conv and Linear inputs), or that of a profile.

    Raises ProfileError for a name that is neither, nor a file.
    """
    return PAPER_STYLE if name == PAPER_STYLE.name else PlacementStyle.of(load_profile(name))


def pinned_names(info: NetworkInfo) -> tuple[str, str]:
    """The first and the last layer, which default to 8 bits."""
    names = info.layer_names()
    return names[0], names[-1]


def build_spec(
    info: NetworkInfo,
    style: PlacementStyle,
    form: Form,
    weights: Mapping[str, WeightChoice],
    activation_bits: Mapping[str, int],
    *,
    supernet: str = "",
    profile: HardwareProfile | None = None,
    float_tensors: frozenset[str] = frozenset(),
) -> SubnetSpec:
    """The subnet in which layer L has `weights[L]` and tensor T at most `activation_bits[T]`.

    Tensors that only layers in the remainder read stay in float; carriers follow from the
    style's placement, but `float_tensors` have none unless a quantized layer reads them.
    """
    quantized = {name for name, bits in weights.items() if bits != REMAINDER}
    narrow: dict[str, int] = {}
    for tensor in info.read_tensors():
        if quantized.intersection(tensor.layers):
            narrow[tensor.name] = style.stored_bits(activation_bits[tensor.name], tensor, quantized)
    placed = []
    for tensor in info.tensors:
        if tensor.name in narrow or tensor.name not in float_tensors:
            placed.append(tensor)
    return SubnetSpec(
        supernet=supernet,
        form=form,
        weights=dict(weights),
        activations=narrow,
        carriers=_carriers(placed, style, narrow, quantized),
        avg_weight_bits=average_weight_bits(info, weights),
        avg_activation_bits=average_activation_bits(info, narrow),
        **_profile_fields(profile),
    )


def _profile_fields(profile: HardwareProfile | None) -> dict[str, Any]:
    """The fields of a subnet that its profile alone decides; without one they have defaults."""
    if profile is None:
        return {}
    return {
        "profile": profile.name,
        "profile_sha256": profile.sha256(),
        "weight_scales": profile.weights.scales,
        "activation_scales": profile.activations.scales,
        "weight_storage_bits": profile.weights.storage_bits,
    }


def _carriers(
    tensors: Iterable[TensorInfo],
    style: PlacementStyle,
    narrow: Mapping[str, int],
    quantized: set[str],
) -> dict[str, int]:
    carriers = {}
    for tensor in tensors:
        shared = _is_shared(tensor, style, narrow)
        if shared and style.placement.residual_bits == "same":
            carriers[tensor.name] = narrow[tensor.name]
        elif shared or _wants_carrier(tensor, style.placement, quantized):
            carriers[tensor.name] = style.stored_bits(CARRIER_BITS, tensor, quantized)
    return carriers


def _is_shared(tensor: TensorInfo, style: PlacementStyle, narrow: Mapping[str, int]) -> bool:
    """Whether a quantized layer and something else read the tensor, in one precision."""
    quantized = style.placement.residual_bits != "float"
    return quantized and tensor.name in narrow and bool(tensor.readers)


def _wants_carrier(tensor: TensorInfo, placement: Placement, quantized: set[str]) -> bool:
    if "add" in tensor.readers:
        # Beside a float convolution a runtime would add in another one, and leave out a rounding.
        skip = not tensor.added_by_conv and (
            not tensor.added_to_convs or bool(quantized & {*tensor.added_to_convs})
        )
        if placement.add == "both" or (placement.add == "skip" and skip):
            return True
    if "other" in placement.carriers and tensor.float_read_conv in quantized:
        return True
    # Layers in the remainder read floats like any other operation.
    floats = tensor.layers and not quantized & {*tensor.layers}
    if "other" in placement.carriers and floats and quantized & {*tensor.made_by_convs}:
        return True
    groups = {*placement.carriers} - {"other"}
    return not groups.isdisjoint(tensor.readers)


def average_weight_bits(info: NetworkInfo, weights: Mapping[str, WeightChoice]) -> float:
    """Mean over all weights, pinned layers included; a float weight counts 32 bits."""
    total = bits = 0
    for layer in info.layers:
        total += layer.weights
        bits += layer.weights * _width(weights[layer.name])
    return bits / total


def average_activation_bits(info: NetworkInfo, narrow: Mapping[str, int]) -> float:
    """Mean over the elements that Conv and Linear read; a float tensor counts 32 bits."""
    total = bits = 0
    for tensor in info.read_tensors():
        total += tensor.elements
        bits += tensor.elements * narrow.get(tensor.name, FLOAT_BITS)
    return bits / total


def _width(choice: WeightChoice) -> int:
    return FLOAT_BITS if choice == REMAINDER else int(choice)


def choose_bits(
    info: NetworkInfo, weight_bits: Callable[[], int], activation_bits: Callable[[], int]
) -> tuple[dict[str, WeightChoice], dict[str, int]]:
    """Bits of every layer and then of every tensor that layers read, asked for one by one.

    The first and the last layer have 8, with what they read, and are not asked for.
    """
    pinned = set(pinned_names(info))
    weights: dict[str, WeightChoice] = {}
    for layer in info.layers:
        if layer.name in pinned:
            weights[layer.name] = CARRIER_BITS
        else:
            weights[layer.name] = weight_bits()
    activations: dict[str, int] = {}
    for tensor in info.read_tensors():
        if pinned.isdisjoint(tensor.layers):
            activations[tensor.name] = activation_bits()
        else:
            activations[tensor.name] = CARRIER_BITS
    return weights, activations


def uniform(
    info: NetworkInfo,
    style: PlacementStyle,
    form: Form,
    weight_bits: int,
    activation_bits: int,
    *,
    supernet: str = "",
) -> SubnetSpec:
    """The subnet with the same bits everywhere but in the first and the last layer (8 bits)."""
    weights, activations = choose_bits(info, lambda: weight_bits, lambda: activation_bits)
    return build_spec(info, style, form, weights, activations, supernet=supernet)


def random_subnet(
    info: NetworkInfo,
    style: PlacementStyle,
    form: Form,
    rng: random.Random,
    bits: tuple[int, ...] = BITS,
) -> SubnetSpec:
    """Bits drawn independently for every tensor that is not pinned."""
    weights, activations = choose_bits(info, lambda: rng.choice(bits), lambda: rng.choice(bits))
    return build_spec(info, style, form, weights, activations)


def groups_of(info: NetworkInfo) -> tuple[OpGroup, ...]:
    """The op groups that the network has, in graph order."""
    return tuple(dict.fromkeys(layer.group for layer in info.layers))
