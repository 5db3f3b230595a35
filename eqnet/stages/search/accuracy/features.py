"""The predictor's input: a subnet as a vector: EQ-Net's condition flags first."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from eqnet.spec.network import NetworkInfo
from eqnet.spec.scheme import BITS, Granularity, Symmetry
from eqnet.spec.subnet import REMAINDER, SubnetSpec

OFF = 0
ALIKE = 0.5
"""How far a model's log KL of one subnet is taken to be off, as a standard deviation; others have
the part of it that they have in common with that subnet."""
CODES = (OFF, *BITS)
"""One-hot positions of a layer's or a tensor's bits; OFF is a float one."""


def feature_size(info: NetworkInfo) -> int:
    """Length of the vector for a network."""
    flags = len(Granularity) + 2 * len(Symmetry) + len(info.tensors)
    return flags + len(CODES) * (len(info.layers) + len(info.read_tensors()))


def encode(info: NetworkInfo, spec: SubnetSpec) -> NDArray[np.float32]:
    """The vector of a subnet, float32 [feature_size].

    One-hot form flags, a flag for each carrier (its bits / 8), then for each layer and each
    tensor that layers read a one-hot code of its bits.
    """
    form = spec.form
    flags = [
        *_flags(form.weight_granularity, Granularity),
        *_flags(form.weight_symmetry, Symmetry),
        *_flags(form.activation_symmetry, Symmetry),
    ]
    flags += [spec.carriers.get(tensor.name, 0) / 8.0 for tensor in info.tensors]
    places = [_place(spec.weights[layer.name]) for layer in info.layers]
    places += [_place(spec.activations.get(tensor.name, OFF)) for tensor in info.read_tensors()]
    one_hot = np.zeros((len(places), len(CODES)), dtype=np.float32)
    one_hot[np.arange(len(places)), places] = 1.0
    return np.concatenate([np.asarray(flags, dtype=np.float32), one_hot.reshape(-1)])


def in_common(features: NDArray[np.float32]) -> NDArray[np.float64]:
    """Of subnets encoded as [N, D], float64 [N, D]: rows whose products are `ALIKE` squared times
    the part of two subnets' choices that is the same."""
    norms = np.linalg.norm(features.astype(np.float64), axis=1, keepdims=True)
    found: NDArray[np.float64] = ALIKE * features / np.maximum(norms, 1e-12)
    return found


def _flags(value: StrEnum, values: Iterable[StrEnum]) -> list[float]:
    return [float(value == other) for other in values]


def _place(choice: int | str) -> int:
    """Of the one in a one-hot code."""
    if choice == REMAINDER:
        choice = OFF
    return CODES.index(int(choice))
