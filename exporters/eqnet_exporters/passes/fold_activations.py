"""Fold Relu and Clip (ReLU6) into the quantizers after them, so that a Conv meets its Q.

Rounding is monotone, so ``round(min(x, 6) / s) = min(round(x / s), round(6 / s))``: clamping
the float value is clamping the integer. Where the quantizer's own saturation does that already
(zero-point at the bottom; ``hi`` not above ``round(6 / s)``) the node just goes, else the
integer range narrows, with an integer Clip. Runtimes fuse Conv with a Q that follows it, and
leave the Conv in float when a bounded activation stands between.
"""

from __future__ import annotations

import math

import numpy as np
import onnx_ir as ir

from eqnet.backend.graph.reading import Quantizer, constant, quantizer_at
from eqnet_exporters.passes._build import graph_of, set_bounds
from eqnet_exporters.passes.rewrite import TYPES, Notes, changed, left, rewrite


@rewrite(TYPES)
def fold_activations(model: ir.Model) -> Notes:
    """Take out every Relu and constant Clip that only quantizers read, in place."""
    for node in list(model.graph):
        bounds = _float_bounds(node)
        if bounds is None:
            continue
        readers = _quantizer_readers(node.outputs[0])
        if not readers:
            yield left(node, "computed in float: not quantizers alone read it")
            continue
        for quantizer in readers:
            _clamp(quantizer, *bounds)
        source = node.inputs[0]
        assert source is not None
        node.outputs[0].replace_all_uses_with(source)
        graph_of(node).remove(node, safe=True)
        yield changed(node, "part of the quantizer after it")


def _float_bounds(node: ir.Node) -> tuple[float, float] | None:
    """What a Relu or a Clip of floats clamps to, or None for any other node."""
    if node.op_type == "Relu":
        return 0.0, math.inf
    if node.op_type != "Clip":
        return None
    limits = [-math.inf, math.inf]
    for index, value in enumerate(node.inputs[1:3]):
        if value is None:
            continue
        array = constant(value)
        if array is None or not np.issubdtype(array.dtype, np.floating):
            return None
        limits[index] = float(array.item())
    low, high = limits
    if low <= high:
        return low, high
    return None


def _quantizer_readers(value: ir.Value) -> list[Quantizer]:
    """The quantizers that read a value, or nothing if anything else reads it too."""
    if value.is_graph_output():
        return []
    quantizers = []
    for reader in value.consumers():
        quantizer = quantizer_at(reader)
        if quantizer is None:
            return []
        quantizers.append(quantizer)
    return quantizers


def _clamp(quantizer: Quantizer, low: float, high: float) -> None:
    lo, hi = quantizer.lo, quantizer.hi
    if math.isfinite(low):
        lo = _grid(low, quantizer)
    if math.isfinite(high):
        hi = _grid(high, quantizer)
    if (lo, hi) != (quantizer.lo, quantizer.hi):
        set_bounds(quantizer, lo, hi)


def _grid(value: float, quantizer: Quantizer) -> int:
    """The integer that the quantizer gives a value, by its own float32 arithmetic."""
    steps = np.rint(np.float32(value) / np.float32(quantizer.scale))
    return int(np.clip(float(steps) + quantizer.zero_point, quantizer.lo, quantizer.hi))
