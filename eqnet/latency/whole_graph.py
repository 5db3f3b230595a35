"""Graphs of subnets, cut from one graph with every quantizer in it.

PyTorch's exporter takes 7 to 15 seconds for a network, and a latency model wants a hundred
subnets. They differ in which quantizers stand where and which layers multiply integers, so the
supernet is exported once, with all of them, and each subnet's graph is what is left without those
that it lacks: in milliseconds, and on a board without torch.

What is timed has the operators, types and shapes of the subnet's own graph, not its numbers: a
layer in float has the values of the integer weights, and fewer bits keep the scales of 8.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir

from eqnet.backend.graph.point_names import Role, part_name, point_name
from eqnet.backend.graph.reading import STORAGE, constant, dequantized, remove_unused
from eqnet.spec.network import NetworkInfo, TensorInfo
from eqnet.spec.scheme import Symmetry, activation_range
from eqnet.spec.subnet import REMAINDER, SubnetSpec

# Of the whole graph, so that each tensor has two points: what layers read, and what others do.
NARROW_BITS = 7


def cut(whole: ir.Model, info: NetworkInfo, spec: SubnetSpec) -> ir.Model:
    """A neutral QDQ graph with the operators of a subnet's. `whole` is left as it is.

    whole: as `eqnet.supernet.whole.whole_graph` makes it. Raises KeyError for a graph that lacks
    a layer or a quantizer of the network.
    """
    model = whole.clone()
    nodes = {node.name: node for node in model.graph}
    for tensor in info.tensors:
        carrier, narrow = spec.carriers.get(tensor.name), spec.activations.get(tensor.name)
        if narrow == carrier:
            narrow = None
        symmetry = spec.form.activation_symmetry
        _place(nodes, tensor, "narrow", narrow, symmetry)
        _place(nodes, tensor, "carrier", carrier, symmetry)
    for name, choice in spec.weights.items():
        if choice == REMAINDER:
            _to_float(model, nodes[name])
    remove_unused(model)
    return model


def _place(
    nodes: dict[str | None, ir.Node],
    tensor: TensorInfo,
    role: Role,
    bits: int | None,
    symmetry: Symmetry,
) -> None:
    """Let a quantization point have `bits`, or take it out where that is None."""
    point = point_name(tensor.name, role)
    quantize = nodes.get(part_name(point, "QuantizeLinear"))
    if quantize is None:  # that of a tensor which nothing of this kind reads
        return
    clip = nodes.get(part_name(point, "Clip"))
    dequantize = nodes[part_name(point, "DequantizeLinear")]
    if bits is None:
        source = quantize.inputs[0]
        assert source is not None
        dequantize.outputs[0].replace_all_uses_with(source)
        return
    _set_range(quantize, clip, dequantize, bits, tensor, symmetry)


def _set_range(
    quantize: ir.Node,
    clip: ir.Node | None,
    dequantize: ir.Node,
    bits: int,
    tensor: TensorInfo,
    symmetry: Symmetry,
) -> None:
    zero = constant(quantize.inputs[2])
    assert zero is not None
    dtype = ir.DataType.from_numpy(zero.dtype)
    span = activation_range(bits, symmetry, tensor.non_negative)
    if tuple(span) == STORAGE[dtype]:
        dequantize.replace_input_with(0, quantize.outputs[0])
        return
    graph = quantize.graph
    assert isinstance(graph, ir.Graph)
    point = str(quantize.name).rpartition(".")[0]
    low = _scalar(graph, f"{point}.lo", span.lo, zero.dtype)
    high = _scalar(graph, f"{point}.hi", span.hi, zero.dtype)
    name = part_name(point, "Clip")
    between = ir.node("Clip", [quantize.outputs[0], low, high], name=name)
    between.outputs[0].name = f"{name}.output"
    between.outputs[0].type, between.outputs[0].shape = (
        ir.TensorType(dtype),
        quantize.outputs[0].shape,
    )
    dequantize.replace_input_with(0, between.outputs[0])
    if clip is not None:
        graph.remove(clip, safe=False)
    graph.insert_after(quantize, between)


def _scalar(graph: ir.Graph, name: str, value: int, dtype: np.dtype[np.generic]) -> ir.Value:
    """A constant of that name, in place of one that the graph may have."""
    tensor = ir.tensor(np.asarray(value, dtype), name=name)
    made = ir.Value(name=name, const_value=tensor)
    made.shape, made.dtype = ir.Shape(()), ir.DataType.from_numpy(dtype)
    known = graph.initializers.get(name)
    if known is not None:
        known.name = f"{name}.unused"
    graph.register_initializer(made)
    return made


def _to_float(model: ir.Model, layer: ir.Node) -> None:
    """Let a layer multiply by the real values of its integer weight."""
    weight = layer.inputs[1]
    assert weight is not None
    node = weight.producer()
    while node is not None and node.op_type != "DequantizeLinear":  # a transposition
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    if node is None:  # in float already, as layers are that the profile never quantizes
        return
    values = dequantized(node)
    assert values is not None
    name = f"{layer.name}.weight.float"
    folded = ir.Value(name=name, const_value=ir.tensor(values, name=name))
    folded.shape, folded.dtype = ir.Shape(values.shape), ir.DataType.from_numpy(values.dtype)
    model.graph.register_initializer(folded)
    node.outputs[0].replace_all_uses_with(folded)
