"""Whether a subnet is one that a profile's search could have chosen, and where it is not."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator
from dataclasses import dataclass

from eqnet.spec.network import LayerInfo
from eqnet.spec.subnet import REMAINDER, SubnetSpec, WeightChoice
from eqnet.subnets.build import Style
from eqnet.subnets.profiled import Pair, Target

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
    pairs = {
        layer.name: _pairs(target, spec, layer)[0]
        for layer in _free(target)
        if spec.weights[layer.name] != REMAINDER
    }
    groups = ", ".join(target.profile.search_groups)
    found = [_again(target, spec, pairs, floats) for floats in _possible(target, spec)]
    if not found:
        first = next(x.name for x in _free(target) if spec.weights[x.name] == REMAINDER)
        return (
            f"weights.{first}: the profile's search does not leave it in the remainder with no "
            f"other layers than these (allowed: search_groups [{groups}])"
        )
    problems = [_difference(spec, one) for one in found]
    return None if None in problems else problems[0]


def _rules(target: Target, spec: SubnetSpec) -> str | None:
    """What every subnet of the profile has."""
    rules = target.profile
    pairs = (
        ("form", spec.form.label(), rules.form().label()),
        ("weight_scales", spec.weight_scales, rules.weights.scales),
        ("activation_scales", spec.activation_scales, rules.activations.scales),
        ("weight_storage_bits", spec.weight_storage_bits, rules.weights.storage_bits),
    )
    return next((_line(*found) for found in pairs if found[1] != found[2]), None)


def _names(target: Target, spec: SubnetSpec) -> str | None:
    """Names that the network has not, or that the subnet lacks."""
    layers = [layer.name for layer in target.info.layers]
    tensors = {tensor.name for tensor in target.info.tensors}
    for name in layers:
        if name not in spec.weights:
            return f"weights: lacks layer '{name}'"
    for field, known in (("weights", {*layers}), ("activations", tensors), ("carriers", tensors)):
        for name in getattr(spec, field):
            if name not in known:
                return f"{field}: '{name}' is not of this network"
    return None


def _free(target: Target) -> list[LayerInfo]:
    free = set(target.free_layers())
    return [layer for layer in target.info.layers if layer.name in free]


def _layers(target: Target, spec: SubnetSpec) -> str | None:
    """Pins, layers that the profile leaves in float, and the pairs of all others."""
    free = {layer.name for layer in _free(target)}
    for layer in target.info.layers:
        name, found = layer.name, spec.weights[layer.name]
        if name not in free:
            fixed = target.pinned.get(name, REMAINDER)
            if found != fixed:
                return _line(f"weights.{name}", _named(found), _named(fixed))
        elif found != REMAINDER and not _pairs(target, spec, layer):
            read = spec.activations.get(layer.input)
            bits = "float activations" if read is None else f"{read}-bit activations"
            allowed = ", ".join(f"w{weight}a{read}" for weight, read in target.profile.bits)
            return _line(f"weights.{name}", f"{found} bits with {bits}", allowed)
    return None


def _pairs(target: Target, spec: SubnetSpec, layer: LayerInfo) -> list[Pair]:
    """The profile's pairs that give a free layer its weights and its stored activations."""
    tensor, style = target.info.tensor(layer.input), Style.of(target.profile)
    quantized = set(spec.quantized_layers())
    read = {
        bits
        for bits in {pair[1] for pair in target.profile.bits}
        if style.stored_bits(bits, tensor, quantized) == spec.activations.get(tensor.name)
        and all(
            (spec.weights[name], bits) in target.profile.bits
            for name in tensor.layers
            if name in target.free_layers() and spec.weights[name] != REMAINDER
        )
    }
    chosen = spec.weights[layer.name]
    return sorted(pair for pair in target.profile.bits if pair[0] == chosen and pair[1] in read)


def _possible(target: Target, spec: SubnetSpec) -> Iterator[_Floats]:
    """Every choice of op groups and stem that leaves the subnet's layers in the remainder."""
    groups = [group for group in target.profile.search_groups if group != STEM]
    cuts = target.cuts() if STEM in target.profile.search_groups else ()
    floats = {layer.name for layer in _free(target) if spec.weights[layer.name] == REMAINDER}
    for stem in (None, *cuts):
        for count in range(len(groups) + 1):
            for some in itertools.combinations(groups, count):
                chosen = _Floats(frozenset(some), stem)
                if target.left_float(chosen.groups, stem) == floats:
                    yield chosen


def _again(target: Target, spec: SubnetSpec, pairs: dict[str, Pair], floats: _Floats) -> SubnetSpec:
    """The subnet that a search makes of the same choices."""
    known = {layer.name: pairs.get(layer.name, target.profile.bits[0]) for layer in _free(target)}
    return target.subnet(
        known, supernet=spec.supernet, float_groups=floats.groups, stem=floats.stem
    )


def _difference(spec: SubnetSpec, again: SubnetSpec) -> str | None:
    for field in CHOSEN:
        own, other = getattr(spec, field), getattr(again, field)
        for name in {**other, **own}:
            if own.get(name) != other.get(name):
                return _line(f"{field}.{name}", _named(own.get(name)), _named(other.get(name)))
    for field in AVERAGES:
        own, other = getattr(spec, field), getattr(again, field)
        if not math.isclose(own, other, rel_tol=1e-9):
            return _line(field, f"{own:g}", f"{other:g}")
    return None


def _named(bits: WeightChoice | None) -> str:
    if bits is None:
        return "nothing"
    return bits if bits == REMAINDER else f"{bits} bits"


def _line(field: str, found: object, allowed: object) -> str:
    return f"{field}: {found} (allowed: {allowed})"
