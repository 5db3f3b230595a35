"""Put one quantizer on both sides of every data mover, so that it moves integers.

MaxPool and the reshaping ops select or reorder values. Quantization is monotone, so it commutes
with them: a quantizer after a float data mover is repeated before it, and a quantizer before it
is repeated after it, where it changes nothing (its values lie on the grid already). A Concat
moves values too: what it joins then shares the one scale after it.
"""

from __future__ import annotations

import onnx_ir as ir

from eqnet.backend.graph.operators import operator_of
from eqnet.backend.graph.reading import STORAGE, Quantizer, quantizer_at, quantizer_of
from eqnet_exporters.passes._build import prefix, quantize_like, set_bounds
from eqnet_exporters.passes._read import producer_of, quantizer_before
from eqnet_exporters.passes.rewrite import TYPES, Notes, changed, left, rewrite


@rewrite(TYPES)
def share_quantizers(model: ir.Model) -> Notes:
    """Surround data movers with equal quantizers, in place."""
    for node in reversed(list(model.graph)):
        if is_mover(node) and (pair := quantize_source(node)) is not None:
            _, after = pair
            set_bounds(after, *STORAGE[after.dtype])
            yield changed(node, "moves integers: the quantizer after it stands before it too")
        elif is_mover(node) and (why := why_not_quantized(node)) is not None:
            yield left(node, why)
        elif node.op_type == "Concat" and (shared := quantize_operands(node)) is not None:
            set_bounds(shared, *STORAGE[shared.dtype])
            yield changed(node, "joins integers of one scale")
    for node in list(model.graph):
        if is_mover(node) and _repeat_after(node):
            yield changed(node, "moves integers: the quantizer before it stands after it too")


def is_mover(node: ir.Node) -> bool:
    """Whether the node only moves values; MaxPool with its second output, indices, does not."""
    return operator_of(node).moves and not any(value.uses() for value in node.outputs[1:])


def only_quantizer(node: ir.Node) -> Quantizer | None:
    """The quantizer that alone reads a node's output, or None."""
    output = node.outputs[0]
    readers = output.consumers()
    if len(readers) != 1 or output.is_graph_output():
        return None
    return quantizer_at(readers[0])


def quantize_operands(concat: ir.Node) -> Quantizer | None:
    """Bring what a Concat joins onto the grid of the quantizer after it, in place.

    An operand on that grid already stays as it is. Returns that quantizer, or None where there
    is none or an operand has no place for one, and nothing was changed.
    """
    after = only_quantizer(concat)
    operands = [(value, value.producer()) for value in concat.inputs if value is not None]
    if after is None or any(producer is None for _, producer in operands):
        return None
    for index, (value, producer) in enumerate(operands):
        before = quantizer_of(value)
        if producer is not None and (before is None or not before.same_grid(after)):
            name = f"{prefix(after)}.operand{index}"
            before = quantize_like(after, value, producer, name, clipped=True)
            concat.replace_input_with(index, before.output)
    return after


def quantize_source(mover: ir.Node) -> tuple[Quantizer, Quantizer] | None:
    """Repeat before a data mover the quantizer that is after it, in place.

    Returns both, the one before the mover and the one after it. None, and nothing is changed,
    where there is none or what is moved is on a grid already.
    """
    source, after = mover.inputs[0], only_quantizer(mover)
    producer = producer_of(source)
    if source is None or after is None or producer is None:
        return None
    # A tensor with other readers stays float for them; splitting it here would gain nothing.
    if quantizer_of(source) is not None or len(source.uses()) != 1:
        return None
    before = quantize_like(after, source, producer, f"{prefix(after)}.front", clipped=True)
    mover.replace_input_with(0, before.output)
    return before, after


def why_not_quantized(mover: ir.Node) -> str | None:
    """Why a data mover keeps moving floats although a quantizer is after it, or None."""
    source = mover.inputs[0]
    if source is None or only_quantizer(mover) is None or quantizer_of(source) is not None:
        return None
    if source.producer() is None:
        return "moves floats: it reads the image"
    return "moves floats: what it reads is read in float elsewhere"


def _repeat_after(mover: ir.Node) -> bool:
    """Repeat after a data mover the quantizer before it; whether that changes anything."""
    before, output = quantizer_before(mover), mover.outputs[0]
    if before is None or output.is_graph_output() or not output.uses():
        return False
    uses = list(output.uses())
    readers = [quantizer_at(use.node) for use in uses]
    if all(reader is not None and _same_scale(reader, before) for reader in readers):
        return False
    after = quantize_like(before, output, mover, f"{output.name}.shared", clipped=False)
    for use in uses:
        use.node.replace_input_with(use.idx, after.output)
    return True


def _same_scale(a: Quantizer, b: Quantizer) -> bool:
    return (a.scale, a.zero_point, a.dtype) == (b.scale, b.zero_point, b.dtype)
