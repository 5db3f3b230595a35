"""Keep OpenVINO from merging the quantizers around a mean, sum, maximum or minimum into it.

OpenVINO 2026.4 takes a quantizer before a reduction into its kernel as integers and one after it
as a step of the kernel. Means over one axis of tokens are then off by up to four times their
range, maxima and minima by half of it, and which ones depends on the axes, the layout and the
instruction set. Set apart from both, the reduction is computed in float, of the same integers.
The mean over height and width has kernels that are right, and fast.
"""

from __future__ import annotations

from collections.abc import Callable

import onnx_ir as ir

from eqnet.backend.graph.operators import LAYER_OPS, operator_of
from eqnet.backend.graph.reading import constant
from eqnet_exporters.passes._build import set_apart
from eqnet_exporters.passes._read import operand, producer_of, producers_of
from eqnet_exporters.passes.rewrite import RANGES, TYPES, Notes, changed, rewrite


@rewrite(RANGES, TYPES)
def reduce_in_float(model: ir.Model) -> Notes:
    """Set each reduction apart from the quantizers around it, in place."""
    for node in list(model.graph):
        if not operator_of(node).reduces or _is_over_the_image(node):
            continue
        source, output = node.inputs[0], node.outputs[0]
        if output.dtype not in (ir.DataType.FLOAT, None):
            continue  # of sizes
        reads = _reaches(producer_of(source), "DequantizeLinear", producers_of)
        feeds = any(_reaches(reader, "QuantizeLinear", _readers) for reader in output.consumers())
        if source is not None and reads:
            node.replace_input_with(0, set_apart(source, node, f"{node.name}.input"))
        if feeds:
            uses = list(output.uses())
            result = set_apart(output, node, f"{node.name}.result")
            for use in uses:
                use.node.replace_input_with(use.idx, result)
        if reads or feeds:
            yield changed(node, "computed in float: OpenVINO merges it with quantizers wrongly")


def _is_over_the_image(node: ir.Node) -> bool:
    """Whether a node is the mean over the last two of four axes."""
    source, axes = node.inputs[0], constant(operand(node, 1))
    if node.op_type != "ReduceMean" or axes is None or source is None or source.shape is None:
        return False
    rank = len(source.shape)
    return rank == 4 and sorted(int(axis) % rank for axis in axes.reshape(-1)) == [2, 3]


def _reaches(node: ir.Node | None, wanted: str, step: Callable[[ir.Node], list[ir.Node]]) -> bool:
    """Whether a node of type `wanted` is reached over what OpenVINO moves quantizers across."""
    if node is None:
        return False
    seen: set[ir.Node] = set()
    stack = [node]
    while stack:
        node = stack.pop()
        if node.op_type == wanted:
            return True
        if node not in seen and node.op_type not in LAYER_OPS and _operands(node) == 1:
            stack += step(node)
        seen.add(node)
    return False


def _operands(node: ir.Node) -> int:
    """How many tensors a node takes that are no constants; those that are joined count as one."""
    tensors = [value for value in node.inputs if value is not None and constant(value) is None]
    if node.op_type == "Concat":
        return min(1, len(tensors))
    return len(tensors)


def _readers(node: ir.Node) -> list[ir.Node]:
    readers: list[ir.Node] = []
    for value in node.outputs:
        readers += value.consumers()
    return readers
