"""Which values a tensor can take, from the graph alone: the analysis that signedness rests on."""

from __future__ import annotations

from typing import Any

from torch import fx

from eqnet.capture.intervals import ANY, Bounds, Call
from eqnet.capture.operators import arguments_of, module_of, operator_of


def bounds(graph: fx.GraphModule) -> dict[fx.Node, Bounds]:
    """The interval that holds each node's values, whatever the input."""
    limits: dict[fx.Node, Bounds] = {}

    def of(argument: Any) -> Bounds:
        if isinstance(argument, fx.Node) and _is_tensor(argument):
            return limits[argument]
        if isinstance(argument, int | float):
            return float(argument), float(argument)
        return ANY

    for node in graph.graph.nodes:
        operator = operator_of(graph, node)
        operands = tuple(limits[source] for source in node.all_input_nodes if _is_tensor(source))
        call = Call(module_of(graph, node), arguments_of(operator, node), operands, of)
        limits[node] = operator.bounds(call)
    return limits


def _is_tensor(node: fx.Node) -> bool:
    """Whether a node holds tensors, as shape propagation found; sizes have no bounds."""
    return "tensor_meta" in node.meta
