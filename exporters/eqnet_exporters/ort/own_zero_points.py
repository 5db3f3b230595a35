"""Give each weight a zero-point of its own, as ONNX Runtime's rewrite for older CPUs needs.

On CPUs without VNNI ONNX Runtime rewrites each int8 weight as uint8 and adds its zero-point
under a new name made from the old one. With a zero-point that two weights share it adds that
name twice and fails to load the graph ("Attempt to replace the existing tensor").
"""

from __future__ import annotations

import onnx_ir as ir

from eqnet.backend.graph.operators import LAYER_OPS
from eqnet.backend.graph.reading import constant
from eqnet_exporters.passes._build import graph_of, initializer
from eqnet_exporters.passes._read import producer_of
from eqnet_exporters.passes.rewrite import RANGES, TYPES, Notes, changed, rewrite


@rewrite(RANGES, TYPES)
def own_zero_points(model: ir.Model) -> Notes:
    """Copy zero-points that several weights read, in place."""
    seen: set[ir.Value] = set()
    for node in list(model.graph):
        if not _is_layer(node):
            continue
        weight = producer_of(node.inputs[1])
        if weight is None or weight.op_type != "DequantizeLinear" or len(weight.inputs) < 3:
            continue
        zero = weight.inputs[2]
        array = constant(zero)
        if zero is None or array is None:
            continue
        if zero in seen:
            dtype = ir.DataType.from_numpy(array.dtype)
            name = f"{node.name}.weight.zero_point"
            weight.replace_input_with(2, initializer(graph_of(node), name, array, dtype))
            yield changed(node, "its weight has a zero-point of its own")
        seen.add(zero)


def _is_layer(node: ir.Node) -> bool:
    return node.op_type in LAYER_OPS and len(node.inputs) > 1
