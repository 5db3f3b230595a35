"""QONNX: the neutral graph with one ``Quant`` node for each weight and activation quantizer.

A Quant node (domain ``qonnx.custom_op.general``, version 1) computes
``(clip(round(x / s + z)) - z) * s``, where its bit-width, `signed` and `narrow` say the range of
integers: https://github.com/fastmachinelearning/qonnx. Its integers are those of the neutral
graph except at ties with an odd zero-point, where ``round(x / s + z)`` and ``round(x / s) + z``
go different ways.
"""

from __future__ import annotations

from itertools import product
from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from eqnet.backend.graph.reading import Quantizer, dequantized, quantizers
from eqnet.backend.lowbit.bits import int_range
from eqnet.spec.scheme import BITS
from eqnet_exporters.lowbit.layers import Weight, weight_of
from eqnet_exporters.passes._build import graph_of, initializer, prefix
from eqnet_exporters.passes.tidy import tidy

DOMAIN, VERSION = "qonnx.custom_op.general", 1


class QuantRange(NamedTuple):
    """The range of a Quant node, and by how much the neutral graph's integers are moved."""

    bits: int
    signed: bool
    narrow: bool

    def limits(self) -> tuple[int, int]:
        """The lowest and the highest integer."""
        lo, hi = int_range(self.bits, signed=self.signed)
        if not self.narrow:
            return lo, hi
        if self.signed:
            return lo + 1, hi
        return lo, hi - 1


def to_qonnx(reference: ir.Model) -> ir.Model:
    """A copy of the neutral graph in QONNX; float weights and scales, true bit-widths."""
    model = reference.clone()
    for node in list(model.graph):
        if len(node.inputs) < 2:
            continue
        weight = weight_of(node)
        if weight is not None:
            _replace_weight(node, weight)
    for quantizer in quantizers(model):
        _replace_quantizer(quantizer)
    model.opset_imports[DOMAIN] = VERSION
    tidy(model)
    return model


def quant_range(lo: int, hi: int) -> QuantRange | None:
    """The range of a Quant node that is [lo, hi], or None."""
    for bits, signed, narrow in product(BITS, (False, True), (False, True)):
        span = QuantRange(bits, signed, narrow)
        if span.limits() == (lo, hi):
            return span
    return None


def _container(lo: int, hi: int) -> QuantRange:
    """The smallest range that holds [lo, hi], or else the largest there is."""
    for bits in BITS:
        span = QuantRange(bits, signed=lo < 0, narrow=False)
        lowest, highest = span.limits()
        if lowest <= lo and hi <= highest:
            return span
    return QuantRange(BITS[-1], signed=lo < 0, narrow=False)


def _replace_quantizer(quantizer: Quantizer) -> None:
    graph, name = graph_of(quantizer.quantize), prefix(quantizer)
    span, source = quant_range(quantizer.lo, quantizer.hi), quantizer.source
    if span is None:
        span = _container(quantizer.lo, quantizer.hi)
        source = _clipped(quantizer, name)
    scale, zero = np.float32(quantizer.scale), np.float32(quantizer.zero_point)
    node = _quant(graph, source, name, scale, zero, span, before=quantizer.dequantize)
    old = quantizer.output
    node.outputs[0].shape = old.shape
    ir.convenience.replace_nodes_and_values(
        graph, quantizer.dequantize, [quantizer.dequantize], [], [old], [node.outputs[0]]
    )


def _clipped(quantizer: Quantizer, name: str) -> ir.Value:
    """Clip the float tensor to [lo, hi] where no Quant node has that range of integers."""
    graph = graph_of(quantizer.quantize)
    ends = []
    for end, bound in (("lo", quantizer.lo), ("hi", quantizer.hi)):
        limit = np.float32(quantizer.scale) * np.float32(bound - quantizer.zero_point)
        ends.append(initializer(graph, f"{name}.quant.{end}", limit, ir.DataType.FLOAT))
    clip = ir.node("Clip", [quantizer.source, *ends], name=f"{name}.range")
    output = clip.outputs[0]
    output.name, output.dtype = f"{name}.range.output", ir.DataType.FLOAT
    output.shape = quantizer.source.shape
    graph.insert_before(quantizer.quantize, clip)
    return output


def _quant(
    graph: ir.Graph,
    source: ir.Value,
    name: str,
    scale: NDArray[np.float32] | np.float32,
    zero: NDArray[np.float32] | np.float32,
    span: QuantRange,
    *,
    before: ir.Node,
) -> ir.Node:
    numbers = {"scale": scale, "zeropt": zero, "bitwidth": np.float32(span.bits)}
    inputs = []
    for key, value in numbers.items():
        inputs.append(initializer(graph, f"{name}.quant.{key}", value, ir.DataType.FLOAT))
    attributes: dict[str, int | str] = {
        "signed": int(span.signed),
        "narrow": int(span.narrow),
        "rounding_mode": "ROUND",
    }
    node = ir.node("Quant", [source, *inputs], attributes, domain=DOMAIN, name=f"{name}.quant")
    node.outputs[0].name, node.outputs[0].dtype = f"{name}.quant.output", ir.DataType.FLOAT
    graph.insert_before(before, node)
    return node


def _replace_weight(layer: ir.Node, weight: Weight) -> None:
    graph, name = graph_of(layer), f"{layer.name}.weight"
    real = dequantized(weight.dequantize)
    assert real is not None
    value = initializer(graph, name, real, ir.DataType.FLOAT)
    narrow = weight.bits == BITS[-1] and int(weight.integers.min()) > -(1 << weight.bits - 1)
    span = QuantRange(weight.bits, signed=True, narrow=narrow)
    scale = _along(weight.scale, weight)
    zero = _along(weight.zero_point.astype(np.float32), weight)
    node = _quant(graph, value, name, scale, zero, span, before=layer)
    node.outputs[0].shape = ir.Shape(real.shape)
    layer.replace_input_with(1, node.outputs[0])


def _along(vector: NDArray[np.float32], weight: Weight) -> NDArray[np.float32]:
    """A vector over the weight's channels in a shape that broadcasts to the weight's."""
    if vector.size == 1:
        return vector.reshape(())
    shape = [1] * weight.integers.ndim
    shape[weight.axis] = vector.size
    return vector.reshape(shape)
