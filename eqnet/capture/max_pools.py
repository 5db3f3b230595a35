"""Maxima over the whole image as max pooling, which runtimes have integer kernels for.

``amax`` over height and width and adaptive max pooling to one value become ONNX's ReduceMax. ONNX
Runtime computes that in float, and OpenVINO 2026.4 fuses a quantizer behind it wrongly (logits
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
)


def pool_by_max(graph: fx.GraphModule) -> bool:
    """Write maxima over the image as ``max_pool2d``, in place; whether there were any.

    The shapes of the graph's nodes must be known; those of new nodes are not.
    """
    found = False
    for node in list(graph.graph.nodes):
        source = node.args[0] if node.args else None
        shape = shape_of(source) if isinstance(source, fx.Node) else ()
        keeps = _keeps_dimensions(graph, node) if len(shape) == 4 else None
        if keeps is not None:
            _replace(graph, node, list(shape[2:]), keeps=keeps)
            found = True
    return found


def _keeps_dimensions(graph: fx.GraphModule, node: fx.Node) -> bool | None:
    """Whether a maximum over height and width keeps them as 1; None if it is no such maximum."""
    operator = operator_of(graph, node)
    given = arguments_of(operator, node) | vars(module_of(graph, node) or object)
    if operator is ADAPTIVE_MAX_POOL:
        plain = given.get("output_size") in (1, (1, 1), [1, 1]) and not given.get("return_indices")
        return True if plain else None
    if operator is not MAXIMUM:
        return None
    dims = given.get("dim")
    sizes = dims if isinstance(dims, tuple | list) else (dims,)
    axes = sorted(axis % 4 for axis in sizes if isinstance(axis, int))
    return bool(given.get("keepdim")) if axes == [2, 3] else None


def _replace(graph: fx.GraphModule, node: fx.Node, window: list[int], *, keeps: bool) -> None:
    source, meta = node.args[0], dict(node.meta)
    with graph.graph.inserting_before(node):
        pooled = graph.graph.call_function(functional.max_pool2d, (source, window))
        made = pooled if keeps else graph.graph.call_function(torch.flatten, (pooled, 1))
    pooled.meta, made.meta = dict(meta), dict(meta)
    node.replace_all_uses_with(made)
    graph.graph.erase_node(node)
