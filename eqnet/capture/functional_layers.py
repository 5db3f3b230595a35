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
    homes: list[tuple[fx.Node, str]] = []
    for node in list(graph.graph.nodes):
        layer = _module(graph, node, constants)
        if layer is None:
            continue
        module, source, origin = layer
        name = graph.graph._target_to_str(f"functional_{len(homes)}")
        graph.add_submodule(name, module.train(graph.training))
        with graph.graph.inserting_before(node):
            label = _home(origin, node).replace(".", "_")
            call = graph.graph.create_node("call_module", name, (source,), name=label)
        call.meta.update(node.meta)
        node.replace_all_uses_with(call)
        graph.graph.erase_node(node)
        homes.append((call, _home(origin, node)))
    graph.graph.eliminate_dead_code()
    for call, home in homes:
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
    arguments = arguments_of(operator, node)
    source = arguments.pop("input", None)
    values = _flat(tuple(arguments.values()))
    if not isinstance(source, fx.Node) or not all(value in constants for value in values):
        return None
    module = builder(arguments, source, constants)
    if module is None:
        return None
    return module, source, constants.origin(_origin(arguments))


def _flat(item: Any) -> list[Any]:
    """What an argument consists of, which may be a nest of tuples."""
    if not isinstance(item, tuple):
        return [item]
    values = []
    for part in item:
        values += _flat(part)
    return values


def _origin(arguments: Arguments) -> Any:
    """The first of ORIGINS that a call has, or None."""
    for name in ORIGINS:
        if name in arguments:
            return arguments[name]
    return None


def _rank(node: fx.Node) -> int:
    if PROBES not in node.meta:
        return 0
    return int(node.meta[PROBES][0].dim())


def _parameters(
    arguments: Arguments, constants: Constants
) -> tuple[nn.Parameter | None, nn.Parameter | None]:
    """Weight and bias of a call, None for what it lacks."""
    weight = constants.parameter(arguments.get("weight"))
    return weight, constants.parameter(arguments.get("bias"))


def _conv(arguments: Arguments, source: fx.Node, constants: Constants) -> nn.Module | None:
    weight, bias = _parameters(arguments, constants)
    if weight is None or weight.dim() != 4 or _rank(source) != 4:
        return None
    groups = arguments.get("groups", 1)
    conv = nn.Conv2d(
        in_channels=weight.shape[1] * groups,
        out_channels=weight.shape[0],
        kernel_size=_pair(weight.shape[2:]),
        stride=_pair(arguments.get("stride", 1)),
        padding=_padding(arguments.get("padding", 0)),
        dilation=_pair(arguments.get("dilation", 1)),
        groups=groups,
        bias=bias is not None,
        device="meta",
    )
    conv.weight, conv.bias = weight, bias
    return conv


def _conv_transpose(
    arguments: Arguments, source: fx.Node, constants: Constants
) -> nn.Module | None:
    weight, bias = _parameters(arguments, constants)
    if weight is None or weight.dim() != 4 or _rank(source) != 4:
        return None
    groups = arguments.get("groups", 1)
    conv = nn.ConvTranspose2d(
        in_channels=weight.shape[0],
        out_channels=weight.shape[1] * groups,
        kernel_size=_pair(weight.shape[2:]),
        stride=_pair(arguments.get("stride", 1)),
        padding=_pair(arguments.get("padding", 0)),
        output_padding=_pair(arguments.get("output_padding", 0)),
        groups=groups,
        bias=bias is not None,
        dilation=_pair(arguments.get("dilation", 1)),
        device="meta",
    )
    conv.weight, conv.bias = weight, bias
    return conv


def _linear(arguments: Arguments, source: fx.Node, constants: Constants) -> nn.Module | None:
    weight, bias = _parameters(arguments, constants)
    if weight is None or weight.dim() != 2 or (bias is not None and bias.dim() != 1):
        return None
    linear = nn.Linear(weight.shape[1], weight.shape[0], bias is not None, device="meta")
    linear.weight = weight
    linear.bias = bias  # type: ignore[assignment]  # a linear layer may lack it
    return linear


def _matmul(arguments: Arguments, source: fx.Node, constants: Constants) -> nn.Module | None:
    weight = constants.value(arguments.get("other"))
    if not isinstance(weight, torch.Tensor) or weight.dim() != 2 or _rank(source) < 2:
        return None
    linear = nn.Linear(weight.shape[0], weight.shape[1], bias=False, device="meta")
    linear.weight = nn.Parameter(weight.detach().float().t().contiguous())
    return linear


def _linear_of_transposed(
    arguments: Arguments, source: fx.Node, constants: Constants
) -> nn.Module | None:
    """``addmm(bias, x, weight)`` with a weight [I, O]."""
    weight, bias = constants.value(arguments.get("other")), constants.value(arguments.get("bias"))
    if not isinstance(weight, torch.Tensor) or not isinstance(bias, torch.Tensor):
        return None
    factors = (arguments.get("beta", 1), arguments.get("alpha", 1))
    if bias.dim() != 1 or factors != (1, 1):
        return None
    linear = _matmul({"other": weight}, source, constants)
    assert isinstance(linear, nn.Linear)
    # One number serves all outputs, as a sum would spread it.
    linear.bias = nn.Parameter(bias.detach().float().expand(linear.out_features).clone())
    return linear


def _batch_norm(arguments: Arguments, source: fx.Node, constants: Constants) -> nn.Module | None:
    mean = constants.value(arguments.get("running_mean"))
    variance = constants.value(arguments.get("running_var"))
    kind = nn.BatchNorm2d if _rank(source) == 4 else nn.BatchNorm1d
    if mean is None or variance is None:
        return None
    if arguments.get("training") or _rank(source) not in (2, 3, 4):
        return None
    weight, bias = _parameters(arguments, constants)
    affine = weight is not None or bias is not None
    momentum = arguments.get("momentum", 0.1)
    norm = kind(mean.numel(), arguments.get("eps", 1e-5), momentum, affine)
    norm.running_mean, norm.running_var = mean.detach().clone(), variance.detach().clone()
    if affine:
        norm.weight = weight if weight is not None else nn.Parameter(torch.ones_like(mean))
        norm.bias = bias if bias is not None else nn.Parameter(torch.zeros_like(mean))
    return norm


def _pair(value: Any) -> tuple[int, int]:
    if isinstance(value, int):
        return value, value
    if len(value) == 1:
        return value[0], value[0]
    return value[0], value[1]


def _padding(value: Any) -> Any:
    if isinstance(value, str):
        return value
    return _pair(value)


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
    if stem == name:
        stem = f"{name}_layer"
    if not owner:
        return stem
    return f"{owner}.{stem}"


def _move(graph: fx.GraphModule, call: fx.Node, home: str) -> None:
    """Give the module of `call` the name `home`, or the next one that nothing else uses."""
    module = graph.get_submodule(str(call.target))
    taken = set()
    for node in graph.graph.nodes:
        if node is not call and node.op in ("call_module", "get_attr"):
            taken.add(str(node.target))

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
