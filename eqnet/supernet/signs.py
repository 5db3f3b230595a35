"""Which values a tensor can take, from the graph alone: the sign analysis behind signedness."""

from __future__ import annotations

import math

from torch import fx, nn

Bounds = tuple[float, float]
ANY: Bounds = (-math.inf, math.inf)
POSITIVE: Bounds = (0.0, math.inf)
UNIT: Bounds = (0.0, 1.0)

ACTIVATIONS: dict[str, Bounds] = {
    "relu": POSITIVE, "relu_": POSITIVE, "relu6": (0.0, 6.0), "sigmoid": UNIT, "softmax": UNIT,
    "hardsigmoid": UNIT, "abs": POSITIVE,
    "ReLU": POSITIVE, "ReLU6": (0.0, 6.0), "Sigmoid": UNIT, "Softmax": UNIT, "Hardsigmoid": UNIT,
}  # fmt: skip
KEEPERS = {
    "flatten", "reshape", "view", "max_pool2d", "dropout", "contiguous", "squeeze", "mean",
    "avg_pool2d", "adaptive_avg_pool2d", "boolean_dispatch", "chunk", "split", "getitem",
    "transpose", "permute", "cat", "concat",
    "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "Flatten", "Dropout", "Identity",
}  # fmt: skip
SUMS = {"add", "iadd", "add_"}
PRODUCTS = {"mul", "imul", "mul_"}


def module_of(graph: fx.GraphModule, node: fx.Node) -> nn.Module | None:
    """The module that a node calls, or None."""
    return graph.get_submodule(str(node.target)) if node.op == "call_module" else None


def function_of(node: fx.Node) -> str | None:
    """The plain name of the function or method that a node calls, or None."""
    if node.op == "call_method":
        return str(node.target)
    if node.op == "call_function":
        return str(getattr(node.target, "__name__", node.target))
    return None


def bounds(graph: fx.GraphModule) -> dict[fx.Node, Bounds]:
    """The interval that holds each node's values, whatever the input."""
    found: dict[fx.Node, Bounds] = {}
    for node in graph.graph.nodes:
        module = module_of(graph, node)
        kind = type(module).__name__ if module is not None else function_of(node) or ""
        inputs = [found[source] for source in node.all_input_nodes if _is_tensor(source)]
        found[node] = ANY if "alpha" in node.kwargs else _of(kind, module, inputs)
    return found


def _is_tensor(node: fx.Node) -> bool:
    """Whether a node holds tensors, as shape propagation found; sizes have no bounds."""
    return "tensor_meta" in node.meta


def _of(kind: str, module: nn.Module | None, inputs: list[Bounds]) -> Bounds:
    if isinstance(module, nn.Hardtanh) and not isinstance(module, nn.ReLU6):
        return (float(module.min_val), float(module.max_val))
    if kind in ACTIVATIONS:
        return ACTIVATIONS[kind]
    if kind in KEEPERS and inputs:
        return (min(low for low, _ in inputs), max(high for _, high in inputs))
    if kind in SUMS and len(inputs) == 2:
        return (inputs[0][0] + inputs[1][0], inputs[0][1] + inputs[1][1])
    if kind in PRODUCTS and len(inputs) == 2 and min(low for low, _ in inputs) >= 0:
        return (0.0, inputs[0][1] * inputs[1][1] if inputs[0][1] and inputs[1][1] else math.inf)
    return ANY
