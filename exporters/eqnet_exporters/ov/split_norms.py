"""Spell out the normalizations whose OpenVINO kernel crashes on CPUs without AVX-512.

OpenVINO 2026.4 computes a layer or instance norm over a number of values that is no multiple of
16 by AVX2 kernels that end in a segmentation fault, in float networks as well: a layer norm over
24 or 40 channels, an instance norm over 7 x 7 pixels. In single operations, with the mean set
apart so that OpenVINO does not put them together again, the function is the same.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from eqnet_exporters.passes._build import graph_of, initializer, set_apart
from eqnet_exporters.passes.rewrite import RANGES, TYPES, Notes, changed, rewrite

VECTOR = 16
DEFAULT_EPSILON = 1e-5


@rewrite(RANGES, TYPES)
def split_norms(model: ir.Model) -> Notes:
    """Replace each such LayerNormalization and InstanceNormalization, in place."""
    for node in list(model.graph):
        if node.op_type not in ("LayerNormalization", "InstanceNormalization"):
            continue
        source = node.inputs[0]
        if source is None or source.shape is None or any(out.uses() for out in node.outputs[1:]):
            continue
        axes = _axes(node, len(source.shape))
        if _fills_vectors([source.shape[axis] for axis in axes]):
            continue
        _split(node, source, axes)
        yield changed(node, "in single operations: OpenVINO's kernel crashes without AVX-512")


def _axes(node: ir.Node, rank: int) -> list[int]:
    """The axes that a node normalizes over, counted from 0."""
    if node.op_type == "InstanceNormalization":
        return list(range(2, rank))
    first = node.attributes.get_int("axis", -1)
    return list(range(first % rank, rank))


def _fills_vectors(sizes: Sequence[int | ir.SymbolicDim]) -> bool:
    """Whether axes of these sizes hold a number of values that is known, a multiple of 16."""
    count = 1
    for size in sizes:
        if not isinstance(size, int):
            return False
        count *= size
    return count % VECTOR == 0


def _split(node: ir.Node, source: ir.Value, axes: list[int]) -> None:
    """(x - mean) / sqrt(variance + epsilon) * scale + bias, in operations of their own."""
    graph, name, output = graph_of(node), node.name or node.op_type, node.outputs[0]

    def add(op: str, inputs: list[ir.Value], part: str) -> ir.Value:
        operation = ir.node(op, inputs, name=f"{name}.{part}")
        result = operation.outputs[0]
        result.name, result.type = f"{name}.{part}.output", source.type
        graph.insert_before(node, operation)
        return result

    over = initializer(graph, f"{name}.axes", axes, ir.DataType.INT64)
    small = node.attributes.get_float("epsilon", DEFAULT_EPSILON)
    epsilon = initializer(graph, f"{name}.epsilon", small, ir.DataType.FLOAT)
    mean = set_apart(add("ReduceMean", [source, over], "mean"), node, f"{name}.mean.apart")
    centered = add("Sub", [source, mean], "centered")
    square = add("Mul", [centered, centered], "square")
    variance = add("ReduceMean", [square, over], "variance")
    deviation = add("Sqrt", [add("Add", [variance, epsilon], "stable")], "deviation")
    result = add("Div", [centered, deviation], "normalized")
    parameters = _parameters(node, len(source.shape or ()))
    for op, part, parameter in zip(("Mul", "Add"), ("scaled", "shifted"), parameters, strict=False):
        result = add(op, [result, parameter], part)
    result.shape, result.type = output.shape, output.type
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    result.name, output.name = output.name, f"{name}.replaced"
    graph.remove(node, safe=True)


def _parameters(node: ir.Node, rank: int) -> list[ir.Value]:
    """Scale and bias, as far as there are any, shaped to meet the node's input."""
    parameters = [value for value in node.inputs[1:] if value is not None]
    if node.op_type == "LayerNormalization":
        return parameters
    graph = graph_of(node)
    shaped = []
    for value in parameters:
        assert value.const_value is not None  # exporters read graphs of our own
        array = np.asarray(value.const_value.numpy().reshape(-1, *(1,) * (rank - 2)))
        shaped.append(initializer(graph, f"{value.name}.shaped", array, ir.DataType.FLOAT))
    return shaped
