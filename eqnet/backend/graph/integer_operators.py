"""Operators that hold integers themselves: the QOperator form, dynamic and weight-only ones."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class IntegerOperator:
    """Where one operator has its operands, as indices of its inputs; None where it has none.

    weight, input, output: (scale, zero-point) of each. bias: index. dynamic: the activation's
    scale is computed at run time. weights_only: the activation stays in float. channel_axis: of
    the weight, the axis of its output channels.
    """

    data: int
    weight: tuple[int | None, int | None]
    input: tuple[int | None, int | None] = (None, None)
    output: tuple[int | None, int | None] = (None, None)
    bias: int | None = None
    dynamic: bool = False
    weights_only: bool = False
    channel_axis: int = 1


INTEGER_OPERATORS = {
    "QLinearConv": IntegerOperator(3, (4, 5), (1, 2), (6, 7), 8, channel_axis=0),
    "QLinearMatMul": IntegerOperator(3, (4, 5), (1, 2), (6, 7)),
    "QGemm": IntegerOperator(3, (4, 5), (1, 2), (7, 8), 6),
    "ConvInteger": IntegerOperator(1, (None, 3), (None, 2), dynamic=True, channel_axis=0),
    "MatMulInteger": IntegerOperator(1, (None, 3), (None, 2), dynamic=True),
    "MatMulIntegerToFloat": IntegerOperator(1, (3, 5), (2, 4), bias=6, dynamic=True),
    "DynamicQuantizeMatMul": IntegerOperator(1, (2, 3), bias=4, dynamic=True),
    "MatMulNBits": IntegerOperator(1, (2, 3), bias=5, weights_only=True),
}
# Float layers that ONNX Runtime's tools fuse with what follows them.
FUSED_LAYERS = {"FusedConv": "Conv", "FusedGemm": "Gemm", "FusedMatMul": "MatMul"}
