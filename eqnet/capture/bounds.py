"""Which values a tensor can take, from the graph alone: the sign analysis behind signedness."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import fx, nn

Bounds = tuple[float, float]
ANY: Bounds = (-math.inf, math.inf)
POSITIVE: Bounds = (0.0, math.inf)
UNIT: Bounds = (0.0, 1.0)

# What an activation gives, whatever it gets.
FIXED: dict[str, Bounds] = {
    "sigmoid": UNIT, "softmax": UNIT, "hardsigmoid": UNIT, "tanh": (-1.0, 1.0),
    "Sigmoid": UNIT, "Softmax": UNIT, "Hardsigmoid": UNIT, "Softmax2d": UNIT, "Tanh": (-1.0, 1.0),
    "relu6": (0.0, 6.0), "ReLU6": (0.0, 6.0),
    "exp": POSITIVE, "square": POSITIVE, "softplus": POSITIVE, "Softplus": POSITIVE,
    "sqrt": POSITIVE, "rsqrt": POSITIVE, "norm": POSITIVE, "var": POSITIVE, "std": POSITIVE,
}  # fmt: skip
# The least value of an activation that keeps the sign of what is not negative.
LEAST: dict[str, float] = {
    "relu": 0.0, "ReLU": 0.0, "silu": -0.2785, "SiLU": -0.2785,
    "hardswish": -0.375, "Hardswish": -0.375,
    "gelu": -0.1701, "GELU": -0.1701, "mish": -0.3089, "Mish": -0.3089,
}  # fmt: skip
KEEPERS = {
    "flatten", "reshape", "view", "max_pool2d", "dropout", "contiguous", "squeeze", "mean",
    "avg_pool2d", "adaptive_avg_pool2d", "boolean_dispatch", "chunk", "split", "getitem",
    "transpose", "permute", "cat", "concat", "stack", "unsqueeze", "expand", "repeat", "clone",
    "to", "float", "detach", "narrow", "select", "unbind", "roll", "flip", "pixel_shuffle",
    "pixel_unshuffle", "channel_shuffle", "reshape_as", "view_as", "expand_as", "amax", "amin",
    "maximum", "minimum", "adaptive_max_pool2d", "split_with_sizes", "tensor_split",
    "movedim", "swapaxes", "t", "type_as", "unflatten", "index_select", "repeat_interleave",
    "MaxPool2d", "AvgPool2d", "AdaptiveAvgPool2d", "AdaptiveMaxPool2d", "Flatten", "Dropout",
    "Dropout2d", "Identity", "PixelShuffle", "PixelUnshuffle", "ChannelShuffle", "Unflatten",
    "UpsamplingNearest2d", "UpsamplingBilinear2d",
}  # fmt: skip
CLIPS: dict[str, tuple[str, ...]] = {
    "hardtanh": ("min_val", "max_val"), "clamp": ("min", "max"), "clip": ("min", "max"),
    "clamp_min": ("min",), "clamp_max": ("max",),
}  # fmt: skip
KEEPING_MODES = ("nearest", "nearest-exact", "bilinear", "area")
LIBRARIES = {"torch", "_operator", "math", "builtins"}


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
        unknown = "alpha" in node.kwargs or _is_users(node)
        found[node] = ANY if unknown else _of(kind, module, node, inputs, found)
    return found


def _is_users(node: fx.Node) -> bool:
    """Whether a node calls a function of the model's own, whose name says nothing."""
    home = getattr(node.target, "__module__", None) or "torch"
    return node.op == "call_function" and home.split(".")[0] not in LIBRARIES


def _is_tensor(node: fx.Node) -> bool:
    """Whether a node holds tensors, as shape propagation found; sizes have no bounds."""
    return "tensor_meta" in node.meta


