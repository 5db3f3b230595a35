"""Places: what may be quantized by itself, and the subnets in which nothing else is."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from eqnet.sensitivity.partial import quantizer_of
from eqnet.spec.network import NetworkInfo
from eqnet.spec.subnet import REMAINDER, SubnetSpec

Kind = Literal["weights", "input", "carrier", "tensor", "group"]
CARRIERS = "carriers"
"""The group of all tensors that other operations than layers read."""


@dataclass(frozen=True, order=True)
class Place:
    """Where quantization may cost something.

    kind: a layer's weights; a tensor as layers read it (input), as all others do (carrier), or
    both in one (tensor); an op group with what its layers read. bits: 0 for a group.
    """

    kind: Kind
    name: str
    bits: int = 0

    @property
    def key(self) -> str:
        """A short name, such as ``weights:stem:8``; no two places share one."""
        return f"{self.kind}:{self.name}:{self.bits}"


def all_float(spec: SubnetSpec) -> SubnetSpec:
    """The subnet of this form in which nothing is quantized."""
    return spec.model_copy(
        update={
            "weights": dict.fromkeys(spec.weights, REMAINDER),
            "activations": {},
            "carriers": {},
        }
    )


def alone(spec: SubnetSpec, info: NetworkInfo, place: Place) -> SubnetSpec:
    """The subnet of `spec`'s form in which nothing but `place` is quantized."""
    empty = all_float(spec)
    if place.kind == "group":
        return empty.model_copy(update=_group(spec, info, place.name))
    bits = {place.name: place.bits}
    if place.kind == "weights":
        return empty.model_copy(update={"weights": empty.weights | bits})
    changes = {}
    if place.kind in ("input", "tensor"):
        changes["activations"] = bits
    if place.kind in ("carrier", "tensor"):
        changes["carriers"] = bits
    return empty.model_copy(update=changes)


def _group(spec: SubnetSpec, info: NetworkInfo, group: str) -> dict[str, object]:
    if group == CARRIERS:
        return {"carriers": spec.carriers}
    layers = [layer for layer in info.layers if layer.group == group]
    weights = dict.fromkeys(spec.weights, REMAINDER) | {
        layer.name: spec.weights[layer.name] for layer in layers
    }
    read = {layer.input for layer in layers if spec.weights[layer.name] != REMAINDER}
    narrow = {name: bits for name, bits in spec.activations.items() if name in read}
    return {"weights": weights, "activations": narrow}


def places_of(info: NetworkInfo, spec: SubnetSpec) -> list[Place]:
    """Every layer and tensor that `spec` quantizes, in graph order."""
    places = []
    for layer in info.layers:
        bits = spec.weights[layer.name]
        if bits != REMAINDER:
            places.append(Place("weights", layer.name, int(bits)))
    for tensor in info.tensors:
        narrow, carrier = spec.activations.get(tensor.name), spec.carriers.get(tensor.name)
        if narrow is not None and narrow == carrier:
            places.append(Place("tensor", tensor.name, narrow))
            continue
        if narrow is not None:
            places.append(Place("input", tensor.name, narrow))
        if carrier is not None:
            places.append(Place("carrier", tensor.name, carrier))
    return places


def groups_in(info: NetworkInfo, spec: SubnetSpec) -> list[Place]:
    """The op groups that `spec` quantizes something of, and its carriers."""
    groups = {layer.group for layer in info.layers if spec.weights[layer.name] != REMAINDER}
    names: list[str] = sorted(groups)
    if spec.carriers:
        names.append(CARRIERS)
    return [Place("group", name) for name in names]


def layers_at(info: NetworkInfo, place: Place) -> tuple[str, ...]:
    """The layers that a place is of: its own, or those that read its tensor."""
    if place.kind == "weights":
        return (place.name,)
    if place.kind == "group":
        return tuple(layer.name for layer in info.layers if layer.group == place.name)
    return info.tensor(place.name).layers


def changed_modules(base: SubnetSpec, other: SubnetSpec) -> frozenset[str]:
    """The modules of the graph that compute otherwise in `other` than in `base`."""
    changed = {name for name, bits in other.weights.items() if bits != base.weights[name]}
    for tensor in _changed_tensors(base, other):
        changed.add(quantizer_of(tensor))
    return frozenset(changed)


def affected_layers(info: NetworkInfo, base: SubnetSpec, other: SubnetSpec) -> tuple[str, ...]:
    """The layers whose own weights, or what they read, are otherwise in `other`."""
    tensors = _changed_tensors(base, other)
    found = []
    for layer in info.layers:
        if other.weights[layer.name] != base.weights[layer.name] or layer.input in tensors:
            found.append(layer.name)
    return tuple(found)


def _changed_tensors(base: SubnetSpec, other: SubnetSpec) -> set[str]:
    found: set[str] = set()
    for before, after in ((base.activations, other.activations), (base.carriers, other.carriers)):
        found |= {name for name in _names(before, after) if before.get(name) != after.get(name)}
    return found


def _names(*mappings: Iterable[str]) -> set[str]:
    return {name for mapping in mappings for name in mapping}
