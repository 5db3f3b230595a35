"""Move a quantizer from after a data mover to before it, onto the layer that computes.

MaxPool and the reshaping ops select or reorder values. Quantization is monotone, so it commutes
with them exactly: right after the layer it is part of the layer's kernel, and the mover then moves
integers instead of floats. So does Concat of channels, whose operands then share the scale. A
Concat along another axis, of tokens, keeps its quantizer after it: OpenVINO 2026.4 takes the
second axis to be channels, finds scales of its own for the operands, and cannot compile the matrix
product that reads them.
"""

from __future__ import annotations

import onnx_ir as ir

from eqnet.backend.graph.point_names import part_name
from eqnet.backend.graph.reading import Quantizer
from eqnet_exporters.passes._build import graph_of, prefix
from eqnet_exporters.passes.rewrite import RANGES, TYPES, Notes, changed, left, rewrite
from eqnet_exporters.passes.share_quantizers import (
    is_mover,
    only_quantizer,
    quantize_operands,
    quantize_source,
    why_not_quantized,
)

IMAGE_RANK, CHANNELS = 4, 1


@rewrite(RANGES, TYPES)
def hoist_quantizers(model: ir.Model) -> Notes:
    """Move quantizers over data movers, chains of them too, in place."""
    for node in reversed(list(model.graph)):
        if is_mover(node) and (pair := quantize_source(node)) is not None:
            _replace(*pair, node)
            yield changed(node, "moves integers: the quantizer after it now stands before it")
        elif is_mover(node) and (why := why_not_quantized(node)) is not None:
            yield left(node, why)
        elif joins_channels(node) and (after := quantize_operands(node)) is not None:
            _take_out(after, node)
            yield changed(node, "joins integers of the scale that was after it")
        elif node.op_type == "Concat" and only_quantizer(node) is not None:
            yield left(node, "joins floats: OpenVINO takes any axis that it joins for channels")


def joins_channels(node: ir.Node) -> bool:
    """Whether a node joins maps [N, C, H, W] along their channels, as far as shapes tell."""
    if node.op_type != "Concat":
        return False
    shape = node.outputs[0].shape
    axis = node.attributes.get_int("axis")
    if shape is None:
        return axis == CHANNELS
    return len(shape) == IMAGE_RANK and axis % IMAGE_RANK == CHANNELS


def _replace(before: Quantizer, after: Quantizer, mover: ir.Node) -> None:
    """Give the quantizer before a data mover the place and the name of the one after it."""
    name = prefix(after)
    _take_out(after, mover)
    for part in (before.quantize, before.clip, before.dequantize):
        if part is not None:
            part.name = part_name(name, part.op_type)
            part.outputs[0].name = f"{part.name}.output"


def _take_out(after: Quantizer, mover: ir.Node) -> None:
    """Let the readers of a quantizer read the data mover before it."""
    after.output.replace_all_uses_with(mover.outputs[0])
    for part in (after.dequantize, after.clip, after.quantize):
        if part is not None:
            graph_of(mover).remove(part, safe=True)
