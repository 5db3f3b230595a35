"""Tracing a float model: its code runs once, and the graph of its operations is what remains."""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import fx, nn
from torch.fx.graph import CodeGen

from eqnet.spec.errors import CaptureError
from eqnet.supernet.places import first_line, where
from eqnet.supernet.tracer import ShapedProxy, ShapedTracer

FACTORIES = ("zeros", "ones", "full", "empty", "arange")  # of tensors, from sizes
ALLOWED = (
    "(allowed: models that torch.fx can trace for any number of images, "
    "without data-dependent control flow)"
)


def trace(model: nn.Module, input_shape: tuple[int, int, int]) -> fx.GraphModule:
    """The graph of a model in evaluation mode; each node's `meta` has PROBES and LINE.

    input_shape: (C, H, W). Raises CaptureError naming the operation, its module and the line.
    """
    model = _without_traces(model)
    defaults = _defaults(model)
    tracer = ShapedTracer(input_shape, defaults)
    try:
        with _tensors_of_any_number(tracer):
            graph = tracer.trace(model, defaults or None)
        graph.set_codegen(CodeGen())
        traced = fx.GraphModule(model, graph)
    except Exception as error:  # a model's own code may fail with anything
        path = f" in '{tracer.failed_in}'" if tracer.failed_in else ""
        raise CaptureError(
            f"cannot capture {type(model).__name__}: {where(error)}{path}: {first_line(error)} "
            f"{ALLOWED}"
        ) from error
    _drop_unused_inputs(traced)
    return traced


@contextmanager
def _tensors_of_any_number(tracer: ShapedTracer) -> Iterator[None]:
    """Within: `torch.zeros(n, ...)` and the like are nodes where n is the number of images."""
    originals = {name: getattr(torch, name) for name in FACTORIES}

    def wrap(make: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(make)
        def made(*args: Any, **kwargs: Any) -> Any:
            given: list[Any] = [*kwargs.values()]
            for item in args:
                given += item if isinstance(item, (tuple, list)) else [item]
            if any(isinstance(item, ShapedProxy) for item in given):
                return tracer.create_proxy("call_function", make, args, kwargs)
            return make(*args, **kwargs)

        return made

    for name, make in originals.items():
        setattr(torch, name, wrap(make))
    try:
        yield
    finally:
        for name, make in originals.items():
            setattr(torch, name, make)


def _without_traces(model: nn.Module) -> nn.Module:
    """A copy with the same parameters and buffers: what the code keeps of a run is its own."""
    kept = [*model.parameters(), *model.buffers()]
    for module in model.modules():
        kept += [value for value in vars(module).values() if isinstance(value, torch.Tensor)]
    try:
        return copy.deepcopy(model, {id(tensor): tensor for tensor in kept})
    except Exception:  # an attribute that cannot be copied: then the model's own code must do
        return model


def _defaults(model: nn.Module) -> dict[str, Any]:
    """The optional arguments of `forward` behind the first, with their defaults."""
    try:
        parameters = list(inspect.signature(model.forward).parameters.values())[1:]
    except (TypeError, ValueError):
        return {}
    given = [item for item in parameters if item.default is not inspect.Parameter.empty]
    return {item.name: item.default for item in given}


def _drop_unused_inputs(graph: fx.GraphModule) -> None:
    inputs = [node for node in graph.graph.nodes if node.op == "placeholder"]
    for node in inputs[1:]:
        if not node.users:
            graph.graph.erase_node(node)
    graph.recompile()
