"""``model.packed.onnx``: the neutral graph with ONNX's own 2- and 4-bit types, opset 25.

Weights of 2 bits are INT2 and those of 3 and 4 bits INT4 tensors; activations of exactly 2 and
4 bits are quantized to (U)INT2 and (U)INT4, whose saturation replaces the Clip. ONNX has no type
between 4 and 8 bits: those stay in 8-bit containers, as they are in ``reference.onnx``. It is a
form to store and to exchange; runtimes with kernels for these types in convolutions are rare.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from eqnet.backend.graph.reading import Quantizer, quantizers
from eqnet.backend.lowbit.bits import int_range
from eqnet_exporters.lowbit.layers import Weight, layers
from eqnet_exporters.passes._build import graph_of, initializer, prefix
from eqnet_exporters.passes.tidy import tidy

PACKED_OPSET = 25  # the first with INT2 and UINT2
NARROW = {
    (2, True): ir.DataType.INT2,
    (2, False): ir.DataType.UINT2,
    (4, True): ir.DataType.INT4,
    (4, False): ir.DataType.UINT4,
}


def to_packed_onnx(reference: ir.Model) -> ir.Model:
    """A copy of the neutral graph, its integers in the narrowest type that ONNX has for them."""
    model = reference.clone()
    for layer in list(layers(model)):
        if layer.weight is not None and layer.weight.bits <= 4:
            _narrow_weight(layer.node, layer.weight)
    for quantizer in quantizers(model):
        kind = _activation_type(quantizer)
        if kind is not None:
            _narrow_activation(quantizer, kind)
    model.opset_imports[""] = PACKED_OPSET
    tidy(model)
    return model


def _narrow_weight(node: ir.Node, weight: Weight) -> None:
    graph, name = graph_of(node), f"{node.name}.weight"
    bits = 2 if weight.bits == 2 else 4
    kind = NARROW[bits, True]
    scale: NDArray[np.float32] = weight.scale
    zero = np.broadcast_to(weight.zero_point, scale.shape)
    if scale.size == 1:
        scale, zero = scale.reshape(()), zero.reshape(())
    inputs = [
        initializer(graph, f"{name}.packed", weight.integers, kind),
        initializer(graph, f"{name}.packed.scale", scale, ir.DataType.FLOAT),
        initializer(graph, f"{name}.packed.zero_point", zero, kind),
    ]
    dequantize = ir.node(
        "DequantizeLinear", inputs, {"axis": weight.axis}, name=f"{name}.dq", num_outputs=1
    )
    old, new = weight.dequantize.outputs[0], dequantize.outputs[0]
    new.name, new.type = f"{name}.dq.output", old.type
    new.shape = ir.Shape(weight.integers.shape)
    graph.insert_before(node, dequantize)
    node.replace_input_with(1, new)


def _activation_type(quantizer: Quantizer) -> ir.DataType | None:
    """The type whose whole range is the quantizer's, or None."""
    for (bits, signed), kind in NARROW.items():
        if (quantizer.lo, quantizer.hi) == int_range(bits, signed=signed):
            return kind
    return None


def _narrow_activation(quantizer: Quantizer, kind: ir.DataType) -> None:
    graph, quantize = graph_of(quantizer.quantize), quantizer.quantize
    zero = initializer(graph, f"{prefix(quantizer)}.zero_point", quantizer.zero_point, kind)
    for node in (quantize, quantizer.dequantize):
        node.resize_inputs(3)
        node.replace_input_with(2, zero)
    quantize.outputs[0].type = ir.TensorType(kind)
    quantizer.dequantize.replace_input_with(0, quantize.outputs[0])
    if quantizer.clip is not None:
        graph.remove(quantizer.clip, safe=True)
