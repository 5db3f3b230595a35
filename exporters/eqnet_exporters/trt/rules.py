"""TensorRT's rules for explicit quantization, checked on the ONNX graph without TensorRT.

Source: TensorRT developer guide, "Working with Quantized Types". Checking here gives one clear
line on any machine, and it is stricter than the parser: TensorRT for RTX 1.7 refuses non-zero
zero-points, but takes uint8 activations and integer Clips without a word and runs int8.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import onnx_ir as ir

from eqnet.backend.graph.operators import LAYER_OPS, channel_axis
from eqnet.backend.graph.reading import constant, storage_type
from eqnet.spec.errors import ProfileError
from eqnet_exporters.passes._read import operand, producer_of

OPSETS = range(9, 26)


class Broken(NamedTuple):
    """A rule that a node breaks, None for the graph: what was found and what is allowed."""

    node: ir.Node | None
    text: str

    def __str__(self) -> str:
        """The one line that says it."""
        if self.node is None:
            return self.text
        kind = "layer" if self.node.op_type in LAYER_OPS else "node"
        return f"{kind} '{self.node.name}': {self.text}"


def broken_rules(model: ir.Model) -> list[Broken]:
    """Every rule that the graph breaks; empty when TensorRT can take it."""
    broken = [Broken(None, text) for text in _opset(model)]
    for node in model.graph:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            broken += [Broken(node, text) for text in _quantization(node)]
        if node.op_type in LAYER_OPS:
            broken += [Broken(node, text) for text in _layer(node)]
    return broken


def problems(model: ir.Model) -> list[str]:
    """One line for every rule that the graph breaks; empty when TensorRT can take it."""
    return [str(broken) for broken in broken_rules(model)]


def require(model: ir.Model) -> None:
    """Raise ProfileError with the first broken rule, and how many more there are."""
    broken = problems(model)
    if broken:
        raise ProfileError(f"TensorRT refuses this graph: {first_of(broken)}")


def first_of(broken: Sequence[str]) -> str:
    """The first of several broken rules, and how many more there are."""
    if len(broken) == 1:
        return broken[0]
    return f"{broken[0]} (and {len(broken) - 1} more)"


def _opset(model: ir.Model) -> Iterator[str]:
    opset = model.opset_imports.get("", 0)
    if opset not in OPSETS:
        yield f"opset {opset} (allowed: {OPSETS[0]} to {OPSETS[-1]})"


def _quantization(node: ir.Node) -> Iterator[str]:
    array = constant(node.inputs[0])
    yield from _scale(node, is_weight=array is not None)
    yield from _zero_point(node)
    if node.op_type == "DequantizeLinear" and array is not None:
        if array.dtype != np.int8:
            yield f"integers of type {array.dtype} (allowed: int8 weights, float biases)"
        return
    if node.op_type == "QuantizeLinear" and storage_type(node) != ir.DataType.INT8:
        yield f"activation stored as {storage_type(node).name.lower()} (allowed: int8)"
    yield from _pairing(node)


def _pairing(node: ir.Node) -> Iterator[str]:
    """Every activation's Q goes straight into a DQ; nothing may compute on integers."""
    if node.op_type == "QuantizeLinear":
        others = sorted({r.op_type for r in node.outputs[0].consumers()} - {"DequantizeLinear"})
        if others:
            yield f"integers are read by {', '.join(others)} (allowed: DequantizeLinear)"
    else:
        producer = producer_of(node.inputs[0])
        if producer is None or producer.op_type != "QuantizeLinear":
            kind = "a graph input" if producer is None else producer.op_type
            yield f"integers come from {kind} (allowed: QuantizeLinear or a constant)"


def _scale(node: ir.Node, *, is_weight: bool) -> Iterator[str]:
    scale = constant(node.inputs[1])
    if scale is None:
        yield "its scale is computed (allowed: a constant)"
        return
    values = scale.astype(np.float64)
    bad = values[~(np.isfinite(values) & (values > 0))]
    if bad.size:
        yield f"scale {bad.flat[0]:g} (allowed: finite and above 0)"
    if scale.size > 1 and not is_weight:
        yield f"{scale.size} scales on an activation (allowed: one for the tensor)"


def _zero_point(node: ir.Node) -> Iterator[str]:
    value = operand(node, 2)
    if value is None:
        return
    zero = constant(value)
    if zero is None:
        yield "its zero-point is computed (allowed: the constant 0)"
    elif zero.astype(np.int64).any():
        yield f"zero-point {int(zero.flat[np.flatnonzero(zero)[0]])} (allowed: 0)"


def _layer(node: ir.Node) -> Iterator[str]:
    weight, bias = producer_of(operand(node, 1)), producer_of(operand(node, 2))
    if bias is not None and bias.op_type == "DequantizeLinear":
        yield "its bias comes from DequantizeLinear (allowed: a float constant)"
    if weight is None or weight.op_type != "DequantizeLinear":
        return
    scale, axis = constant(weight.inputs[1]), weight.attributes.get_int("axis", 1)
    wanted = channel_axis(node)
    if scale is not None and scale.size > 1 and axis != wanted:
        yield f"weight scales along axis {axis} (allowed: axis {wanted}, the output channels)"
