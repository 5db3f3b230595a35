"""What capture refuses: weights that several calls share, and a name that it needs itself."""

from __future__ import annotations

from torch import fx, nn

from eqnet.spec.errors import CaptureError
from eqnet.supernet.signs import function_of, module_of


def refuse_reserved_name(graph: fx.GraphModule, name: str) -> None:
    """The model uses no attribute of the name that the quantizers get. Raises CaptureError."""
    if hasattr(graph, name):
        raise CaptureError(f"the model has an attribute '{name}' (allowed: any other name)")


def refuse_shared_layers(graph: fx.GraphModule, kinds: tuple[type[nn.Module], ...]) -> None:
    """Every layer of `kinds` is a module that is called once. Raises CaptureError."""
    seen: set[str] = set()
    for node in graph.graph.nodes:
        if node.op == "call_function" and function_of(node) in ("conv2d", "linear"):
            raise CaptureError(
                f"operation '{node.name}': functional {function_of(node)} holds its weight outside "
                "a module (allowed: nn.Conv2d and nn.Linear)"
            )
    for node in graph.graph.nodes:
        if not isinstance(module_of(graph, node), kinds):
            continue
        if str(node.target) in seen:
            raise CaptureError(
                f"layer '{node.target}' is called more than once (allowed: one call a layer)"
            )
        seen.add(str(node.target))
    if not seen:
        raise CaptureError("the model has no nn.Conv2d or nn.Linear to quantize")


def refuse_shared_norms(graph: fx.GraphModule, norms: set[str]) -> None:
    """A batch norm after two convolutions cannot be absorbed into both. Raises CaptureError."""
    nodes = [node for node in graph.graph.nodes if node.op == "call_module"]
    calls = [str(node.target) for node in nodes if str(node.target) in norms]
    for name in calls:
        if calls.count(name) > 1:
            raise CaptureError(
                f"batch norm '{name}' is called more than once (allowed: one call a batch norm)"
            )
