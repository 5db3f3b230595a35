"""Maxima over the whole image as max pooling, which runtimes have integer kernels for.

``amax`` over height and width and adaptive max pooling to one value become ONNX's ReduceMax. ONNX
Runtime computes that in float, and OpenVINO 2026.4 fuses a quantizer after it wrongly (logits
were off by 78 steps of 8 bits). Max pooling with the image as its window moves integers in both.
"""

from __future__ import annotations

import torch
from torch import fx
from torch.nn import functional

from eqnet.capture.operators import (
    ADAPTIVE_MAX_POOL,
    MAXIMUM,
    arguments_of,
    module_of,
    operator_of,
    shape_of,
    source_of,
)


def pool_by_max(graph: fx.GraphModule) -> bool:
    """Write maxima over the image as ``max_pool2d``, in place; whether there were any.

    The shapes of the graph's nodes must be known; those of new nodes are not.
    """
    replaced = False
    for node in list(graph.graph.nodes):
        source = source_of(node)
        if source is None or len(shape_of(source)) != 4:
            continue
        keeps = _keeps_dimensions(graph, node)
        if keeps is not None:
            _replace(graph, node, list(shape_of(source)[2:]), keeps=keeps)
            replaced = True
    return replaced


def _keeps_dimensions(graph: fx.GraphModule, node: fx.Node) -> bool | None:
    """Whether a maximum over height and width keeps them as 1; None if it is no such maximum."""
    operator, module = operator_of(graph, node), module_of(graph, node)
    arguments = arguments_of(operator, node)
    if module is not None:
        arguments |= vars(module)
    if operator is ADAPTIVE_MAX_POOL:
        to_one_value = arguments.get("output_size") in (1, (1, 1), [1, 1])
        if to_one_value and not arguments.get("return_indices"):
            return True
        return None
    if operator is not MAXIMUM:
        return None
    dims = arguments.get("dim")
    if not isinstance(dims, tuple | list):
        dims = (dims,)
    if sorted(axis % 4 for axis in dims if isinstance(axis, int)) != [2, 3]:
        return None
    return bool(arguments.get("keepdim"))


def _replace(graph: fx.GraphModule, node: fx.Node, window: list[int], *, keeps: bool) -> None:
    source, meta = node.args[0], dict(node.meta)
    with graph.graph.inserting_before(node):
        pooled = graph.graph.call_function(functional.max_pool2d, (source, window))
        maximum = pooled
        if not keeps:
            maximum = graph.graph.call_function(torch.flatten, (pooled, 1))
    pooled.meta, maximum.meta = dict(meta), dict(meta)
    node.replace_all_uses_with(maximum)
    graph.graph.erase_node(node)
