"""The layers of any ONNX graph, and in which form each is quantized."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from typing import Any, NamedTuple

import onnx_ir as ir

from eqnet.backend.graph import tensor_forms as tensors
from eqnet.backend.graph.integer_operators import FUSED_LAYERS, INTEGER_OPERATORS, IntegerOperator
from eqnet.backend.graph.operators import LAYER_OPS
from eqnet.spec.outside.inspection import FormName, LayerForm, LayerKind, TensorForm

# What may lie between a weight and its layer without changing its values.
WEIGHT_MOVERS = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Identity", "Cast"})
# What runtimes take into the layer in front of it.
FOLLOWERS = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "HardSwish", "HardSigmoid"})
FAR = 4  # nodes that are searched for a quantizer in front of a layer


class Weight(NamedTuple):
    """A layer's weight: its form, its tensor and whether anything moves its values."""

    form: TensorForm | None
    tensor: ir.TensorProtocol | None


class Reading(NamedTuple):
    """What reads a layer's output: the quantizer's form, what lies between, the float readers."""

    form: TensorForm | None
    via: tuple[str, ...]
    readers: tuple[str, ...]


def nodes_of(model: ir.Model) -> Iterator[ir.Node]:
    """Every node of the graph and of the graphs inside its nodes, in order."""
    return iter(ir.traversal.RecursiveGraphIterator(model.graph))


def is_layer(node: ir.Node) -> bool:
    """Whether a node multiplies by a matrix: a Conv, ConvTranspose, Gemm, MatMul or the like."""
    return node.op_type in LAYER_OPS or node.op_type in {*INTEGER_OPERATORS, *FUSED_LAYERS}


def weight_index(node: ir.Node) -> int:
    """Index of the input that is a layer's weight."""
    operator = INTEGER_OPERATORS.get(node.op_type)
    return 1 if operator is None else operator.data


def layer_nodes(model: ir.Model) -> list[ir.Node]:
    """The layers of a graph, in order."""
    return [node for node in nodes_of(model) if is_layer(node)]


def name_layers(model: ir.Model) -> bool:
    """Call each layer without a name as its output, in place; whether there was one.

    Names that several nodes share stay: some runtimes refuse them, and are to say so.
    """
    taken = {node.name for node in nodes_of(model)}
    nameless = [node for node in layer_nodes(model) if not node.name]
    for node in nameless:
        stem = str(node.outputs[0].name or node.op_type)
        name, number = stem, 1
        while name in taken:
            number += 1
            name = f"{stem}_{number}"
        node.name = name
        taken.add(name)
    return bool(nameless)


def shared_names(model: ir.Model) -> list[str]:
    """Names of layers that other nodes have too, sorted."""
    counts = Counter(node.name for node in nodes_of(model))
    return sorted({str(node.name) for node in layer_nodes(model) if counts[node.name] > 1})


def layer_forms(model: ir.Model) -> list[LayerForm]:
    """The form of every layer, in graph order, without `macs`. Names are those of the nodes."""
    return [_layer(node) for node in layer_nodes(model)]


def layer_ends(model: ir.Model) -> list[tuple[str, str]]:
    """Names of the first input and of the output of every layer, in graph order."""
    ends = []
    for node in layer_nodes(model):
        first = tensors.input_of(node, 0)
        ends.append(("" if first is None else str(first.name), str(node.outputs[0].name)))
    return ends


def operator_counts(model: ir.Model) -> dict[str, int]:
    """Op type -> how many nodes, most first, without the layers."""
    counts = Counter(node.op_type for node in nodes_of(model) if not is_layer(node))
    return dict(counts.most_common())


def _layer(node: ir.Node) -> LayerForm:
    if node.op_type in INTEGER_OPERATORS:
        return _integer_layer(node, INTEGER_OPERATORS[node.op_type])
    weight = _weight(tensors.input_of(node, 1))
    form, via, producer = _input(tensors.input_of(node, 0))
    if weight.tensor is None and weight.form is None:
        weight = Weight(_input(tensors.input_of(node, 1))[0], None)
    reading = _reading(node.outputs[0])
    return LayerForm(
        name=str(node.name),
        op=node.op_type,
        kind=_kind(node, weight.tensor),
        form=_form(weight.form, form),
        weight=weight.form,
        **_stored(weight.tensor),
        input=form,
        producer=producer,
        input_via=via,
        output=reading.form,
        output_via=reading.via,
        readers=reading.readers,
        bias=_bias(tensors.input_of(node, 2)),
    )


def _form(weight: TensorForm | None, activation: TensorForm | None) -> FormName:
    if weight is not None and activation is not None:
        if not (weight.stored and activation.stored):
            return "qonnx"
        return "dynamic" if activation.dynamic else "qdq"
    if weight is not None:
        return "weights only"
    return "activations only" if activation is not None else "float"


def _stored(tensor: ir.TensorProtocol | None) -> dict[str, Any]:
    if tensor is None:
        return {}
    return {
        "weight_type": tensors.type_name(tensor.dtype),
        "weights": int(tensor.size),
        "weight_bytes": tensors.bytes_of(tensor),
    }


def _kind(node: ir.Node, weight: ir.TensorProtocol | None) -> LayerKind:
    op = FUSED_LAYERS.get(node.op_type, node.op_type)
    if op == "ConvTranspose":
        return "transposed"
    if "Conv" in op:
        shape = [] if weight is None else list(weight.shape.numpy())
        depthwise = len(shape) > 1 and shape[1] == 1 and node.attributes.get_int("group", 1) > 1
        return "depthwise" if depthwise else "conv"
    return "linear" if weight is not None else "product"


