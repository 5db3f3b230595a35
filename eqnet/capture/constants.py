"""Values of a graph that follow from parameters alone, such as a standardized weight."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn


class Constants:
    """Which nodes of a graph no image reaches, and what they are worth now."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self._graph = graph
        self._fixed: dict[fx.Node, bool] = {}
        for node in graph.graph.nodes:
            self._fixed[node] = self._is_fixed(node)
        self._values: dict[fx.Node, Any] = {}

    def _is_fixed(self, node: fx.Node) -> bool:
        """Whether no image reaches a node; of those that it reads this is known."""
        if node.op == "get_attr":
            return True
        sources = node.all_input_nodes
        if node.op in ("placeholder", "output") or not sources:
            return False
        return all(self._fixed[source] for source in sources)

    def __contains__(self, node: object) -> bool:
        """Whether an argument of a node is the same for all images: plain values are."""
        return not isinstance(node, fx.Node) or self._fixed.get(node, False)

    @torch.no_grad()
    def value(self, node: Any) -> Any:
        """The value of a constant node; a parameter stays the very parameter."""
        if not isinstance(node, fx.Node):
            return node
        if node not in self._values:
            self._values[node] = self._compute(node)
        return self._values[node]

    def _compute(self, node: fx.Node) -> Any:
        if node.op == "get_attr":
            return attribute(self._graph, str(node.target))
        args = fx.node.map_arg(node.args, self.value)
        kwargs = fx.node.map_arg(node.kwargs, self.value)
        if node.op == "call_function":
            return node.target(*args, **kwargs)  # type: ignore[operator]  # a function
        if node.op == "call_method":
            return getattr(args[0], str(node.target))(*args[1:], **kwargs)
        return self._graph.get_submodule(str(node.target))(*args, **kwargs)

    def parameter(self, node: Any) -> nn.Parameter | None:
        """A constant as a layer's parameter: the model's own one, or a computed one."""
        value = self.value(node)
        if value is None or isinstance(value, nn.Parameter):
            return value
        return nn.Parameter(value.detach().float().clone())

    def origin(self, node: Any) -> str | None:
        """The first attribute of the model that a constant is made of."""
        if not isinstance(node, fx.Node):
            return None
        if node.op == "get_attr":
            return str(node.target)
        for source in node.all_input_nodes:
            origin = self.origin(source)
            if origin is not None:
                return origin
        return None


def attribute(graph: nn.Module, path: str) -> Any:
    """The attribute at a dotted path."""
    owner, _, name = path.rpartition(".")
    return getattr(graph.get_submodule(owner), name)
