"""Rewrites after PyTorch's exporter: the one form that each operation has in the contract."""

from __future__ import annotations

import ast

import numpy as np
import onnx_ir as ir

SCOPES = "pkg.torch.onnx.name_scopes"
# What torch.export says in place of a module where the number of images is read.
NO_MODULE = "_empty_nn_module_stack_from_metadata_hook"


def module_of_node(node: ir.Node) -> str:
    """The path of the module that PyTorch's exporter made a node for, '' at the top."""
    scopes = ast.literal_eval(node.metadata_props.get(SCOPES, "[]"))
    if len(scopes) < 2 or scopes[-2] == NO_MODULE:
        return ""
    return str(scopes[-2])


def pad_in_conv(model: ir.Model) -> None:
    """Padding with zeros whose only reader is a Conv becomes the Conv's own `pads`."""
    for node in list(model.graph):
        if node.op_type != "Conv" or node.inputs[0] is None:
            continue
        pad = node.inputs[0].producer()
        if pad is None or pad.op_type != "Pad" or len(list(pad.outputs[0].uses())) != 1:
            continue
        amounts = _zeros_around(pad)
        conv_pads = node.attributes.get_ints("pads", [0] * 4)
        if amounts is None or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
            continue
        pads = [int(a) + int(b) for a, b in zip(amounts, conv_pads, strict=True)]
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)
        node.attributes.pop("auto_pad", None)
        node.replace_input_with(0, pad.inputs[0])
        model.graph.remove(pad, safe=True)


def wrap_by_index(model: ir.Model) -> None:
    """Circular padding becomes one Gather an axis, which every runtime reads.

    OpenVINO 2026.4 refuses the mode `wrap` of Pad.
    """
    for node in list(model.graph):
        if node.op_type != "Pad" or node.attributes.get_string("mode", "constant") != "wrap":
            continue
        source, amounts = node.inputs[0], node.inputs[1]
        if source is None or source.shape is None or amounts is None:
            continue
        if amounts.const_value is None:
            continue
        gathers = _wrapping(model.graph, source, amounts.const_value.numpy().tolist())
        if not gathers:
            continue
        for gather in gathers:
            gather.metadata_props.update(node.metadata_props)
        ir.convenience.replace_nodes_and_values(
            model.graph, node, [node], gathers, node.outputs, gathers[-1].outputs
        )


def _wrapping(graph: ir.Graph, value: ir.Value, amounts: list[int]) -> list[ir.Node]:
    """Nodes that put the end of an axis before its beginning, and its beginning after its end.

    amounts: elements to put before each axis, and then those after each.
    """
    gathers: list[ir.Node] = []
    sizes = list(value.shape or ())
    pairs = zip(amounts[: len(sizes)], amounts[len(sizes) :], strict=True)
    for axis, (before, after) in enumerate(pairs):
        if not before and not after:
            continue
        size = sizes[axis]
        assert isinstance(size, int)  # but for the images, which no layer pads
        sizes[axis] = before + size + after
        order = np.arange(-before, size + after, dtype=np.int64) % size
        tensor = ir.tensor(order, name=f"wrap.{len(graph.initializers)}")
        index = ir.Value(name=tensor.name, const_value=tensor, shape=ir.Shape(order.shape))
        index.dtype = ir.DataType.INT64
        graph.register_initializer(index)
        gathers.append(ir.node("Gather", [value, index], {"axis": axis}))
        kind, value = value.type, gathers[-1].outputs[0]
        value.shape, value.type = ir.Shape(sizes), kind
    return gathers


def _zeros_around(pad: ir.Node) -> list[int] | None:
    """(top, left, bottom, right) of a Pad of [N, C, H, W] with zeros on H and W alone."""
    if pad.attributes.get_string("mode", "constant") != "constant" or len(pad.inputs) > 3:
        return None
    value = pad.inputs[2] if len(pad.inputs) > 2 else None
    if value is not None and (value.const_value is None or value.const_value.numpy().any()):
        return None
    amounts = pad.inputs[1]
    if amounts is None or amounts.const_value is None:
        return None
    pads: list[int] = amounts.const_value.numpy().tolist()
    if len(pads) != 8 or min(pads) < 0:
        return None
    images_and_channels = pads[0:2] + pads[4:6]
    if any(images_and_channels):
        return None
    return pads[2:4] + pads[6:8]


def transpose_weights(model: ir.Model) -> None:
    """The integer weight of a MatMul lies as [I, O], dequantized along axis 1.

    PyTorch's exporter transposes the dequantized [O, I] instead, which runtimes do not fuse.
    """
    for node in list(model.graph):
        if node.op_type != "MatMul" or node.inputs[1] is None:
            continue
        turn = node.inputs[1].producer()
        if turn is None or turn.op_type != "Transpose" or turn.inputs[0] is None:
            continue
        source = turn.inputs[0].producer()
        if source is None or source.op_type != "DequantizeLinear":
            continue
        stored = source.inputs[0]
        if stored is None or not stored.is_initializer():
            continue
        if len(list(stored.uses())) != 1 or len(list(turn.outputs[0].uses())) != 1:
            continue
        assert stored.const_value is not None
        turned = np.ascontiguousarray(stored.const_value.numpy().T)
        stored.const_value = ir.tensor(turned, name=stored.name)
        stored.shape = ir.Shape(turned.shape)
        source.attributes["axis"] = ir.AttrInt64("axis", 1)
        source.outputs[0].shape = ir.Shape(turned.shape)
        node.replace_input_with(1, source.outputs[0])
        model.graph.remove(turn, safe=True)
