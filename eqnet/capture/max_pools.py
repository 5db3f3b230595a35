"""Maxima over the whole image as max pooling, which runtimes have integer kernels for.

``amax`` over height and width and adaptive max pooling to one value become ONNX's ReduceMax. ONNX
Runtime computes that in float, and OpenVINO 2026.4 fuses a quantizer behind it wrongly (logits
were off by 78 steps of 8 bits). Max pooling with the image as its window moves integers in both.
"""

from __future__ import annotations

import torch
from torch import fx, nn
from torch.nn import functional

from eqnet.capture.bounds import function_of, module_of
from eqnet.capture.readers import shape_of


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
    module, given = module_of(graph, node), dict(node.kwargs)
    if isinstance(module, nn.AdaptiveMaxPool2d):
        plain = module.output_size in (1, (1, 1)) and not module.return_indices
        return True if plain else None
    names = {"amax": ("dim", "keepdim"), "adaptive_max_pool2d": ("output_size", "return_indices")}
    name = function_of(node) or ""
    if name not in names or node.op not in ("call_function", "call_method"):
        return None
    given |= dict(zip(names[name], node.args[1:], strict=False))
    if name == "adaptive_max_pool2d":
        plain = given.get("output_size") in (1, (1, 1), [1, 1]) and not given.get("return_indices")
        return True if plain else None
    dims = given.get("dim")
    axes = [axis % 4 for axis in (dims if isinstance(dims, tuple | list) else (dims,))
            if isinstance(axis, int)]  # fmt: skip
    return bool(given.get("keepdim")) if sorted(axes) == [2, 3] else None


def _replace(graph: fx.GraphModule, node: fx.Node, window: list[int], *, keeps: bool) -> None:
    source, meta = node.args[0], dict(node.meta)
    with graph.graph.inserting_before(node):
        pooled = graph.graph.call_function(functional.max_pool2d, (source, window))
        made = pooled if keeps else graph.graph.call_function(torch.flatten, (pooled, 1))
    pooled.meta, made.meta = dict(meta), dict(meta)
    node.replace_all_uses_with(made)
    graph.graph.erase_node(node)
