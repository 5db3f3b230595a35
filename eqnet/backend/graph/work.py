"""Multiplications of each layer, from the shapes of its tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from eqnet.spec.outside.inspection import LayerForm

Shape = Sequence[int | None]
"""Sizes of a tensor, None for one that is free; empty where nothing is known."""

# What no network multiplies; sizes that give more are those of a damaged file.
MOST = 1 << 60


def macs_of(layer: LayerForm, x: Shape, y: Shape) -> int | None:
    """Multiplications of a layer for one image; None where a size is not known.

    x, y: shapes of its first input and of its output.
    """
    if layer.kind == "product":
        return _product([*y, *x[-1:]]) if x and y else None
    if layer.kind == "transposed":
        places: Shape = [*x[:1], *x[2:]]
    elif layer.kind == "linear":
        places = y[:-1]
    else:
        places = [*y[:1], *y[2:]]
    if not layer.weights or not (x if layer.kind == "transposed" else y):
        return None
    return _product([*places, layer.weights])


def _product(sizes: Iterable[int | None]) -> int | None:
    known = []
    for size in sizes:
        if size is None or size < 0:
            return None
        known.append(size)
    work = math.prod(known)
    return work if work <= MOST else None
