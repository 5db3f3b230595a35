"""Put one quantizer on both sides of every data mover, so that it moves integers.

MaxPool and the reshaping ops select or reorder values. Quantization is monotone, so it commutes
with them: a quantizer behind a float data mover is repeated in front of it, and a quantizer in
front is repeated behind it, where it changes nothing (its values lie on the grid already). A
Concat moves values too: what it joins then shares the one scale behind it.
"""

from __future__ import annotations

import onnx_ir as ir

from eqnet.backend.graph.operators import operator_of
from eqnet.backend.graph.reading import STORAGE, Quantizer, quantizer_at, quantizer_of
from eqnet_exporters.passes._build import prefix, quantize_like, set_bounds
from eqnet_exporters.passes.rewrite import TYPES, Notes, changed, left, rewrite


@rewrite(TYPES)
def share_quantizers(model: ir.Model) -> Notes:
    """Surround data movers with equal quantizers, in place."""
    for node in reversed(list(model.graph)):
        if is_mover(node) and (pair := quantize_source(node)) is not None:
            set_bounds(pair[1], *STORAGE[pair[1].dtype])
            yield changed(node, "moves integers: the quantizer behind it stands in front too")
        elif is_mover(node) and (why := why_not_quantized(node)) is not None:
            yield left(node, why)
        elif node.op_type == "Concat" and (behind := quantize_operands(node)) is not None:
            set_bounds(behind, *STORAGE[behind.dtype])
            yield changed(node, "joins integers of one scale")
    for node in list(model.graph):
        if is_mover(node) and _repeat_behind(node):
            yield changed(node, "moves integers: the quantizer in front of it stands behind too")


def is_mover(node: ir.Node) -> bool:
    """Whether the node only moves values; MaxPool with its second output, indices, does not."""
    return operator_of(node).moves and not any(value.uses() for value in node.outputs[1:])


def only_quantizer(node: ir.Node) -> Quantizer | None:
    """The quantizer that alone reads a node's output, or None."""
    output = node.outputs[0]
    readers = [quantizer_at(reader) for reader in output.consumers()]
    return readers[0] if len(readers) == 1 and not output.is_graph_output() else None


def quantize_operands(concat: ir.Node) -> Quantizer | None:
    """Bring what a Concat joins onto the grid of the quantizer behind it, in place.

    An operand on that grid already stays as it is. Returns that quantizer, or None where there
    is none or an operand has no place for one, and nothing was changed.
    """
    behind = only_quantizer(concat)
    operands = [(value, value.producer()) for value in concat.inputs if value is not None]
    if behind is None or any(producer is None for _, producer in operands):
        return None
    for index, (value, producer) in enumerate(operands):
        own = quantizer_of(value)
        if producer is not None and (own is None or not own.same_grid(behind)):
            name = f"{prefix(behind)}.operand{index}"
            concat.replace_input_with(
                index, quantize_like(behind, value, producer, name, clipped=True).output
            )
    return behind


def quantize_source(mover: ir.Node) -> tuple[Quantizer, Quantizer] | None:
    """Repeat the quantizer behind a data mover in front of it: (in front, behind), in place.

    None, and nothing is changed, where there is none or what is moved is on a grid already.
    """
    source, behind = mover.inputs[0], only_quantizer(mover)
    producer = source.producer() if source is not None else None
    if source is None or behind is None or producer is None:
        return None
    # A tensor with other readers stays float for them; splitting it here would gain nothing.
    if quantizer_of(source) is not None or len(source.uses()) != 1:
        return None
    front = quantize_like(behind, source, producer, f"{prefix(behind)}.front", clipped=True)
    mover.replace_input_with(0, front.output)
    return front, behind


def why_not_quantized(mover: ir.Node) -> str | None:
    """Why a data mover keeps moving floats although a quantizer is behind it, or None."""
    source = mover.inputs[0]
    if source is None or only_quantizer(mover) is None or quantizer_of(source) is not None:
        return None
    if source.producer() is None:
        return "moves floats: it reads the image"
    return "moves floats: what it reads is read in float elsewhere"


def _repeat_behind(node: ir.Node) -> bool:
    """Repeat the quantizer in front of a data mover behind it; whether that changes anything."""
    source, output = node.inputs[0], node.outputs[0]
    front = quantizer_of(source) if source is not None else None
    if front is None or output.is_graph_output() or not output.uses():
        return False
    uses = list(output.uses())
    readers = [quantizer_at(use.node) for use in uses]
    if all(reader is not None and _same_scale(reader, front) for reader in readers):
        return False
    behind = quantize_like(front, output, node, f"{output.name}.shared", clipped=False)
    for use in uses:
        use.node.replace_input_with(use.idx, behind.output)
    return True


def _same_scale(a: Quantizer, b: Quantizer) -> bool:
    return (a.scale, a.zero_point, a.dtype) == (b.scale, b.zero_point, b.dtype)
