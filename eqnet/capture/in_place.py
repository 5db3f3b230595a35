"""Operations that change a tensor in place become ones that make a new tensor.

A quantizer reads a copy, so the graph must show by its edges alone what reads which value. The
tracer noted what each operation writes into and which tensors share memory; where no edge can
show a change, the model is refused.
"""

from __future__ import annotations

import copy
import inspect
from itertools import product
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from eqnet.capture.operators import module_of
from eqnet.capture.tracer import LINE, PROBES, WRITTEN
from eqnet.capture.writes import PLAIN_OPERATORS, same_values, share_memory, tensors_in
from eqnet.spec.errors import CaptureError


def follow_in_place(graph: fx.GraphModule) -> None:
    """Let later readers of a changed tensor read what changed it; nothing is changed any more.

    node.meta must hold PROBES and WRITTEN. Raises CaptureError where a tensor is read that
    shares memory with the changed one, and for `out=`.
    """
    for node in list(graph.graph.nodes):
        if writes(node):
            target = _target(node)
            _follow(graph, node, target)
            _make_new(graph, node, target)
    for node in graph.graph.nodes:
        _clear_module(graph, node)


def writes(node: fx.Node) -> bool:
    """Whether an operation writes into a tensor that it reads."""
    return any(node.meta.get(WRITTEN, ()))


def _refusal(node: fx.Node, what: str) -> CaptureError:
    return CaptureError(
        f"{node.meta.get(LINE, 'unknown line')}: operation '{node.name}' {what} "
        "(allowed: a new tensor)"
    )


def _target(node: fx.Node) -> fx.Node:
    """The input that an operation changes and gives back. Raises CaptureError for any other."""
    for source in node.all_input_nodes:
        if source.op == "get_attr" and _reaches(source, node):
            raise _refusal(node, f"changes '{source.target}' of the model in place")
    target = node.kwargs.get("input")
    if node.args:
        target = node.args[0]
    if node.kwargs.get("out") is None and isinstance(target, fx.Node) and _changes(node, target):
        return target
    raise _refusal(node, "writes into a tensor other than its whole first input")


def _changes(node: fx.Node, target: fx.Node) -> bool:
    """Whether a node gives `target` back, and writes into nothing but the whole of it."""
    if not _equal(target, node):
        return False
    for (tensor,), written in zip(_tensors(target), node.meta[WRITTEN], strict=True):
        for changed in written:
            if not same_values(tensor, changed):
                return False
    return True


def _tensors(node: fx.Node) -> list[list[Tensor]]:
    """The tensors of a node's value, for each number of images."""
    return [tensors_in(value) for value in node.meta.get(PROBES, ())]


def _equal(node: fx.Node, other: fx.Node) -> bool:
    """Whether two nodes are the same one tensor."""
    pairs = list(zip(_tensors(node), _tensors(other), strict=False))
    return bool(pairs) and all(_is_one_tensor(*pair) for pair in pairs)


def _is_one_tensor(tensors: list[Tensor], others: list[Tensor]) -> bool:
    return len(tensors) == len(others) == 1 and same_values(tensors[0], others[0])


def _reaches(source: fx.Node, node: fx.Node) -> bool:
    """Whether what `node` writes into shares memory with a value of `source`."""
    for tensors, written in zip(_tensors(source), node.meta[WRITTEN], strict=False):
        if any(share_memory(*pair) for pair in product(tensors, written)):
            return True
    return False


def _follow(graph: fx.GraphModule, node: fx.Node, target: fx.Node) -> None:
    order = {other: index for index, other in enumerate(graph.graph.nodes)}
    for other in list(graph.graph.nodes):
        if other is node:
            break
        later = [user for user in other.users if order[user] > order[node]]
        if not later or not _reaches(other, node):
            continue
        if _equal(other, target):
            for user in later:
                user.replace_input_with(other, node)
        elif any(user.op == "output" or any(_tensors(user)) for user in later):
            raise _refusal(
                node,
                f"changes '{target.name}' in place, and '{other.name}', which shares its memory, "
                "is read afterwards",
            )


def _make_new(graph: fx.GraphModule, node: fx.Node, target: fx.Node) -> None:
    """Let `node`, which keeps its name, make a new tensor; or else change a copy of `target`."""
    if hasattr(module_of(graph, node), "inplace"):
        return
    if not (_keeps_type(node, target) and _rename(node)):
        with graph.graph.inserting_before(node):
            clone = graph.graph.call_method("clone", (target,))
        clone.meta = {key: target.meta[key] for key in (PROBES, LINE) if key in target.meta}
        node.replace_input_with(target, clone)


def _clear_module(graph: fx.GraphModule, node: fx.Node) -> None:
    """A module that works in place becomes one that does not, also one that only trains so."""
    module: Any = module_of(graph, node)
    if getattr(module, "inplace", False):
        plain = copy.copy(module)
        plain.inplace = False
        graph.set_submodule(str(node.target), plain)


def _keeps_type(node: fx.Node, target: fx.Node) -> bool:
    """Whether a new tensor has the type of the changed one, whatever else is read."""
    kind = _tensors(target)[0][0].dtype
    for source in node.all_input_nodes:
        for tensor in _tensors(source)[0]:
            if torch.promote_types(kind, tensor.dtype) != kind:
                return False
    return True


def _rename(node: fx.Node) -> bool:
    """Call what makes a new tensor in place of what changes one; False where there is none."""
    if node.op == "call_method":
        return _rename_method(node)
    if node.target in PLAIN_OPERATORS:
        node.target = PLAIN_OPERATORS[node.target]
        return True
    if str(getattr(node.target, "__name__", "")).endswith("_"):
        return _rename_function(node)
    return _clear_flag(node)


def _rename_method(node: fx.Node) -> bool:
    """`x.add_(y)` becomes `x.add(y)`, and `x.__iadd__(y)` becomes `x.__add__(y)`."""
    name = str(node.target)
    plain = name.removesuffix("_")
    if name.startswith("__i") and name.endswith("__"):
        plain = f"__{name[3:]}"
    if hasattr(Tensor, plain):
        node.target = plain
    return str(node.target) != name


def _rename_function(node: fx.Node) -> bool:
    """`relu_(x)` becomes `relu(x)`."""
    name = str(getattr(node.target, "__name__", ""))
    for home in (torch, functional):
        if hasattr(home, name[:-1]):
            node.target = getattr(home, name[:-1])
            break
    return getattr(node.target, "__name__", "") != name


def _clear_flag(node: fx.Node) -> bool:
    """`inplace=True` of a function becomes False; returns whether there was one."""
    assert callable(node.target)
    try:
        names = list(inspect.signature(node.target).parameters)
    except ValueError:  # a builtin
        return False
    if "inplace" not in names:
        return False
    index = names.index("inplace")
    if index < len(node.args):
        node.args = (*node.args[:index], False, *node.args[index + 1 :])
    else:
        node.kwargs = {**node.kwargs, "inplace": False}
    return True
