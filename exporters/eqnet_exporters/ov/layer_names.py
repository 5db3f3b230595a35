"""Which layer of an ONNX graph a node of OpenVINO's runtime graph computes.

OpenVINO calls a layer by the name of whatever was folded into it: one whose output is multiplied
by a constant is `Multiply_N/DequantizationMultiply`. So a layer is known by the constant that it
multiplies by, which keeps its name. That of a grouped convolution is made anew; then the layer is
known by its own name or by what comes after it and was fused into it.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

import onnx_ir as ir

from eqnet.backend.graph.layer_forms import is_layer, weight_index
from eqnet_exporters.passes._read import operand, producers_of

# What may lie between a weight's constant and its layer in a runtime graph.
WEIGHT_MOVERS = frozenset({"Reorder", "Reshape", "Transpose", "Convert"})
# OpenVINO's name for the product of a fully connected layer that adds its bias afterwards.
WITHOUT_BIAS = "/WithoutBiases"


class LayerNames:
    """The layers of an ONNX graph, to be recognized in a runtime graph that was made of it."""

    def __init__(self, model: ir.Model) -> None:
        self._layer_of_weight: dict[str, str] = {}
        weights = [(_weight_name(node), node) for node in model.graph if is_layer(node)]
        uses = Counter(name for name, _ in weights)
        for name, node in weights:
            if uses[name] == 1:  # a weight that several layers share tells none of them
                self._layer_of_weight[name] = str(node.name)
        # OpenVINO calls a node by its ONNX name, or, as for Gemm, by the name of its output.
        self._node = {str(node.outputs[0].name): node for node in model.graph}
        self._node |= {str(node.name): node for node in model.graph}

    def of(self, node: Any) -> str | None:
        """The name of the layer that a node of the runtime graph computes, None if unknown."""
        for weight in node.input_values()[1:2]:
            for name in _names(_constant(weight.get_node())):
                if name in self._layer_of_weight:
                    return self._layer_of_weight[name]
        for name in _names(node):
            onnx_node = self._node.get(name.split(WITHOUT_BIAS)[0])
            if onnx_node is not None:
                layers = _layers_before(onnx_node)
                return layers.pop() if len(layers) == 1 else None
        return None


def node_info(node: Any) -> dict[str, str]:
    """What a runtime graph says of a node: `layerType`, `primitiveType`, `originalLayersNames`."""
    return {key: value.astype(str) for key, value in node.get_rt_info().items()}


def _names(node: Any) -> list[str]:
    """The names, before compilation, of all that a node computes, in order."""
    return node_info(node).get("originalLayersNames", "").split(",")


def _constant(node: Any) -> Any:
    """Where a weight comes from: what lies before its reorders, reshapes and transpositions."""
    while node_info(node).get("layerType") in WEIGHT_MOVERS:
        node = node.input_values()[0].get_node()
    return node


def _weight_name(layer: ir.Node) -> str:
    """The constant that a layer multiplies by, before DequantizeLinear and transpositions."""
    weight = operand(layer, weight_index(layer))
    while weight is not None and (producer := weight.producer()) is not None:
        if not producer.inputs:  # a Constant node
            break
        weight = producer.inputs[0]
    return str(weight.name) if weight is not None else ""


def _layers_before(node: ir.Node) -> set[str]:
    """The layer that a node is, or those whose floats reach it, over no other quantizer."""
    layers: set[str] = set()
    seen, stack = {node}, [node]
    while stack:
        node = stack.pop()
        if is_layer(node):
            layers.add(str(node.name))
            continue
        for producer in producers_of(node):
            if producer not in seen and producer.op_type != "DequantizeLinear":
                stack.append(producer)
            seen.add(producer)
    return layers
