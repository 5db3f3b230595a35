"""Capture: a float classifier becomes a graph with an elastic quantizer at every tensor.

The float function is unchanged until a subnet is applied. Batch norms stay in the graph, with
every gamma made non-negative, so that they can later be absorbed without touching an integer.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, fx, nn
from torch.fx.passes.shape_prop import ShapeProp

from eqnet.capture.bounds import bounds
from eqnet.capture.canonical import canonicalize
from eqnet.capture.insert import insert_layers, insert_quantizers
from eqnet.capture.max_pools import pool_by_max
from eqnet.capture.offsets import is_shiftable
from eqnet.capture.operators import (
    elements_of,
    module_of,
    shape_of,
)
from eqnet.capture.readers import Readers, batch_norms, is_layer, layer_nodes, name_of
from eqnet.capture.refusals import (
    refuse_complex,
    refuse_no_layers,
    refuse_other_inputs,
    refuse_other_outputs,
    refuse_reserved_name,
)
from eqnet.capture.source_lines import first_line
from eqnet.capture.trace import trace
from eqnet.capture.tracer import LINE
from eqnet.quant.functional import along
from eqnet.quant.layers import BatchNorm, FloatLayer
from eqnet.quant.quantizers import QUANTIZERS
from eqnet.spec.errors import CaptureError
from eqnet.spec.network import LayerGroup, LayerInfo, NetworkInfo, TensorInfo

__all__ = ["capture", "check_same_function"]


def capture(
    model: nn.Module, input_shape: tuple[int, int, int]
) -> tuple[fx.GraphModule, NetworkInfo]:
    """Trace `model` and insert elastic layers and quantizers, all switched off.

    model: a float classifier from [N, C, H, W] to [N, K]; its parameters are taken over.
    input_shape: (C, H, W). Returns the graph and what is known of it.
    Raises CaptureError naming the operation and the line when the model cannot be captured.
    """
    graph = trace(model.eval(), input_shape)
    refuse_reserved_name(graph, QUANTIZERS)
    refuse_other_inputs(graph)
    canonicalize(graph)
    _propagate_shapes(graph, input_shape)
    if pool_by_max(graph):
        _propagate_shapes(graph, input_shape)
    refuse_other_outputs(graph)
    refuse_complex(graph)
    refuse_no_layers(layer_nodes(graph))
    norms = batch_norms(graph)
    for layer, norm in norms.items():
        _make_gamma_non_negative(graph.get_submodule(layer), graph.get_submodule(norm))
    readers = Readers(graph)
    tensors = readers.tensors()
    info = _describe(graph, readers, tensors, norms, input_shape)
    insert_quantizers(graph, tensors, info)
    insert_layers(graph)
    for node in graph.graph.nodes:
        node.meta.pop(LINE, None)
    graph.delete_all_unused_submodules()
    graph.recompile()
    return graph, info


def _propagate_shapes(graph: fx.GraphModule, input_shape: tuple[int, int, int]) -> None:
    try:
        with torch.no_grad():
            ShapeProp(graph).propagate(torch.zeros(1, *input_shape))
    except Exception as error:  # what the model's own operations refuse
        raise CaptureError(
            f"the model does not accept an input of shape {list(input_shape)}: {first_line(error)}"
        ) from error


@torch.no_grad()
def _make_gamma_non_negative(layer: nn.Module, norm: nn.Module) -> None:
    """Flip channels with a negative gamma: weight, own bias and running mean change sign."""
    assert isinstance(layer, FloatLayer)
    assert isinstance(norm, BatchNorm)
    if norm.weight is None or norm.running_mean is None:
        return
    sign = torch.where(norm.weight < 0, -1.0, 1.0)
    axis = 0
    if isinstance(layer, nn.ConvTranspose2d) and layer.groups == 1:
        axis = 1
    layer.weight.mul_(sign.view(along(axis, layer.weight.dim())))
    if layer.bias is not None:
        layer.bias.mul_(sign)
    norm.running_mean.mul_(sign)
    norm.weight.mul_(sign)


def _describe(
    graph: fx.GraphModule,
    readers: Readers,
    tensors: list[fx.Node],
    norms: dict[str, str],
    input_shape: tuple[int, int, int],
) -> NetworkInfo:
    limits = bounds(graph)
    absorbed, beside = readers.sums()
    layers = tuple(_layer(graph, readers, node, norms) for node in layer_nodes(graph))
    described = []
    for node in tensors:
        low, high = limits[node]
        upper = None
        if low >= 0 and high < math.inf:
            upper = high
        read_by = tuple(str(user.target) for user in node.users if is_layer(graph, user))
        described.append(
            TensorInfo(
                name=name_of(node),
                elements=elements_of(node),
                non_negative=low >= 0,
                upper=upper,
                layers=read_by,
                readers=tuple(sorted(readers.groups(node))),
                added_by_conv=node in absorbed,
                added_to_convs=beside.get(node, ()),
                float_read_conv=readers.ended_conv(node),
                made_by_convs=readers.read_convs(node),
                shiftable=low >= 0 and is_shiftable(graph, node),
            )
        )
    logits = graph.graph.output_node().args[0]
    assert isinstance(logits, fx.Node)
    return NetworkInfo(input_shape, shape_of(logits)[1], layers, tuple(described))


def _layer(
    graph: fx.GraphModule, readers: Readers, node: fx.Node, norms: dict[str, str]
) -> LayerInfo:
    module, source = module_of(graph, node), node.args[0]
    assert isinstance(module, FloatLayer)
    assert isinstance(source, fx.Node)
    group: LayerGroup = "linear"
    # A multiply-add for each element that is written and each weight that it takes ...
    macs = elements_of(node) * module.weight[0].numel()
    if isinstance(module, nn.Conv2d):
        depthwise = module.groups == module.in_channels and module.groups > 1
        group = "depthwise_conv" if depthwise else "conv"
    elif isinstance(module, nn.ConvTranspose2d):
        # ... or, where convolution is transposed, that is read and each weight that it goes to.
        group, macs = "conv_transpose", elements_of(source) * module.weight[0].numel()
    channel_axis = -1 if group == "linear" else 1
    return LayerInfo(
        name=str(node.target),
        group=group,
        input=name_of(source),
        weights=module.weight.numel(),
        out_channels=shape_of(node)[channel_axis],
        macs=macs,
        batch_norm=norms.get(str(node.target)),
        activated="activation" in readers.groups(_end(node, norms)),
    )


def _end(node: fx.Node, norms: dict[str, str]) -> fx.Node:
    """The node whose value is a layer's output, with its batch norm."""
    if str(node.target) not in norms:
        return node
    (norm,) = node.users
    return norm


def check_same_function(model: nn.Module, graph: nn.Module, images: Tensor) -> float:
    """Largest difference of the logits of the original and of the captured float model.

    images: [N, C, H, W], unchanged even by a model that writes into its input.
    """
    with torch.no_grad():
        return float((model.eval()(images.clone()) - graph.eval()(images.clone())).abs().max())
