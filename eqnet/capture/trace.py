"""Tracing a float model: its code runs once, and the graph of its operations is what remains."""

from __future__ import annotations

import copy
import functools
import inspect
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.fx.graph import CodeGen

from eqnet.capture.source_lines import first_line, where
from eqnet.capture.tracer import SCRIPTED, ShapedProxy, ShapedTracer
from eqnet.spec.errors import CaptureError

# What takes sizes, one of which may be the number of images: functions that make tensors, and
# functions and methods of tensors that the model holds.
FUNCTIONS = (
    "zeros",
    "ones",
    "full",
    "empty",
    "arange",
    "eye",
    "linspace",
    "tile",
    "broadcast_to",
    "repeat_interleave",
)
METHODS = (
    "expand",
    "repeat",
    "tile",
    "broadcast_to",
    "repeat_interleave",
    "new_zeros",
    "new_ones",
    "new_full",
    "new_empty",
    "view",
    "reshape",
)
ALLOWED = (
    "(allowed: models that torch.fx can trace for any number of images, "
    "without data-dependent control flow)"
)


def trace(model: nn.Module, input_shape: tuple[int, int, int]) -> fx.GraphModule:
    """The graph of a model in evaluation mode; each node's `meta` has PROBES and LINE.

    input_shape: (C, H, W). Raises CaptureError naming the operation, its module and the line.
    """
    if isinstance(model, torch.jit.ScriptModule):
        raise CaptureError(f"cannot capture {type(model).__name__}: {SCRIPTED}")
    model = _without_traces(model)
    defaults = _defaults(model)
    tracer = ShapedTracer(input_shape, defaults)
    try:
        with (
            _tensors_of_any_number(tracer),
            _compiled_functions_in_full(),
            _scripted_functions_in_full(),
        ):
            graph = tracer.trace(model, defaults or None)
        graph.set_codegen(CodeGen())
        traced = fx.GraphModule(model, graph)
    except Exception as error:  # a model's own code may fail with anything
        raise _refusal(model, tracer.failed_in, error) from error
    _drop_unused_inputs(traced)
    return traced


def _refusal(model: nn.Module, failed_in: str, error: Exception) -> CaptureError:
    """What an error under tracing means; failed_in: the path of the module, '' at the top."""
    place, reason = where(error), first_line(error)
    if failed_in:
        place += f" in '{failed_in}'"
    if "(allowed:" not in reason:
        reason += f" {ALLOWED}"
    return CaptureError(f"cannot capture {type(model).__name__}: {place}: {reason}")


@contextmanager
def _tensors_of_any_number(tracer: ShapedTracer) -> Iterator[None]:
    """Within: `torch.zeros(n, ...)`, `buffer.expand(n, ...)` and the like are nodes where n is
    the number of images."""

    def wrap(make: Callable[..., Any], kind: str, target: Any) -> Callable[..., Any]:
        @functools.wraps(make)
        def call(*args: Any, **kwargs: Any) -> Any:
            values: list[Any] = [*kwargs.values()]
            for argument in args:
                if isinstance(argument, (tuple, list)):
                    values += argument
                else:
                    values.append(argument)
            if any(isinstance(value, ShapedProxy) for value in values):
                return tracer.create_proxy(kind, target, args, kwargs)
            return make(*args, **kwargs)

        return call

    functions = {name: getattr(torch, name) for name in FUNCTIONS}
    for name, make in functions.items():
        setattr(torch, name, wrap(make, "call_function", make))
    for name in METHODS:  # torch.Tensor inherits them
        setattr(torch.Tensor, name, wrap(getattr(torch.Tensor, name), "call_method", name))
    try:
        yield
    finally:
        for name, make in functions.items():
            setattr(torch, name, make)
        for name in METHODS:
            delattr(torch.Tensor, name)


@contextmanager
def _compiled_functions_in_full() -> Iterator[None]:
    """Within: a function under `torch.compile` runs as it was written."""
    compiler = sys.modules.get("torch._dynamo")
    if compiler is None:
        yield
        return
    with compiler.config.patch(error_on_nested_fx_trace=False):
        yield


@contextmanager
def _scripted_functions_in_full() -> Iterator[None]:
    """Within: a function under `torch.jit.script` runs as it was written."""
    kind: Any = torch.jit.ScriptFunction
    original = kind.__call__

    def call(function: Any, *args: Any, **kwargs: Any) -> Any:
        written = getattr(function, "_torchdynamo_inline", None)  # which torch keeps for compilers
        return (written or functools.partial(original, function))(*args, **kwargs)

    kind.__call__ = call
    try:
        yield
    finally:
        kind.__call__ = original


def _without_traces(model: nn.Module) -> nn.Module:
    """A copy with the same parameters and buffers: what the code keeps of a run is its own."""
    tensors = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        tensors += [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
    try:
        return copy.deepcopy(model, {id(tensor): tensor for tensor in tensors})
    except Exception:  # an attribute that cannot be copied: then the model's own code must do
        return model


def _defaults(model: nn.Module) -> dict[str, Any]:
    """The optional arguments of `forward` after the first, with their defaults."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return {}
    defaults = {}
    for parameter in parameters:
        if parameter.default is not inspect.Parameter.empty:
            defaults[parameter.name] = parameter.default
    return defaults


def _drop_unused_inputs(graph: fx.GraphModule) -> None:
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for node in inputs[1:]:
        if not node.users:
            graph.graph.erase_node(node)
    graph.recompile()
