"""Names that people read, for every node, value and constant of the neutral graph.

    layer L         node `L`; constants `L.weight`, `L.weight.scale`, `L.weight.zero_point` and
                    `L.bias`
    quantizer of T  nodes `T.carrier.q`, `.clip`, `.dq` (or `T.narrow`); constants
                    `T.carrier.scale`, `.zero_point`, `.lo`, `.hi`
    other nodes     the tensor that they make, else the module that they come from
    values          `<node>.output`

PyTorch's exporter shares equal constants between nodes; here each gets its own, so that a name
says whose it is.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection

import onnx_ir as ir

from eqnet.backend.graph.operators import operator_of
from eqnet.backend.graph.point_names import is_part, point_of, tensor_of
from eqnet.qdq.rewrites import module_of_node
from eqnet.spec.version import __version__

QUANTIZER_PARTS = {
    "QuantizeLinear": {1: "scale", 2: "zero_point"},
    "DequantizeLinear": {1: "scale", 2: "zero_point"},
    "Clip": {1: "lo", 2: "hi"},
}
LAYER_PARTS = {1: "weight", 2: "bias"}
DEQUANTIZER_PARTS = ("", ".scale", ".zero_point")


def name_everything(model: ir.Model, layers: Collection[str], parameters: Collection[str]) -> None:
    """Name and document a graph in which layers and quantizers have their names, in place.

    layers: names of the layers' nodes. parameters: names of constants that stay as they are.
    """
    _drop_defaults(model)
    _name_weights(model, layers)
    _name_nodes(model, layers)
    _name_constants(model, layers, parameters)
    _name_values(model)
    _document(model)


def _drop_defaults(model: ir.Model) -> None:
    """PyTorch's exporter writes them out."""
    for node in model.graph:
        for key, default in operator_of(node).defaults.items():
            attribute = node.attributes.get(key)
            if attribute is not None and attribute.value == default:
                node.attributes.pop(key)
        if node.op_type.endswith("uantizeLinear") and _is_scalar(node.inputs[1]):
            node.attributes.pop("axis", None)


def _is_scalar(value: ir.Value | None) -> bool:
    return value is not None and value.shape is not None and len(value.shape) == 0


def _is_quantizer(node: ir.Node) -> bool:
    """Whether a node is part of a quantizer that is named already."""
    return is_part(node.name or "", node.op_type)


def _name_weights(model: ir.Model, layers: Collection[str]) -> None:
    """`L.weight.dq` for the node that brings the integer weight of layer L to real values."""
    for node in model.graph:
        if node.name not in layers or len(node.inputs) < 2:
            continue
        weight = node.inputs[1]
        producer = weight.producer() if weight is not None else None
        if producer is not None and producer.op_type == "DequantizeLinear":
            producer.name = f"{node.name}.weight.dq"


def _name_nodes(model: ir.Model, layers: Collection[str]) -> None:
    """Every node that has no name of its own yet gets one."""
    others: list[ir.Node] = []
    taken: Counter[str] = Counter()
    for node in model.graph:
        if _is_named(node, layers):
            taken[str(node.name)] += 1
        else:
            others.append(node)
    alone = Counter(module_of_node(node) for node in others)
    for node in others:
        node.name = _unique(_wanted(node, layers, alone), taken)


def _is_named(node: ir.Node, layers: Collection[str]) -> bool:
    return node.name in layers or _is_quantizer(node) or (node.name or "").endswith(".weight.dq")


def _wanted(node: ir.Node, layers: Collection[str], alone: Counter[str]) -> str:
    for reader in node.outputs[0].consumers():
        if reader.op_type == "QuantizeLinear":
            return tensor_of(point_of(str(reader.name)))
    module = module_of_node(node)
    if module and module not in layers and alone[module] == 1:
        return module
    return f"{module}.{node.op_type}".lstrip(".")


def _unique(name: str, taken: Counter[str]) -> str:
    unique, count = name, 0
    while unique in taken:
        count += 1
        unique = f"{name}_{count}"
    taken[unique] += 1
    return unique


def _name_values(model: ir.Model) -> None:
    for node in model.graph:
        for index, value in enumerate(node.outputs):
            if value.is_graph_output():
                continue
            name = f"{node.name}.output"
            if index:
                name += f".{index}"
            value.name = name


def _name_constants(model: ir.Model, layers: Collection[str], parameters: Collection[str]) -> None:
    """Give every reader its own constants, under its own name, in the order of reading."""
    constants = dict(model.graph.initializers)
    model.graph.initializers.clear()
    old = {value: name for name, value in constants.items()}
    copies: dict[str, ir.Value] = {}
    for node in model.graph:
        for index, value in enumerate(node.inputs):
            if value is None or value not in old:
                continue
            name = _constant_name(node, index, old[value], layers, parameters)
            if name in copies and not _same(copies[name], value):
                name = f"{name}.{index}"
            if name not in copies:
                copies[name] = _copy(value, name)
            node.replace_input_with(index, copies[name])
    for value in copies.values():
        model.graph.register_initializer(value)


def _same(a: ir.Value, b: ir.Value) -> bool:
    """Whether two constants are the same one; a copy shares its original's array."""
    return a.meta.get("original") is b


def _copy(value: ir.Value, name: str) -> ir.Value:
    assert value.const_value is not None
    copy = ir.Value(name=name, const_value=value.const_value, shape=value.shape, type=value.type)
    # The tensor carries a name too; a shared one gets its own object for each.
    copy.const_value = ir.tensor(value.const_value.numpy(), name=name)
    copy.meta["original"] = value
    return copy


def _constant_name(
    node: ir.Node, index: int, name: str, layers: Collection[str], parameters: Collection[str]
) -> str:
    reader = str(node.name)
    if node.name in layers:
        return f"{reader}.{LAYER_PARTS.get(index, f'input{index}')}"
    if reader.endswith(".weight.dq"):
        return reader.removesuffix(".dq") + DEQUANTIZER_PARTS[index]
    if _is_quantizer(node):
        part = QUANTIZER_PARTS[node.op_type].get(index, "integers")
        return f"{reader.rpartition('.')[0]}.{part}"
    module = module_of_node(node)
    if module in layers and node.op_type == "Add":
        return f"{module}.bias"
    if module in layers:
        return f"{module}.{node.op_type}.{index}"
    if name in parameters:
        return name
    labels = dict(enumerate(operator_of(node).inputs))
    return f"{reader}.{labels.get(index, f'input{index}')}"


def _document(model: ir.Model) -> None:
    """Say who made the graph and what goes in and out; forget where it was made."""
    model.producer_name, model.producer_version = "eqnet", __version__
    model.doc_string, model.graph.doc_string = None, None
    model.graph.name = "eqnet"
    for item in (model, model.graph, *model.graph, *model.graph.initializers.values()):
        item.metadata_props.clear()
    for node in model.graph:
        node.doc_string = None
        for value in node.outputs:
            value.metadata_props.clear()
    for value in (*model.graph.inputs, *model.graph.outputs):
        value.metadata_props.clear()
    for value in model.graph.inputs:
        value.doc_string = "images [N, C, H, W], normalized as manifest.json says"
    for value in model.graph.outputs:
        value.doc_string = "logits [N, classes]"
