"""What of a subnet its latency depends on: layers in float, and passes between precisions.

A layer's own time depends on whether it multiplies integers; a tensor costs a pass over it
wherever one side has floats and the other integers. Fewer bits than 8 change no kernel, only
what stands between kernels.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from eqnet.spec.network import NetworkInfo, TensorInfo
from eqnet.spec.scheme import STORAGE_BITS, Frozen
from eqnet.spec.subnet import REMAINDER, SubnetSpec

Pass = Literal[
    "quantized",
    "given in float",
    "read in float",
    "split",
    "requantized",
    "clipped",
    "added in float",
    "added to float",
]
"""What happens to a tensor.

quantized: made in float, held in integers. given in float: made by integer kernels, and not held
in integers. read in float: held in integers, and a layer in float reads it. split: layers read
integers, others floats. requantized: layers read other integers than the rest. clipped: held in
fewer bits than the storage has. added in float, added to float: a sum that a convolution's own
kernel may absorb has floats in a convolution of integers, or integers in one of floats.
"""
LAYER = "layer"


class Origin(Frozen):
    """What a tensor is computed from, up to layers and other tensors that may be quantized."""

    layers: tuple[str, ...] = ()
    tensors: tuple[str, ...] = ()


def key(kind: str, name: str) -> str:
    """The name of a feature: of a layer in float, or of a pass over a tensor."""
    return f"{kind}: {name}"


def features(info: NetworkInfo, origins: Mapping[str, Origin], spec: SubnetSpec) -> set[str]:
    """The features that a subnet has; those of another subnet of the network may be others."""
    floats = {name for name, choice in spec.weights.items() if choice == REMAINDER}
    found = {key(LAYER, name) for name in floats}
    for tensor in info.tensors:
        made = _is_integer(origins.get(tensor.name, Origin()), floats, spec)
        found |= {key(kind, tensor.name) for kind in _passes(tensor, made, floats, spec)}
    return found


def _is_integer(origin: Origin, floats: set[str], spec: SubnetSpec) -> bool:
    """Whether all that a tensor is computed from are integers; the network's input is none."""
    if not origin.layers and not origin.tensors:
        return False
    return floats.isdisjoint(origin.layers) and all(
        name in spec.carriers for name in origin.tensors
    )


def _passes(tensor: TensorInfo, made: bool, floats: set[str], spec: SubnetSpec) -> set[Pass]:
    carrier, narrow = spec.carriers.get(tensor.name), spec.activations.get(tensor.name)
    found = _sums(tensor, floats, held=carrier is not None)
    if carrier is None and narrow is None:
        return found | {"given in float"} if made else found
    if not made:
        found.add("quantized")
    if not floats.isdisjoint(tensor.layers):
        found.add("read in float")
    if carrier is None and tensor.readers:
        found.add("split")
    if carrier is not None and narrow is not None and carrier != narrow:
        found.add("requantized")
    if min(bits for bits in (carrier, narrow) if bits is not None) < STORAGE_BITS:
        found.add("clipped")
    return found


def _sums(tensor: TensorInfo, floats: set[str], *, held: bool) -> set[Pass]:
    """Of a tensor that convolutions may add to their outputs. held: in integers."""
    absorbing = {*tensor.added_to_convs}
    if held:
        return {"added to float"} if absorbing & floats else set()
    return {"added in float"} if absorbing - floats else set()