def _of(
    kind: str,
    module: nn.Module | None,
    node: fx.Node,
    inputs: list[Bounds],
    found: dict[fx.Node, Bounds],
) -> Bounds:
    if kind in FIXED:
        return FIXED[kind]
    if kind in ARITHMETIC and len(node.args) == 2:
        return ARITHMETIC[kind](*(_operand(item, found) for item in node.args))
    if not inputs:
        return ANY
    low, high = min(low for low, _ in inputs), max(high for _, high in inputs)
    if kind in KEEPERS:
        return low, high
    if kind in LEAST:
        return max(LEAST[kind], min(low, 0.0)) if low < 0 else _shrunk(kind, low), max(high, 0.0)
    limits = _clip(kind, module, node)
    if limits is not None:
        return min(max(low, limits[0]), limits[1]), max(min(high, limits[1]), limits[0])
    return _other(kind, module, node, (low, high))


def _shrunk(kind: str, low: float) -> float:
    """A lower bound of what is not negative: only ReLU leaves it as it is."""
    return low if kind in ("relu", "ReLU") else 0.0


def _clip(kind: str, module: nn.Module | None, node: fx.Node) -> Bounds | None:
    """The limits of an operation that clips, or None."""
    if isinstance(module, nn.Hardtanh):
        return float(module.min_val), float(module.max_val)
    if kind not in CLIPS:
        return None
    names = CLIPS[kind]
    given = dict(zip(names, node.args[1:], strict=False)) | dict(node.kwargs)
    default = (-1.0, 1.0) if kind == "hardtanh" else ANY
    low, high = given.get("min_val", given.get("min")), given.get("max_val", given.get("max"))
    if any(isinstance(item, fx.Node) for item in (low, high)):
        return None
    return (
        default[0] if low is None else float(low),  # type: ignore[arg-type]  # a number
        default[1] if high is None else float(high),  # type: ignore[arg-type]  # a number
    )


def _other(kind: str, module: nn.Module | None, node: fx.Node, given: Bounds) -> Bounds:
    low, high = given
    if kind in ("abs", "absolute"):
        return max(0.0, low, -high), max(abs(low), abs(high))
    if kind == "pow" and len(node.args) > 1 and node.args[1] in (2, 2.0, 4, 4.0):
        return POSITIVE
    if kind in ("pad", "ConstantPad2d", "ZeroPad2d"):
        value = _pad_value(module, node)
        return ANY if value is None else (min(low, value), max(high, value))
    if kind in ("interpolate", "Upsample"):
        own = module.mode if isinstance(module, nn.Upsample) else None
        return given if (own or node.kwargs.get("mode", "nearest")) in KEEPING_MODES else ANY
    if kind == "sum":
        return POSITIVE if low >= 0 else ANY
    return ANY


def _pad_value(module: nn.Module | None, node: fx.Node) -> float | None:
    """The constant that a padding brings in (0 where it repeats values), None if unknown."""
    if isinstance(module, nn.ConstantPad2d):
        return float(module.value)
    value = node.kwargs.get("value", node.args[3] if len(node.args) > 3 else None)
    return None if isinstance(value, fx.Node) else float(value or 0.0)  # type: ignore[arg-type]  # a number


def _operand(item: Any, found: dict[fx.Node, Bounds]) -> Bounds:
    if isinstance(item, fx.Node):
        return found[item] if _is_tensor(item) else ANY
    return (float(item), float(item)) if isinstance(item, (int, float)) else ANY


def _sum(first: Bounds, second: Bounds) -> Bounds:
    return first[0] + second[0], first[1] + second[1]


def _difference(first: Bounds, second: Bounds) -> Bounds:
    return first[0] - second[1], first[1] - second[0]


def _product(first: Bounds, second: Bounds) -> Bounds:
    if min(first[0], second[0]) < 0:
        return ANY
    low = first[0] * second[0] if math.inf not in (first[0], second[0]) else 0.0
    high = first[1] * second[1] if first[1] and second[1] else math.inf
    return low, high


def _quotient(first: Bounds, second: Bounds) -> Bounds:
    return POSITIVE if first[0] >= 0 and second[0] >= 0 else ANY


ARITHMETIC: dict[str, Callable[[Bounds, Bounds], Bounds]] = {
    "add": _sum,
    "sub": _difference,
    "mul": _product,
    **dict.fromkeys(("div", "truediv", "true_divide"), _quotient),
}
