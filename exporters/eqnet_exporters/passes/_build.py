"""Small builders that the passes share: initializers, clips and quantizers."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import ArrayLike

from eqnet.backend.graph.point_names import part_name, point_of
from eqnet.backend.graph.reading import STORAGE, Quantizer

LEAST = float(np.finfo(np.float32).min)


def initializer(graph: ir.Graph, name: str, array: ArrayLike, dtype: ir.DataType) -> ir.Value:
    """Register a new constant under `name`, made unique if it is taken."""
    unique, count = name, 0
    while unique in graph.initializers:
        count += 1
        unique = f"{name}.{count}"
    values = np.asarray(array, dtype=dtype.numpy())
    value = ir.Value(name=unique, const_value=ir.tensor(values, name=unique))
    value.shape, value.dtype = ir.Shape(values.shape), dtype
    graph.register_initializer(value)
    return value


def set_apart(value: ir.Value, node: ir.Node, name: str) -> ir.Value:
    """A value that `node` reads or gives, after a maximum with the least float32.

    That changes no value, and no runtime merges it with a layer or a reduction, nor moves a
    quantizer across it. The readers of `value` stay as they are.
    """
    graph = graph_of(node)
    least = initializer(graph, f"{name}.least", LEAST, ir.DataType.FLOAT)
    apart = ir.node("Max", [value, least], name=name)
    result = apart.outputs[0]
    result.name, result.shape, result.dtype = f"{name}.output", value.shape, ir.DataType.FLOAT
    if value.producer() is node:
        graph.insert_after(node, apart)
    else:
        graph.insert_before(node, apart)
    return result


def graph_of(node: ir.Node) -> ir.Graph:
    """The graph that a node is in. The passes do not enter functions, which have no weights."""
    assert isinstance(node.graph, ir.Graph)
    return node.graph


def prefix(quantizer: Quantizer) -> str:
    """The name that the quantizer's nodes share: ``<tensor>.carrier`` of ``<tensor>.carrier.q``."""
    name = quantizer.quantize.name or quantizer.output.name or "quantizer"
    return point_of(name)


def set_bounds(quantizer: Quantizer, lo: int, hi: int) -> Quantizer:
    """Give a quantizer the integer range [lo, hi] with the Clip that this takes, or none.

    Returns the quantizer as it is now; the one passed in is out of date.
    """
    graph, (bottom, top) = graph_of(quantizer.quantize), STORAGE[quantizer.dtype]
    clip = quantizer.clip
    if (lo, hi) != (bottom, top):
        clip = insert_clip(quantizer, lo, hi)
    elif clip is not None:
        quantizer.dequantize.replace_input_with(0, quantizer.quantize.outputs[0])
        graph.remove(clip, safe=True)
        clip = None
    return Quantizer(
        quantizer.quantize,
        clip,
        quantizer.dequantize,
        quantizer.scale,
        quantizer.zero_point,
        lo,
        hi,
    )


def insert_clip(quantizer: Quantizer, lo: int, hi: int) -> ir.Node:
    """Clip the quantizer's integers to [lo, hi], by its own Clip or by a new one."""
    graph, name, dtype = graph_of(quantizer.quantize), prefix(quantizer), quantizer.dtype
    clip = quantizer.clip
    if clip is None:
        integers = quantizer.quantize.outputs[0]
        clip = ir.node("Clip", [integers], num_outputs=1, name=part_name(name, "Clip"))
        output = clip.outputs[0]
        output.name, output.shape, output.dtype = f"{name}.clip.output", integers.shape, dtype
        graph.insert_after(quantizer.quantize, clip)
        quantizer.dequantize.replace_input_with(0, output)
    clip.resize_inputs(3)
    clip.replace_input_with(1, initializer(graph, f"{name}.lo", lo, dtype))
    clip.replace_input_with(2, initializer(graph, f"{name}.hi", hi, dtype))
    return clip


def quantize_like(
    like: Quantizer, value: ir.Value, after: ir.Node, name: str, *, clipped: bool
) -> Quantizer:
    """Put a new quantizer with the grid of `like` after `value`; its readers stay as they are.

    clipped: whether the new one repeats the Clip of `like` (needless for values that lie on
    the grid already).
    """
    graph = graph_of(after)
    parameters = like.quantize.inputs[1:3]
    quantize = ir.node(
        "QuantizeLinear", [value, *parameters], name=part_name(name, "QuantizeLinear")
    )
    dequantize = ir.node(
        "DequantizeLinear",
        [quantize.outputs[0], *parameters],
        name=part_name(name, "DequantizeLinear"),
    )
    for node, dtype in ((quantize, like.dtype), (dequantize, ir.DataType.FLOAT)):
        node.outputs[0].name = f"{node.name}.output"
        node.outputs[0].shape, node.outputs[0].dtype = value.shape, dtype
    graph.insert_after(after, [quantize, dequantize])
    lo, hi = STORAGE[like.dtype]
    quantizer = Quantizer(quantize, None, dequantize, like.scale, like.zero_point, lo, hi)
    if not clipped:
        return quantizer
    return set_bounds(quantizer, like.lo, like.hi)
