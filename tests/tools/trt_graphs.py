"""Hand-made graphs in the form that TensorRT's exporter takes, and ones that break its rules."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
from eqnet_exporters.trt.lower import to_signed_zero
from graphs import Builder


def neutral(seed: int = 0, float_layer: bool = False) -> onnx.ModelProto:
    """The reference graph of a profile with zero-points 0: unsigned tensors have 7 bits."""
    b = Builder(np.random.default_rng(seed))
    x = b.quantize("input", "input", 0.02, signed=True)
    x = b.conv(x, "conv1", 3, 16)
    x = b.node("Relu", [x], "relu1.output")
    x = b.quantize(x, "relu1", 0.02, bits=7)
    y = b.conv(x, "block.conv1", 16, 16)
    y = b.node("Relu", [y], "block.relu1.output")
    y = b.quantize(y, "block.relu1", 0.02, bits=7)
    y = b.conv(y, "block.conv2", 16, 16, float_weight=float_layer)
    x = b.node("Add", [x, y], "block.add.output")
    x = b.node("Relu", [x], "block.relu2.output")
    x = b.node("GlobalAveragePool", [x], "gap.output")
    x = b.node("Flatten", [x], "flat.output")
    x = b.quantize(x, "flat", 0.015, bits=7)
    b.gemm(x, "fc", 16, 10)
    return b.model()


def broken(change: str) -> ir.Model:
    """The lowered graph with one rule broken."""
    model = ir.from_proto(neutral())
    to_signed_zero(model)
    nodes = {node.name: node for node in model.graph}
    values = model.graph.initializers

    def put(name: str, array: np.ndarray) -> None:
        values[name].const_value = ir.tensor(array, name=name)

    if change == "zero-point":
        put("block.conv1.weight.zp", np.full(16, 3, np.int8))
    elif change == "scale":
        put("block.conv1.weight.scale", np.zeros(16, np.float32))
    elif change == "axis":
        nodes["block.conv1.weight.dq"].attributes["axis"] = ir.AttrInt64("axis", 1)
    elif change == "activation scales":
        put("relu1.carrier.scale", np.full(16, 0.1, np.float32))
    elif change == "opset":
        model.opset_imports[""] = 26
    elif change == "bias":
        maker = nodes["block.conv1.weight.dq"]
        nodes["fc"].replace_input_with(2, maker.outputs[0])
    elif change == "storage":
        zero = ir.Value(name="u8", const_value=ir.tensor(np.uint8(0), name="u8"))
        model.graph.register_initializer(zero)
        for part in ("q", "dq"):
            nodes[f"relu1.carrier.{part}"].replace_input_with(2, zero)
    return model
