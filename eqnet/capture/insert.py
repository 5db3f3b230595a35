"""Putting elastic layers and quantizers, all switched off, into a canonical graph."""

from __future__ import annotations

import operator

from torch import fx, nn

from eqnet.capture.bounds import module_of
from eqnet.capture.readers import is_layer, layer_nodes, name_of
from eqnet.quant.layers import ElasticConv2d, ElasticConvTranspose2d, ElasticLayer, ElasticLinear
from eqnet.quant.quantizers import QUANTIZERS, ActivationQuantizer
from eqnet.subnets.network import NetworkInfo


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
            reader.replace_input_with(node, narrow if is_layer(graph, reader) else carrier)


def insert_layers(graph: fx.GraphModule) -> None:
    """Elastic layers in place of the float ones, with their parameters."""
    for node in layer_nodes(graph):
        graph.set_submodule(str(node.target), _elastic(module_of(graph, node)))


def _elastic(module: nn.Module | None) -> ElasticLayer:
    if isinstance(module, nn.Conv2d):
        return ElasticConv2d.from_float(module)
    if isinstance(module, nn.ConvTranspose2d):
        return ElasticConvTranspose2d.from_float(module)
    assert isinstance(module, nn.Linear)
    return ElasticLinear.from_float(module)
