"""Functional convolutions, linear maps and batch norms become modules, wherever that is exact.

Their weights are parameters, buffers, or computed from such (weight standardization): a computed
weight is evaluated once, as it is in evaluation mode. A weight that the images decide keeps the
operation as it is, in float.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import torch
from torch import fx, nn

from eqnet.capture.constants import Constants
from eqnet.capture.operators import (
    ADDMM,
    BATCH_NORM,
    CONV,
    CONV_TRANSPOSE,
    LINEAR,
    MATMUL,
    Operator,
    arguments_of,
    operator_of,
)
from eqnet.capture.tracer import PROBES
from eqnet.quant.layers import BatchNorm

Arguments = dict[str, Any]
# The arguments that a layer's or norm's values come from, in the order in which one is looked for.
ORIGINS = ("weight", "other", "running_mean")
# `block.conv.weight`, and what weight normalization and parametrizations make of it.
OWN_WEIGHT = re.compile(
    r"^(?:(.+)\.)?(?:weight(?:_v|_g|_orig)?|running_mean|parametrizations\.weight\..+)$"
)


def add_modules(graph: fx.GraphModule) -> None:
    """Replace functional layers by modules; node.meta must hold PROBES. The function stays."""
    constants = Constants(graph)
    made: list[tuple[fx.Node, str]] = []
    for node in list(graph.graph.nodes):
        found = _module(graph, node, constants)
        if found is None:
            continue
        module, source, origin = found
        name = graph.graph._target_to_str(f"functional_{len(made)}")
        graph.add_submodule(name, module.train(graph.training))
        with graph.graph.inserting_before(node):
            label = _home(origin, node).replace(".", "_")
            call = graph.graph.create_node("call_module", name, (source,), name=label)
        call.meta.update(node.meta)
        node.replace_all_uses_with(call)
        graph.graph.erase_node(node)
        made.append((call, _home(origin, node)))
    graph.graph.eliminate_dead_code()
    for call, home in made:
        _move(graph, call, home)
    graph.delete_all_unused_submodules()


def _module(
    graph: fx.GraphModule, node: fx.Node, constants: Constants
) -> tuple[nn.Module, fx.Node, str | None] | None:
    """The module that does what `node` does, the node that it reads, and its weight's name."""
    if node in constants or node.op not in ("call_function", "call_method"):
        return None
    operator = operator_of(graph, node)
    builder = BUILDERS.get(operator)
    if builder is None:
        return None
    given = arguments_of(operator, node)
    source = given.pop("input", None)
    if not isinstance(source, fx.Node) or any(
        value not in constants for item in given.values() for value in _flat(item)
    ):
        return None
    module = builder(given, source, constants)
    weight = next((given[name] for name in ORIGINS if name in given), None)
    return None if module is None else (module, source, constants.origin(weight))


def _flat(item: Any) -> list[Any]:
    return [value for part in item for value in _flat(part)] if isinstance(item, tuple) else [item]


def _rank(node: fx.Node) -> int:
    return int(node.meta[PROBES][0].dim()) if PROBES in node.meta else 0


def _conv(given: Arguments, source: fx.Node, constants: Constants) -> nn.Module | None:
    weight, bias = (constants.parameter(given.get(name)) for name in ("weight", "bias"))
    if weight is None or weight.dim() != 4 or _rank(source) != 4:
        return None
    groups = given.get("groups", 1)
    conv = nn.Conv2d(
        weight.shape[1] * groups, weight.shape[0], tuple(weight.shape[2:]),  # type: ignore[arg-type]  # two sizes
        _pair(given.get("stride", 1)), _padding(given.get("padding", 0)),
        _pair(given.get("dilation", 1)), groups, bias is not None, device="meta",
    )  # fmt: skip
    conv.weight, conv.bias = weight, bias
    return conv


def _conv_transpose(given: Arguments, source: fx.Node, constants: Constants) -> nn.Module | None:
    weight, bias = (constants.parameter(given.get(name)) for name in ("weight", "bias"))
    if weight is None or weight.dim() != 4 or _rank(source) != 4:
        return None
    groups = given.get("groups", 1)
    conv = nn.ConvTranspose2d(
        weight.shape[0], weight.shape[1] * groups, tuple(weight.shape[2:]),  # type: ignore[arg-type]  # two sizes
        _pair(given.get("stride", 1)), _pair(given.get("padding", 0)),
        _pair(given.get("output_padding", 0)), groups, bias is not None,
        _pair(given.get("dilation", 1)), device="meta",
    )  # fmt: skip
    conv.weight, conv.bias = weight, bias
    return conv


