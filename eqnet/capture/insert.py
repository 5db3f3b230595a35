"""Putting elastic layers and quantizers, all switched off, into a canonical graph."""

from __future__ import annotations

import operator
from typing import Any, cast

from torch import fx, nn

from eqnet.capture.operators import module_of, operator_of
from eqnet.capture.readers import is_layer, layer_nodes, name_of
from eqnet.quant.quantizers import QUANTIZERS, ActivationQuantizer
from eqnet.spec.network import NetworkInfo


def insert_quantizers(graph: fx.GraphModule, nodes: list[fx.Node], info: NetworkInfo) -> None:
    """One quantizer for each of `nodes`: layers read its narrow form, all others its carrier."""
    graph.add_module(QUANTIZERS, nn.ModuleDict())
    quantizers = graph.get_submodule(QUANTIZERS)
    assert isinstance(quantizers, nn.ModuleDict)
    for node in nodes:
        tensor = info.tensor(name_of(node))
        quantizers[tensor.name] = ActivationQuantizer(tensor.non_negative, tensor.upper)
        readers = list(node.users)
        with graph.graph.inserting_after(node):
            pair = graph.graph.call_module(f"{QUANTIZERS}.{tensor.name}", (node,))
        with graph.graph.inserting_after(pair):
            narrow = graph.graph.call_function(operator.getitem, (pair, 1))
            carrier = graph.graph.call_function(operator.getitem, (pair, 0))
        for reader in readers:
            form = narrow if is_layer(graph, reader) else carrier
            reader.replace_input_with(node, form)


def insert_layers(graph: fx.GraphModule) -> None:
    """Elastic layers in place of the float ones, with their parameters."""
    for node in layer_nodes(graph):
        elastic, module = operator_of(graph, node).layer, module_of(graph, node)
        assert elastic is not None
        graph.set_submodule(str(node.target), elastic.from_float(cast(Any, module)))
