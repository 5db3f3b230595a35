"""The float16 twin of a QDQ graph: what stays in float becomes float16, integers stay as they are.

TensorRT is strongly typed: whatever is not quantized runs in the type that the ONNX has. Scales
stay float32 (a float16 scale would move the grid), so DequantizeLinear states its output type,
which needs opset 23. ONNX Runtime loads that graph only with optimizations off, hence the second
file beside ``model.onnx``.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from eqnet.backend.graph.reading import constant
from eqnet.spec.errors import ProfileError

FLOAT16_OPSET = 23
LARGEST = float(np.finfo(np.float16).max)
# Inputs that the ONNX standard wants in float32 whatever the data type is.
FLOAT32_INPUTS = {"QuantizeLinear": (1,), "DequantizeLinear": (1,), "Resize": (1, 2)}


def to_float16(model: ir.Model) -> ir.Model:
    """A copy of `model` whose float tensors are float16 between a float32 input and output.

    A QuantizeLinear that reads a graph input keeps reading float32, so the input's integers do
    not change. Raises ProfileError for a constant beyond float16's range (65504).
    """
    twin = model.clone()
    twin.opset_imports[""] = max(FLOAT16_OPSET, twin.opset_imports.get("", 0))
    _convert_constants(twin)
    for node in twin.graph:
        if node.op_type == "DequantizeLinear":
            node.attributes["output_dtype"] = ir.AttrInt64("output_dtype", int(ir.DataType.FLOAT16))
        elif node.op_type == "Cast" and node.attributes.get_int("to") == ir.DataType.FLOAT:
            node.attributes["to"] = ir.AttrInt64("to", int(ir.DataType.FLOAT16))
    _forget_types(twin)
    _cast_inputs(twin)
    _cast_outputs(twin)
    return twin


def _needs_float32(node: ir.Node, index: int) -> bool:
    return index in FLOAT32_INPUTS.get(node.op_type, ())


def _convert_constants(model: ir.Model) -> None:
    """Give every reader of a float32 constant that computes in float16 a float16 copy."""
    halves: dict[str, ir.Value] = {}
    for node in list(model.graph):
        for index, value in enumerate(node.inputs):
            array = constant(value)
            if value is None or array is None or array.dtype != np.float32:
                continue
            if _needs_float32(node, index):
                continue
            name = f"{value.name}.fp16"
            if name not in halves:
                halves[name] = _register(model, name, _half(array.astype(np.float32), value))
            node.replace_input_with(index, halves[name])
    _drop_unread(model)


def _half(array: np.ndarray, value: ir.Value) -> np.ndarray:
    """float16 of a constant; infinite bounds stay infinite, finite values must fit."""
    finite = np.isfinite(array)
    largest = float(np.abs(array[finite]).max(initial=0.0))
    if largest > LARGEST:
        raise ProfileError(
            f"remainder 'float16': constant '{value.name}' holds {largest:g} "
            f"(allowed: at most {LARGEST:g} in magnitude, or remainder 'float32')"
        )
    return array.astype(np.float16)


def _register(model: ir.Model, name: str, array: np.ndarray) -> ir.Value:
    value = ir.Value(name=name, const_value=ir.tensor(array, name=name))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.FLOAT16
    model.graph.register_initializer(value)
    return value


def _drop_unread(model: ir.Model) -> None:
    for name, value in list(model.graph.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del model.graph.initializers[name]
    for node in list(model.graph):
        if node.op_type == "Constant" and not node.outputs[0].uses():
            model.graph.remove(node, safe=True)


def _forget_types(model: ir.Model) -> None:
    """Types written beside the nodes are of the float32 graph; let them be inferred anew."""
    outputs = set(model.graph.outputs)
    for node in model.graph:
        for value in node.outputs:
            if value not in outputs and value.dtype == ir.DataType.FLOAT:
                value.type = _half_type()


def _half_type() -> ir.TensorType:
    """A new object each time: a clone's values share their types with the original's."""
    return ir.TensorType(ir.DataType.FLOAT16)


def _cast_inputs(model: ir.Model) -> None:
    for value in model.graph.inputs:
        if value.dtype != ir.DataType.FLOAT:
            continue
        readers = [use for use in value.uses() if use.node.op_type != "QuantizeLinear"]
        if not readers:
            continue
        cast = _cast(value, ir.DataType.FLOAT16, f"{value.name}.fp16")
        for use in readers:
            use.node.replace_input_with(use.idx, cast.outputs[0])
        model.graph.insert_before(model.graph[0], cast)


def _cast_outputs(model: ir.Model) -> None:
    for index, value in enumerate(model.graph.outputs):
        producer = value.producer()
        if producer is None or value.dtype != ir.DataType.FLOAT:
            continue
        name = value.name
        value.name, value.type = f"{name}.fp16", _half_type()
        cast = _cast(value, ir.DataType.FLOAT, str(name))
        cast.outputs[0].shape, cast.outputs[0].doc_string = value.shape, value.doc_string
        value.doc_string = None
        model.graph.append(cast)
        model.graph.outputs[index] = cast.outputs[0]


def _cast(value: ir.Value, to: ir.DataType, name: str) -> ir.Node:
    node = ir.node("Cast", [value], attributes={"to": int(to)}, name=f"{name}.cast")
    node.outputs[0].name, node.outputs[0].dtype = name, to
    return node
