"""Store biases as int32 behind DequantizeLinear, as ONNX Runtime's integer kernels read them.

ONNX Runtime rounds a float bias of a Conv to int32 at ``s_x * s_w[c]`` by itself and leaves a
Gemm with a float bias in float. The neutral graph's biases lie on that grid already, so the
int32 form holds the same values. A bias off the grid, or too large for int32, is left alone.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from eqnet.backend.graphs import constant, quantizer_of
from eqnet_exporters.passes._build import graph_of, initializer

LAYERS = ("Conv", "Gemm")
# A bias on the grid differs from it by float32 rounding only, relative to its own magnitude.
GRID_TOLERANCE = 2.0**-22
INT32_LIMIT = 2**31 - 1


def integer_bias(model: ir.Model) -> None:
    """Rewrite the on-grid biases of quantized Conv and Gemm nodes, in place."""
    for node in list(model.graph):
        if node.op_type in LAYERS and len(node.inputs) == 3:
            scale = _bias_scale(node)
            bias = constant(node.inputs[2])
            if scale is not None and bias is not None and bias.dtype == np.float32:
                _rewrite(node, bias.astype(np.float32), scale)


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
    x, weight = node.inputs[0], node.inputs[1]
    quantizer = quantizer_of(x) if x is not None else None
    dequantize = weight.producer() if weight is not None else None
    if quantizer is None or dequantize is None or dequantize.op_type != "DequantizeLinear":
        return None
    scale = constant(dequantize.inputs[1])
    if scale is None or constant(dequantize.inputs[0]) is None:
        return None
    return np.float32(quantizer.scale) * np.atleast_1d(scale).astype(np.float32)


def _rewrite(node: ir.Node, bias: NDArray[np.float32], scale: NDArray[np.float32]) -> None:
    integers = bias_steps(bias, scale)
    if integers is None:
        return
    graph, name = graph_of(node), f"{node.name}.bias"
    inputs = [
        initializer(graph, f"{name}.int32", integers, ir.DataType.INT32),
        initializer(graph, f"{name}.scale", np.broadcast_to(scale, bias.shape), ir.DataType.FLOAT),
        initializer(graph, f"{name}.zero_point", np.zeros(bias.shape), ir.DataType.INT32),
    ]
    dequantize = ir.node("DequantizeLinear", inputs, {"axis": 0}, name=f"{name}.dq")
    output = dequantize.outputs[0]
    output.name, output.shape, output.dtype = (
        f"{name}.dq.output",
        ir.Shape(bias.shape),
        ir.DataType.FLOAT,
    )
    graph.insert_before(node, dequantize)
    node.replace_input_with(2, output)
