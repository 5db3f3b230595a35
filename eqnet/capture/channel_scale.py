"""A constant for each channel, multiplied into a captured graph where no layer could take it."""

from __future__ import annotations

import torch
from torch import Tensor, fx, nn

CHANNEL_SCALES = "channel_scales"  # the submodule of a captured graph that holds them
# What the names of scales before and after a node begin with, also in checkpoints.
BEFORE, AFTER = "before_", "behind_"


class ChannelScale(nn.Module):
    """Multiplies by `factors`, float32 of a shape that broadcasts, such as [C, 1, 1]."""

    factors: Tensor

    def __init__(self, factors: Tensor) -> None:
        super().__init__()
        self.register_buffer("factors", factors)

    def forward(self, x: Tensor) -> Tensor:
        """The product, of the shape of x."""
        return x * self.factors


def scale_before(graph: fx.GraphModule, node: fx.Node, source: fx.Node, factors: Tensor) -> None:
    """Multiply what `node` reads from `source`, in place. Recompile when all are in."""
    assert source in node.all_input_nodes
    with graph.graph.inserting_before(node):
        product = _insert(graph, f"{BEFORE}{node.name}", source, factors, node)
    node.replace_input_with(source, product)


def scale_after(graph: fx.GraphModule, node: fx.Node, factors: Tensor) -> None:
    """Multiply a node's value for all that read it, in place. Recompile when all are in."""
    readers = list(node.users)
    with graph.graph.inserting_after(node):
        product = _insert(graph, f"{AFTER}{node.name}", node, factors, node)
    for reader in readers:
        reader.replace_input_with(node, product)


def _insert(
    graph: fx.GraphModule, name: str, source: fx.Node, factors: Tensor, like: fx.Node
) -> fx.Node:
    """A product of the shape of the node `like`."""
    if not hasattr(graph, CHANNEL_SCALES):
        graph.add_module(CHANNEL_SCALES, nn.ModuleDict())
    scales = graph.get_submodule(CHANNEL_SCALES)
    assert isinstance(scales, nn.ModuleDict)
    scales[name] = ChannelScale(factors)
    product = graph.graph.create_node(
        "call_module", f"{CHANNEL_SCALES}.{name}", (source,), name=f"scale_{name}"
    )
    product.meta = dict(like.meta)
    return product


def expect_channel_scales(graph: fx.GraphModule, tensors: dict[str, Tensor]) -> None:
    """Insert, with factors of 1, the scales that the names of a checkpoint's tensors tell of.

    What fits no node is left: the graph then lacks that tensor.
    """
    nodes = {node.name: node for node in graph.graph.nodes}
    for key in sorted(tensors):
        if not key.startswith(f"{CHANNEL_SCALES}."):
            continue
        name, ones = key.split(".")[1], torch.ones_like(tensors[key])
        node = nodes.get(name.removeprefix(BEFORE).removeprefix(AFTER))
        if node is None or not _multiplies(ones, node):
            continue
        if name.startswith(BEFORE):
            scale_before(graph, node, node.all_input_nodes[0], ones)
        elif name.startswith(AFTER):
            scale_after(graph, node, ones)
    graph.recompile()


def _multiplies(factors: Tensor, node: fx.Node) -> bool:
    """Whether a product of a node's value with `factors` has the value's shape.

    Functions whose input is multiplied have the shape of what they read.
    """
    meta = node.meta.get("tensor_meta")
    if meta is None or node.op in ("placeholder", "output") or not node.all_input_nodes:
        return False
    try:
        return bool(torch.broadcast_shapes(meta.shape, factors.shape) == meta.shape)
    except RuntimeError:
        return False
