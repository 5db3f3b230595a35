"""Move a quantizer from behind a data mover to in front of it, onto the layer that computes.

MaxPool and the reshaping ops select or reorder values. Quantization is monotone, so it commutes
with them exactly: behind the layer it is part of the layer's kernel, and the mover then moves
integers instead of floats. So does Concat, whose operands then share the scale.
"""

from __future__ import annotations

import onnx_ir as ir

from eqnet.backend.graphs import Quantizer, quantizer_of
from eqnet_exporters.passes._build import graph_of, prefix, quantize_like
from eqnet_exporters.passes.share_quantizers import is_mover, only_quantizer, quantize_operands


def hoist_quantizers(model: ir.Model) -> None:
    """Move quantizers over data movers, chains of them too, in place."""
    for node in reversed(list(model.graph)):
        if is_mover(node):
            _hoist_over(node)
        elif node.op_type == "Concat" and (behind := only_quantizer(node)) is not None:
            quantize_operands(node, behind)
            _take_out(behind, node)


def _hoist_over(node: ir.Node) -> None:
    source, behind = node.inputs[0], only_quantizer(node)
    if source is None or behind is None:
        return
    producer = source.producer()
    # A tensor with other readers stays float for them, and integers need no second quantizer.
    if producer is None or quantizer_of(source) is not None or len(source.uses()) != 1:
        return
    front = quantize_like(behind, source, producer, f"{prefix(behind)}.front", clipped=True)
    node.replace_input_with(0, front.output)
    name = prefix(behind)
    _take_out(behind, node)
    moved = {"q": front.quantize, "clip": front.clip, "dq": front.dequantize}
    for role, part in moved.items():
        if part is not None:
            part.name = f"{name}.{role}"
            part.outputs[0].name = f"{name}.{role}.output"


def _take_out(behind: Quantizer, node: ir.Node) -> None:
    """Let the readers of a quantizer read the data mover in front of it."""
    behind.output.replace_all_uses_with(node.outputs[0])
    for old in (behind.dequantize, behind.clip, behind.quantize):
        if old is not None:
            graph_of(node).remove(old, safe=True)
