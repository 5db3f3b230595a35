"""Costs and budgeted quantities of many subnets, from tables by layer."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from eqnet.spec.errors import ProfileError
from eqnet.spec.hardware.costs import REMAINDER_BITS, LayerSum
from eqnet.spec.network import LayerInfo
from eqnet.spec.scheme import BITS
from eqnet.spec.subnet import REMAINDER, WeightChoice
from eqnet.stages.search.vector.choices import WIDEST, Bits, Choices, Widths
from eqnet.subnets.build import FLOAT_BITS

Values = NDArray[np.float64]


def quantities(choices: Choices, widths: Widths) -> dict[str, Values]:
    """`budgets.quantities` for N subnets: arrays [N] by name. All are sums of integers, exact."""
    wide = REMAINDER_BITS[choices.space.target.profile.remainder]
    layer_weights = np.array([layer.weights for layer in choices.layers])
    macs = np.array([layer.macs for layer in choices.layers])
    elements = np.array([tensor.elements for tensor in choices.read_tensors])
    weights, reads = widths.weights, widths.reads
    stored = np.where(weights > 0, weights, wide)
    read = np.where(weights > 0, reads[:, choices.input_of], wide)
    return {
        "avg_weight_bits": _counted(weights) @ layer_weights / layer_weights.sum(),
        "avg_activation_bits": _counted(reads) @ elements / elements.sum(),
        "size_kib": stored @ layer_weights / 8 / 1024,
        "bitops": (stored * read) @ macs / 1e9,
    }


def _counted(bits: Bits) -> Bits:
    return np.where(bits > 0, bits, FLOAT_BITS)


def layer_sum(choices: Choices, cost: LayerSum) -> Callable[[Widths], Values]:
    """A cost that is a sum over layers, for N subnets: added in the order of the layers.

    A pair that the cost does not know gives nan.
    """
    tables = [_table(choices, cost, place) for place in range(len(choices.layers))]

    def total(widths: Widths) -> Values:
        found = np.zeros(len(widths.weights))
        for place, table in enumerate(tables):
            found += table[widths.weights[:, place], widths.reads[:, choices.input_of[place]]]
        return found

    return total


def _table(choices: Choices, cost: LayerSum, place: int) -> Values:
    """Costs [weight bits, read bits] of one layer; those in float are the same in every column."""
    layer, bits = choices.layers[place], choices.weight_bits(place)
    table = np.full((WIDEST + 1, WIDEST + 1), np.nan)
    table[0, :] = _known(cost, layer, REMAINDER, 0)
    for weight in bits:
        for read in BITS:
            table[weight, read] = _known(cost, layer, weight, read)
    return table


def _known(cost: LayerSum, layer: LayerInfo, choice: WeightChoice, read: int) -> float:
    try:
        return cost.one(layer, choice, read)
    except ProfileError:
        return float("nan")