def _linear(given: Arguments, source: fx.Node, constants: Constants) -> nn.Module | None:
    weight, bias = (constants.parameter(given.get(name)) for name in ("weight", "bias"))
    if weight is None or weight.dim() != 2 or (bias is not None and bias.dim() != 1):
        return None
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = weight
    linear.bias = bias  # type: ignore[assignment]  # a linear layer may lack it
    return linear


def _matmul(given: Arguments, source: fx.Node, constants: Constants) -> nn.Module | None:
    weight = constants.value(given.get("other"))
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2 or _rank(source) < 2:
        return None
    linear = nn.Linear(weight.shape[0], weight.shape[1], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach().float().t().contiguous())
    return linear


def _linear_of_transposed(
    given: Arguments, source: fx.Node, constants: Constants
) -> nn.Module | None:
    """``addmm(bias, x, weight)`` with a weight [I, O]."""
    weight, bias = (constants.value(given.get(name)) for name in ("other", "bias"))
    usual = isinstance(weight, torch.Tensor) and isinstance(bias, torch.Tensor)
    if not usual or bias.dim() != 1 or given.get("beta", 1) != 1 or given.get("alpha", 1) != 1:
        return None
    linear = _matmul({"other": weight}, source, constants)
    assert isinstance(linear, nn.Linear)
    # One number serves all outputs, as a sum would spread it.
    linear.bias = nn.Parameter(bias.detach().float().expand(linear.out_features).clone())
    return linear


def _batch_norm(given: Arguments, source: fx.Node, constants: Constants) -> nn.Module | None:
    mean, variance = (constants.value(given.get(n)) for n in ("running_mean", "running_var"))
    kind = nn.BatchNorm2d if _rank(source) == 4 else nn.BatchNorm1d
    if mean is None or variance is None or given.get("training") or _rank(source) not in (2, 3, 4):
        return None
    scale, shift = (constants.parameter(given.get(name)) for name in ("weight", "bias"))
    affine = scale is not None or shift is not None
    momentum = given.get("momentum", 0.1)
    norm = kind(mean.numel(), given.get("eps", 1e-5), momentum, affine)
    norm.running_mean, norm.running_var = mean.detach().clone(), variance.detach().clone()
    if affine:
        norm.weight = nn.Parameter(torch.ones_like(mean)) if scale is None else scale
        norm.bias = nn.Parameter(torch.zeros_like(mean)) if shift is None else shift
    return norm


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    return (value[0], value[0]) if len(value) == 1 else (value[0], value[1])


def _padding(value: Any) -> Any:
    return value if isinstance(value, str) else _pair(value)


BUILDERS: dict[Operator, Callable[[Arguments, fx.Node, Constants], nn.Module | None]] = {
    CONV: _conv,
    CONV_TRANSPOSE: _conv_transpose,
    LINEAR: _linear,
    BATCH_NORM: _batch_norm,
    MATMUL: _matmul,
    ADDMM: _linear_of_transposed,
}


def _home(origin: str | None, node: fx.Node) -> str:
    """Where the module of a functional layer belongs: beside its weight's name."""
    usual = OWN_WEIGHT.match(origin or "")
    if usual:
        return usual.group(1) or node.name
    owner, _, name = (origin or "").rpartition(".")
    stem = name.removesuffix("_weight")
    if not stem or stem.startswith("_tensor_constant"):
        return node.name
    home = stem if stem != name else f"{name}_layer"
    return f"{owner}.{home}" if owner else home


def _move(graph: fx.GraphModule, call: fx.Node, home: str) -> None:
    """Give the module of `call` the name `home`, or the next one that nothing else uses."""
    module = graph.get_submodule(str(call.target))
    nodes = [node for node in graph.graph.nodes if node is not call]
    taken = {str(node.target) for node in nodes if node.op in ("call_module", "get_attr")}

    def is_taken(name: str) -> bool:
        return name in taken or any(target.startswith(f"{name}.") for target in taken)

    if is_taken(home) and home not in taken:
        home += ".norm" if isinstance(module, BatchNorm) else ".layer"
    name, number = home, 1
    while is_taken(name):
        number += 1
        name = f"{home}_{number}"
    graph.add_submodule(name, module)
    call.target = name
