"""All 8 bits for tensors that are never negative, without a zero-point.

A tensor in [0, 255 s] fills half of int8 with zero-point 0. Moved by c = 128 s it fills all of it,
and both layers around it take the offset into their biases, exactly: the one that makes it adds
b - c, and what reads ``W x`` adds c times the sum of its weights. A ReLU or ReLU6 between is the
saturation of int8 then. Layers that pad cannot take it, because they would have to pad with -c.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from eqnet.backend.graph.operators import channel_axis, operator_of
from eqnet.backend.graph.reading import STORAGE, Quantizer, constant, dequantized, quantizers
from eqnet_exporters.passes._build import graph_of, initializer, prefix
from eqnet_exporters.passes.rewrite import RANGES, Notes, changed, rewrite

UNSIGNED = STORAGE[ir.DataType.UINT8]
OFFSET = 128


class _Around(NamedTuple):
    """What makes a tensor, what is clipped between, and the layers that read it."""

    producer: ir.Node
    clip: ir.Node | None
    readers: tuple[ir.Node, ...]


@rewrite(RANGES)
def shift_unsigned(model: ir.Model) -> Notes:
    """Shift each quantizer over [0, 255] with zero-point 0 that layers surround, in place."""
    for quantizer in quantizers(model):
        if (quantizer.zero_point, quantizer.lo, quantizer.hi) != (0, *UNSIGNED):
            continue
        around = _around(quantizer)
        if around is not None:
            _shift(quantizer, around)
            yield changed(quantizer.quantize, "all of int8, by an offset in the layers' biases")


def _around(quantizer: Quantizer) -> _Around | None:
    """The layers around a quantizer, None where one of them cannot take an offset."""
    clip: ir.Node | None = None
    producer = _only_producer(quantizer.source, quantizer.quantize)
    if producer is not None and _clips_at_zero(producer, quantizer):
        clip = producer
        source = clip.inputs[0]
        producer = None if source is None else _only_producer(source, clip)
    readers = tuple(quantizer.output.consumers())
    takes = bool(readers) and not quantizer.output.is_graph_output()
    if producer is None or not _has_bias(producer) or not takes:
        return None
    if not all(_takes_offset(reader, quantizer.output) for reader in readers):
        return None
    return _Around(producer, clip, readers)


def _only_producer(value: ir.Value, reader: ir.Node) -> ir.Node | None:
    """What makes a value that `reader` alone reads."""
    alone = list(value.consumers()) == [reader]
    return value.producer() if alone and not value.is_graph_output() else None


def _clips_at_zero(node: ir.Node, quantizer: Quantizer) -> bool:
    """Whether a node is a ReLU, or clips at 0 and not below the quantizer's largest value."""
    if node.op_type == "Relu":
        return True
    if node.op_type != "Clip" or len(node.inputs) < 2:
        return False
    low = constant(node.inputs[1])
    high = constant(node.inputs[2]) if len(node.inputs) > 2 else None
    if low is None or float(low) != 0.0 or (len(node.inputs) > 2 and high is None):
        return False
    return high is None or float(high) >= quantizer.hi * quantizer.scale * (1 - 1e-6)


def _has_bias(node: ir.Node) -> bool:
    """Whether a node is a layer with an input for a bias of its own."""
    takes = operator_of(node).int32_bias
    return takes and (len(node.inputs) < 3 or constant(node.inputs[2]) is not None)


def _takes_offset(node: ir.Node, value: ir.Value) -> bool:
    """Whether a layer reads a value as its input, by constant weights and without padding."""
    reads = _has_bias(node) and node.inputs[0] is value and _weight(node) is not None
    padded = any(node.attributes.get_ints("pads", []))
    automatic = node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID")
    return reads and not padded and not automatic


def _weight(node: ir.Node) -> NDArray[np.float32] | None:
    """The real values of a layer's weight, None where it is computed."""
    value = node.inputs[1]
    plain = constant(value)
    producer = None if value is None else value.producer()
    if plain is None and producer is not None and producer.op_type == "DequantizeLinear":
        real = dequantized(producer)
        return None if real is None else real.astype(np.float32)
    return None if plain is None else plain.astype(np.float32)


def _shift(quantizer: Quantizer, around: _Around) -> None:
    offset = OFFSET * float(quantizer.scale)
    _add_to_bias(around.producer, np.float64(-offset))
    for reader in around.readers:
        weight = _weight(reader)
        assert weight is not None
        channels = channel_axis(reader)
        inputs = tuple(axis for axis in range(weight.ndim) if axis != channels)
        _add_to_bias(reader, offset * weight.sum(axis=inputs, dtype=np.float64))
    if around.clip is not None:
        source = around.clip.inputs[0]
        assert source is not None
        quantizer.quantize.replace_input_with(0, source)
        graph_of(around.clip).remove(around.clip, safe=True)
    _retype(quantizer)


def _add_to_bias(layer: ir.Node, amount: NDArray[np.float64] | np.float64) -> None:
    """Add to every output channel of a layer, which gets a bias if it has none."""
    weight = _weight(layer)
    bias = constant(layer.inputs[2]) if len(layer.inputs) > 2 else None
    if bias is None:
        assert weight is not None
        bias = np.zeros(weight.shape[channel_axis(layer)])
    layer.resize_inputs(3)
    total = bias.astype(np.float64) + amount
    name = f"{layer.name}.bias"
    layer.replace_input_with(2, initializer(graph_of(layer), name, total, ir.DataType.FLOAT))


def _retype(quantizer: Quantizer) -> None:
    """int8 in place of uint8: the same integers, less 128."""
    graph = graph_of(quantizer.quantize)
    zero = initializer(graph, f"{prefix(quantizer)}.zero_point", 0, ir.DataType.INT8)
    for node in (quantizer.quantize, quantizer.dequantize):
        node.resize_inputs(3)
        node.replace_input_with(2, zero)
    # A new type object: a cloned graph shares the old one with its original.
    quantizer.quantize.outputs[0].type = ir.TensorType(ir.DataType.INT8)
