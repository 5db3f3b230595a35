"""Store biases as int32 before DequantizeLinear, as ONNX Runtime's integer kernels read them.

ONNX Runtime rounds a float bias of a Conv to int32 at ``s_x * s_w[c]`` by itself and leaves a
Gemm with a float bias in float. The neutral graph's biases lie on that grid already, so the
int32 form holds the same values. A bias off the grid, or too large for int32, is left alone.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from eqnet.backend.graph.operators import operator_of
from eqnet.backend.graph.reading import constant
from eqnet_exporters.passes._build import graph_of, initializer
from eqnet_exporters.passes._read import operand, producer_of, quantizer_before
from eqnet_exporters.passes.rewrite import RANGES, TYPES, Notes, changed, left, rewrite

# A bias on the grid differs from it by float32 rounding only, relative to its own magnitude.
GRID_TOLERANCE = 2.0**-22
INT32_LIMIT = 2**31 - 1


@rewrite(RANGES, TYPES)
def integer_bias(model: ir.Model) -> Notes:
    """Rewrite the on-grid biases of quantized Conv and Gemm nodes, in place."""
    for node in list(model.graph):
        bias = constant(operand(node, 2))
        if not operator_of(node).int32_bias or bias is None or bias.dtype != np.float32:
            continue
        scale = _bias_scale(node)
        if scale is None:
            yield left(node, "its bias stays in float: its input or its weight is not quantized")
            continue
        integers = bias_steps(bias.astype(np.float32), scale)
        if integers is None:
            yield left(node, "its bias stays in float: off the grid of the sums, or beyond int32")
            continue
        _rewrite(node, integers, scale)
        yield changed(node, "its bias is int32")


def bias_steps(bias: NDArray[np.float32], step: NDArray[np.float32]) -> NDArray[np.int32] | None:
    """A bias as int32 multiples of `step`, or None where it is off that grid or beyond int32.

    bias: [channels]. step: positive, [1] or [channels].
    """
    steps = bias.astype(np.float64) / step
    integers = np.rint(steps)
    allowed = np.maximum(np.abs(steps), 1.0) * GRID_TOLERANCE
    if (np.abs(steps - integers) > allowed).any() or (np.abs(integers) > INT32_LIMIT).any():
        return None
    return integers.astype(np.int32)


def _bias_scale(node: ir.Node) -> NDArray[np.float32] | None:
    """``s_x * s_w[c]`` in float32, or None unless input and weight are both quantized."""
    quantizer, dequantize = quantizer_before(node), producer_of(node.inputs[1])
    if quantizer is None or dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    scale = constant(dequantize.inputs[1])
    if scale is None or constant(dequantize.inputs[0]) is None:
        return None
    return np.float32(quantizer.scale) * np.atleast_1d(scale).astype(np.float32)


def _rewrite(node: ir.Node, integers: NDArray[np.int32], scale: NDArray[np.float32]) -> None:
    graph, name = graph_of(node), f"{node.name}.bias"
    scales = np.broadcast_to(scale, integers.shape)
    inputs = [
        initializer(graph, f"{name}.int32", integers, ir.DataType.INT32),
        initializer(graph, f"{name}.scale", scales, ir.DataType.FLOAT),
        initializer(graph, f"{name}.zero_point", np.zeros(integers.shape), ir.DataType.INT32),
    ]
    dequantize = ir.node("DequantizeLinear", inputs, {"axis": 0}, name=f"{name}.dq")
    output = dequantize.outputs[0]
    output.name, output.dtype = f"{name}.dq.output", ir.DataType.FLOAT
    output.shape = ir.Shape(integers.shape)
    graph.insert_before(node, dequantize)
    node.replace_input_with(2, output)
