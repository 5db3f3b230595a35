"""Repeat a constant over a batch by its values, not by a shape that is read from the images.

A position map or a class token is expanded to as many copies as there are images. OpenVINO
2026.4 computes with a batch of any size, and where an Expand's shape then follows from a shape
it read, it lays tensors over memory that is still in use: maps that are joined with such a
constant came out wrong, without any quantizer too. A maximum of the constant and the least
float32, which one pixel of each image is brought down to, has the same values and no such shape.
"""

from __future__ import annotations

import onnx_ir as ir

from eqnet.backend.graph.reading import constant
from eqnet_exporters.passes._build import LEAST, graph_of, initializer
from eqnet_exporters.passes.rewrite import RANGES, TYPES, Notes, changed, rewrite


@rewrite(RANGES, TYPES)
def expand_by_value(model: ir.Model) -> Notes:
    """Replace each Expand of a float constant over the batch alone, in place."""
    source = model.graph.inputs[0]
    if source.shape is None or isinstance(source.shape[0], int):
        return
    floor: ir.Value | None = None  # least float32 for each image, [N]
    for node in list(model.graph):
        if not _repeats_over_the_batch(node):
            continue
        if floor is None:
            floor = _least_of_each_image(model.graph, source)
        _replace(node, floor)
        yield changed(node, "repeated by a maximum: OpenVINO lays an Expand over used memory")


def _repeats_over_the_batch(node: ir.Node) -> bool:
    """Whether a node makes [N, ...] of a float constant [1, ...] or [...] of the same sizes."""
    if node.op_type != "Expand" or node.inputs[0] is None or node.inputs[1] is None:
        return False
    array, shape = constant(node.inputs[0]), node.outputs[0].shape
    if array is None or array.dtype.kind != "f" or shape is None or not len(shape):
        return False
    batch, sizes = shape[0], tuple(shape[1:])
    inner, repeated = array.shape, array.ndim < len(shape)
    if array.ndim == len(shape):
        inner, repeated = array.shape[1:], array.shape[0] == 1
    return not isinstance(batch, int) and repeated and inner == sizes


def _least_of_each_image(graph: ir.Graph, source: ir.Value) -> ir.Value:
    assert source.shape is not None
    name, axes = "images.least", list(range(1, len(source.shape)))
    bounds = []
    for part, values in (("starts", [0] * len(axes)), ("ends", [1] * len(axes)), ("axes", axes)):
        bounds.append(initializer(graph, f"{name}.{part}", values, ir.DataType.INT64))
    least = initializer(graph, f"{name}.value", LEAST, ir.DataType.FLOAT)
    pixel = ir.node("Slice", [source, *bounds], name=f"{name}.pixel")
    floor = ir.node("Min", [pixel.outputs[0], least], name=name)
    for node in (pixel, floor):
        node.outputs[0].name, node.outputs[0].dtype = f"{node.name}.output", ir.DataType.FLOAT
        node.outputs[0].shape = ir.Shape([source.shape[0], *[1] * len(axes)])
    graph.insert_before(graph[0], [pixel, floor])
    return floor.outputs[0]


def _replace(node: ir.Node, floor: ir.Value) -> None:
    graph, output, constant_value = graph_of(node), node.outputs[0], node.inputs[0]
    assert output.shape is not None
    assert constant_value is not None
    rank, name = len(output.shape), node.name or "Expand"
    if rank != len(floor.shape or ()):
        sizes = initializer(graph, f"{name}.sizes", [-1, *[1] * (rank - 1)], ir.DataType.INT64)
        reshape = ir.node("Reshape", [floor, sizes], name=f"{name}.floor")
        floor = reshape.outputs[0]
        floor.name, floor.dtype = f"{name}.floor.output", ir.DataType.FLOAT
        floor.shape = ir.Shape([output.shape[0], *[1] * (rank - 1)])
        graph.insert_before(node, reshape)
    repeated = ir.node("Max", [constant_value, floor], name=f"{name}.repeated")
    result = repeated.outputs[0]
    result.shape, result.type = output.shape, output.type
    graph.insert_before(node, repeated)
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    result.name, output.name = output.name, f"{name}.replaced"
    graph.remove(node, safe=True)
