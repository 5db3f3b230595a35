"""Make one SiLU again of a product with the sigmoid of a rescaled tensor.

Where a tensor's outlying channels are divided by k, what is left of SiLU is ``x * sigmoid(k * x)``.
OpenVINO runs a SiLU in the convolution's kernel, and this in operations of its own. As
``silu(k * x) / k`` both multiplications and the SiLU fit into the kernel. With powers of two as
factors, which equalization takes, that is the same number.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from eqnet.backend.graph.reading import constant
from eqnet_exporters.passes._build import graph_of, initializer
from eqnet_exporters.passes._read import producer_of
from eqnet_exporters.passes.rewrite import RANGES, TYPES, Notes, changed, rewrite


@rewrite(RANGES, TYPES)
def whole_swish(model: ir.Model) -> Notes:
    """Rewrite each such product, in place."""
    for node in list(model.graph):
        scaled = _scaled_operand(node)
        if scaled is not None:
            _restore(node, *scaled)
            yield changed(node, "one SiLU again, which fits into the convolution's kernel")


def _scaled_operand(product: ir.Node) -> tuple[ir.Value, ir.Value, ir.Value] | None:
    """x, k * x and k of a product ``x * sigmoid(k * x)``, or None if it is another."""
    if product.op_type != "Mul":
        return None
    for x, gate in (product.inputs, reversed(product.inputs)):
        sigmoid = producer_of(gate)
        if x is None or sigmoid is None or sigmoid.op_type != "Sigmoid":
            continue
        inner = producer_of(sigmoid.inputs[0])
        if inner is None or inner.op_type != "Mul" or inner.inputs[0] is not x:
            continue
        factors = inner.inputs[1]
        if factors is not None and _are_powers_of_two(factors):
            return x, inner.outputs[0], factors
    return None


def _are_powers_of_two(value: ir.Value) -> bool:
    array = constant(value)
    if array is None:
        return False
    fractions, _ = np.frexp(array)
    return bool((fractions == 0.5).all())


def _restore(product: ir.Node, x: ir.Value, scaled: ir.Value, factors: ir.Value) -> None:
    graph, name, output = graph_of(product), product.name or "swish", product.outputs[0]
    array = constant(factors)
    assert array is not None
    inverse = initializer(graph, f"{name}.inverse", 1 / array.astype(np.float32), ir.DataType.FLOAT)
    product.replace_input_with(list(product.inputs).index(x), scaled)
    divided = ir.node("Mul", [output, inverse], name=f"{name}.divided")
    result = divided.outputs[0]
    result.shape, result.type = output.shape, output.type
    output.replace_all_uses_with(result, replace_graph_outputs=True)
    divided.replace_input_with(0, output)
    result.name, output.name = output.name, f"{name}.whole"
    graph.insert_after(product, divided)