def _weight(value: ir.Value | None) -> Weight:
    """Where a weight comes from: a constant, over a quantizer or not, behind what only moves it."""
    form: TensorForm | None = None
    for _ in range(2 * FAR):
        tensor = ir.convenience.get_const_tensor(value) if value is not None else None
        if tensor is not None:
            return Weight(form, tensor)
        node = tensors.producer_of(value)
        if node is None or not node.inputs:
            break
        if tensors.is_dequantize(node):
            form = tensors.dequantized_form(node)
        elif node.op_type == "Quant":
            form = tensors.quant_form(node)
        elif not (node.op_type in WEIGHT_MOVERS or tensors.is_quantize(node)):
            break
        value = node.inputs[0]
    return Weight(None, None)


def _input(value: ir.Value | None) -> tuple[TensorForm | None, tuple[str, ...], str]:
    """The quantizer directly before a layer; what lies behind the nearest one; what makes it."""
    node = tensors.producer_of(value)
    if node is None:
        return None, (), ""
    if tensors.is_dequantize(node):
        _, quantize = tensors.quantizer_before(node.inputs[0])
        return tensors.dequantized_form(node), (), "" if quantize is None else quantize.op_type
    if node.op_type == "Quant":
        return tensors.quant_form(node), (), node.op_type
    return None, _between(node), node.op_type


def _between(node: ir.Node | None) -> tuple[str, ...]:
    """Op types from the nearest quantizer to a layer, () where none is near."""
    passed: list[str] = []
    while node is not None and len(passed) < FAR:
        if tensors.is_dequantize(node):
            return tuple(reversed(passed))
        passed.append(node.op_type)
        node = tensors.producer_of(node.inputs[0]) if node.inputs else None
    return ()


def _reading(output: ir.Value) -> Reading:
    """What reads a layer's output, past an activation function and a bias that is added."""
    via: list[str] = []
    while True:
        readers = output.consumers()
        quantizers = [reader for reader in readers if tensors.is_quantize(reader)]
        if readers and len(quantizers) == len(readers) and not output.is_graph_output():
            return Reading(tensors.quantizing_form(quantizers[0]), tuple(via), ())
        if len(readers) == 1 and len(via) < FAR and _follows(readers[0], output):
            via.append(readers[0].op_type)
            output = readers[0].outputs[0]
            continue
        kinds = {node.op_type for node in readers if not tensors.is_quantize(node)}
        if output.is_graph_output():
            kinds.add("output")
        return Reading(None, tuple(via), tuple(sorted(kinds)))


def _follows(node: ir.Node, output: ir.Value) -> bool:
    if node.op_type in FOLLOWERS:
        return True
    others = [value for value in node.inputs if value is not output]
    return node.op_type == "Add" and len(others) == 1 and tensors.is_constant(others[0])


def _bias(value: ir.Value | None) -> str | None:
    if value is None:
        return None
    node = tensors.producer_of(value)
    if tensors.is_dequantize(node) and node is not None:
        value = node.inputs[0]
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    return tensors.type_name(tensor.dtype) if tensor is not None else "computed"


def _integer_layer(node: ir.Node, operator: IntegerOperator) -> LayerForm:
    """A layer in an operator that holds the integers itself."""
    value = tensors.input_of(node, operator.data)
    tensor = ir.convenience.get_const_tensor(value) if value is not None else None
    weight = _parameters(
        node,
        value,
        operator.weight,
        axis=operator.channel_axis,
        bits=node.attributes.get_int("bits", 0),
    )
    source, output = tensors.input_of(node, 0), node.outputs[0]
    activation = result = None
    if not operator.weights_only:
        activation = _parameters(node, source, operator.input).model_copy(
            update={"dynamic": operator.dynamic}
        )
    if operator.output[0] is not None:
        result = _parameters(node, output, operator.output)
    producer = tensors.producer_of(source)
    stored = _stored(tensor)
    if operator.weights_only and tensor is not None:
        stored["weights"] = _attribute(node, "K") * _attribute(node, "N")
    form: FormName = "dynamic" if operator.dynamic else "qoperator"
    return LayerForm(
        name=str(node.name),
        op=node.op_type,
        kind=_kind(node, tensor),
        form="weights only" if operator.weights_only else form,
        weight=weight,
        **stored,
        input=activation,
        producer="" if producer is None else producer.op_type,
        output=result,
        readers=() if result is not None else _reading(output).readers,
        bias=_bias(tensors.input_of(node, operator.bias)),
    )


def _attribute(node: ir.Node, name: str) -> int:
    return min(max(node.attributes.get_int(name, 0), 0), 1 << 40)


def _parameters(
    node: ir.Node,
    value: ir.Value | None,
    indices: tuple[int | None, int | None],
    *,
    axis: int = 0,
    bits: int = 0,
) -> TensorForm:
    scale, zero = tensors.input_of(node, indices[0]), tensors.input_of(node, indices[1])
    type_ = f"uint{bits}" if 0 < bits <= 8 else tensors.stored_type(value, zero, None)
    block = node.attributes.get_int("block_size", 0) if bits else 0
    return tensors.quantized_form(type_, scale, zero, axis=axis, block=block)
