"""Whether a subnet is one that a profile's search could have chosen, and where it is not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from eqnet.spec.network import LayerInfo, TensorInfo
from eqnet.spec.subnet import REMAINDER, SubnetSpec, WeightChoice
from eqnet.subnets.build import PlacementStyle
from eqnet.subnets.target import BitPair, Target

CHOSEN = ("weights", "activations", "carriers")
AVERAGES = ("avg_weight_bits", "avg_activation_bits")
STEM = "stem"


@dataclass(frozen=True)
class _Floats:
    """What a search may leave in the remainder: op groups, and all before a layer."""

    groups: frozenset[str]
    stem: str | None


def first_difference(target: Target, spec: SubnetSpec) -> str | None:
    """The first field of a subnet that no subnet of the target has, and what is allowed there.

    None where the subnet is the target's: its own weights and activations, chosen again, give
    the very same subnet. Hashes and scores are not looked at.
    """
    problem = _rules(target, spec) or _names(target, spec) or _layers(target, spec)
    if problem is not None:
        return problem
    free, pairs = target.free_layers(), {}
    for layer in target.info.layers:
        if layer.name in free and spec.weights[layer.name] != REMAINDER:
            pairs[layer.name] = _pairs(target, spec, layer)[0]
    problems = []
    for floats in _possible(target, spec):
        again = _again(target, spec, pairs, floats)
        problems.append(_difference(spec, again))
    if None in problems:
        return None
    if problems:
        return problems[0]
    groups = ", ".join(target.profile.search_groups)
    return (
        f"weights.{_floats(target, spec)[0]}: the profile's search does not leave it in the "
        f"remainder with no other layers than these (allowed: search_groups [{groups}])"
    )


def _rules(target: Target, spec: SubnetSpec) -> str | None:
    """What every subnet of the profile has."""
    rules = target.profile
    pairs = (
        ("form", spec.form.label(), rules.form().label()),
        ("weight_scales", spec.weight_scales, rules.weights.scales),
        ("activation_scales", spec.activation_scales, rules.activations.scales),
        ("weight_storage_bits", spec.weight_storage_bits, rules.weights.storage_bits),
    )
    for field, value, allowed in pairs:
        if value != allowed:
            return _line(field, value, allowed)
    return None


def _names(target: Target, spec: SubnetSpec) -> str | None:
    """Names that the network has not, or that the subnet lacks."""
    layers = target.info.layer_names()
    tensors = [tensor.name for tensor in target.info.tensors]
    for name in layers:
        if name not in spec.weights:
            return f"weights: lacks layer '{name}'"
    for field, names in (("weights", layers), ("activations", tensors), ("carriers", tensors)):
        for name in getattr(spec, field):
            if name not in names:
                return f"{field}: '{name}' is not of this network"
    return None


def _floats(target: Target, spec: SubnetSpec) -> list[str]:
    """The free layers that the subnet leaves in the remainder."""
    return [name for name in target.free_layers() if spec.weights[name] == REMAINDER]


def _layers(target: Target, spec: SubnetSpec) -> str | None:
    """Pins, layers that the profile leaves in float, and the pairs of all others."""
    free = target.free_layers()
    for layer in target.info.layers:
        name, choice = layer.name, spec.weights[layer.name]
        if name not in free:
            fixed = target.pinned.get(name, REMAINDER)
            if choice != fixed:
                return _line(f"weights.{name}", _named(choice), _named(fixed))
        elif choice != REMAINDER and not _pairs(target, spec, layer):
            read = spec.activations.get(layer.input)
            bits = "float activations" if read is None else f"{read}-bit activations"
            allowed = ", ".join(f"w{weight}a{read}" for weight, read in target.profile.bits)
            return _line(f"weights.{name}", f"{choice} bits with {bits}", allowed)
    return None


def _pairs(target: Target, spec: SubnetSpec, layer: LayerInfo) -> list[BitPair]:
    """The profile's pairs that give a free layer its weights and its stored activations."""
    tensor = target.info.tensor(layer.input)
    pairs = []
    for weight, read in target.profile.bits:
        if weight == spec.weights[layer.name] and _may_read(target, spec, tensor, read):
            pairs.append((weight, read))
    return sorted(pairs)


def _may_read(target: Target, spec: SubnetSpec, tensor: TensorInfo, bits: int) -> bool:
    """Whether a tensor of these bits is stored as the subnet's, and suits all that read it."""
    style = PlacementStyle.of(target.profile)
    quantized = spec.quantized_layers()
    if style.stored_bits(bits, tensor, quantized) != spec.activations.get(tensor.name):
        return False
    free = target.free_layers()
    for name in tensor.layers:
        weight = spec.weights[name]
        if name in free and weight != REMAINDER and (weight, bits) not in target.profile.bits:
            return False
    return True


def _possible(target: Target, spec: SubnetSpec) -> Iterator[_Floats]:
    """Every choice of op groups and stem that leaves the subnet's layers in the remainder."""
    groups: list[str] = [*target.profile.search_groups]
    stems: list[str | None] = [None]
    if STEM in groups:
        groups.remove(STEM)
        stems += target.cuts()
    floats = {*_floats(target, spec)}
    for stem in stems:
        for count in range(len(groups) + 1):
            for some in itertools.combinations(groups, count):
                chosen = _Floats(frozenset(some), stem)
                if target.left_float(chosen.groups, stem) == floats:
                    yield chosen


def _again(
    target: Target, spec: SubnetSpec, pairs: dict[str, BitPair], floats: _Floats
) -> SubnetSpec:
    """The subnet that a search makes of the same choices."""
    choices = dict.fromkeys(target.free_layers(), target.profile.bits[0]) | pairs
    return target.subnet(
        choices, supernet=spec.supernet, float_groups=floats.groups, stem=floats.stem
    )


def _difference(spec: SubnetSpec, again: SubnetSpec) -> str | None:
    for field in CHOSEN:
        bits, allowed = getattr(spec, field), getattr(again, field)
        for name in {**allowed, **bits}:
            if bits.get(name) != allowed.get(name):
                return _line(f"{field}.{name}", _named(bits.get(name)), _named(allowed.get(name)))
    for field in AVERAGES:
        average, allowed = getattr(spec, field), getattr(again, field)
        if not math.isclose(average, allowed, rel_tol=1e-9):
            return _line(field, f"{average:g}", f"{allowed:g}")
    return None


def _named(bits: WeightChoice | None) -> str:
    if bits is None:
        return "nothing"
    return bits if bits == REMAINDER else f"{bits} bits"


def _line(field: str, value: object, allowed: object) -> str:
    return f"{field}: {value} (allowed: {allowed})"
