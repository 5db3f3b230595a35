"""The operators of ONNX that eqnet knows, one row each: the exporters' side of
`eqnet.capture.operators`.

An op type that is in no row stays in float, and no pass moves a quantizer across it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import onnx_ir as ir


@dataclass(frozen=True)
class OnnxOperator:
    """One operator.

    inputs: what its inputs are called, in order. defaults: attributes that need not be written.
    channel_axis: of a layer, the axis of its weight that the output channels lie along.
    int32_bias: its bias may be int32 with a DequantizeLinear after it.
    moves: it selects or reorders values, so quantizers commute with it.
    flattens: it moves values of [N, C, 1, 1] without reordering them.
    reduces: it makes one value of several along axes.
    """

    op_type: str
    inputs: tuple[str, ...] = ()
    defaults: Mapping[str, object] = field(default_factory=dict)
    channel_axis: int | None = None
    int32_bias: bool = False
    moves: bool = False
    flattens: bool = False
    reduces: bool = False


# Of the neutral graph, and so of every model.onnx; no exporter converts it.
NEUTRAL_OPSET = 21
NOT_PADDED = {"auto_pad": "NOTSET"}
LAYER_INPUTS = ("input", "weight", "bias")
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "Sum", "SumSquare")
ROWS = (
    # Layers.
    OnnxOperator("Conv", LAYER_INPUTS, NOT_PADDED, channel_axis=0, int32_bias=True),
    OnnxOperator("ConvTranspose", LAYER_INPUTS, NOT_PADDED, channel_axis=1),
    OnnxOperator(
        "Gemm",
        LAYER_INPUTS,
        {"alpha": 1.0, "beta": 1.0, "transA": 0},
        channel_axis=0,  # of a transposed weight: see `channel_axis`
        int32_bias=True,
    ),
    OnnxOperator("MatMul", LAYER_INPUTS[:2], channel_axis=1),
    # Quantizers.
    OnnxOperator(
        "QuantizeLinear",
        ("x", "scale", "zero_point"),
        {"output_dtype": 0, "block_size": 0, "saturate": 1},
    ),
    OnnxOperator(
        "DequantizeLinear", ("x", "scale", "zero_point"), {"block_size": 0, "output_dtype": 0}
    ),
    OnnxOperator("Clip", ("x", "min", "max")),
    # Data movers.
    OnnxOperator("MaxPool", ("x",), {**NOT_PADDED, "storage_order": 0, "ceil_mode": 0}, moves=True),
    OnnxOperator("Flatten", ("x",), moves=True, flattens=True),
    OnnxOperator("Reshape", ("data", "shape"), moves=True, flattens=True),
    OnnxOperator("Squeeze", ("x", "axes"), moves=True, flattens=True),
    OnnxOperator("Unsqueeze", ("x", "axes"), moves=True),
    OnnxOperator("Transpose", ("x",), moves=True),
    OnnxOperator("Expand", ("x", "shape")),
    OnnxOperator("Pad", ("data", "pads", "value", "axes")),
    OnnxOperator("Slice", ("data", "starts", "ends", "axes", "steps")),
    OnnxOperator("Gather", ("data", "indices")),
    OnnxOperator("Split", ("x", "sizes")),
    OnnxOperator("Resize", ("x", "roi", "scales", "sizes")),
    # Pools and reductions.
    OnnxOperator("AveragePool", ("x",), {**NOT_PADDED, "ceil_mode": 0}),
    *(OnnxOperator(f"Reduce{kind}", ("x", "axes"), reduces=True) for kind in REDUCTIONS),
)
OPERATORS = {row.op_type: row for row in ROWS}
LAYER_OPS = tuple(row.op_type for row in ROWS if row.channel_axis is not None)


def operator_of(node: ir.Node) -> OnnxOperator:
    """The row of a node's op type, an empty one where there is none."""
    return OPERATORS.get(node.op_type, OnnxOperator(node.op_type))


def channel_axis(node: ir.Node) -> int:
    """The axis of a layer's weight that its output channels lie along."""
    axis = operator_of(node).channel_axis
    assert axis is not None
    if node.op_type == "Gemm" and not node.attributes.get_int("transB", 0):
        return 1
    return axis
