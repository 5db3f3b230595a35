"""SiLU (Swish) as what runtimes execute: a sigmoid, and its product with the input.

ONNX at the opsets that runtimes read has no SiLU, and integer runtimes have a sigmoid and a
product of integers. As two operations each can have a quantizer on its output.
"""

from __future__ import annotations

import operator

import torch
from torch import fx

from eqnet.capture.operators import SILU, arguments_of, operator_of


def split_swish(graph: fx.GraphModule) -> None:
    """Write every SiLU of a graph as ``x * sigmoid(x)``, in place; the product keeps its name.

    The float function stays the same up to rounding in the last place of float32.
    """
    for node in list(graph.graph.nodes):
        if operator_of(graph, node) is not SILU:
            continue
        source = arguments_of(SILU, node)["input"]
        with graph.graph.inserting_before(node):
            gate = graph.graph.create_node(
                "call_function", torch.sigmoid, (source,), name=f"{node.name}_gate"
            )
        gate.meta = dict(node.meta)
        node.op, node.target = "call_function", operator.mul
        node.args, node.kwargs = (source, gate), {}
