"""Rewriting a traced graph so that each layer is one module that is called once.

The float function stays the same in every step. A layer or batch norm that the model calls
several times, or whose parameters it uses elsewhere too, becomes one of its own for each call:
its weights are no longer tied to the others when the supernet is trained.
"""

from __future__ import annotations

import copy
from collections import Counter
from typing import Any

from torch import Tensor, fx, nn

from eqnet.capture.constants import attribute
from eqnet.capture.functional_layers import add_modules
from eqnet.capture.in_place import follow_in_place, writes
from eqnet.capture.operators import (
    ADD,
    BATCH_NORM,
    CONV,
    CONV_TRANSPOSE,
    LINEAR,
    PAD,
    arguments_of,
    module_of,
    operator_of,
    source_of,
)
from eqnet.capture.swish import split_swish
from eqnet.capture.tracer import LINE, PROBES, WRITTEN
from eqnet.quant.layers import PaddedConv2d, Pads
from eqnet.spec.errors import CaptureError

# What takes part in quantization by its parameters.
ONCE = (CONV, CONV_TRANSPOSE, LINEAR, BATCH_NORM)


def canonicalize(graph: fx.GraphModule) -> None:
    """Bring a traced graph into the form that capture reads. Raises CaptureError."""
    _refuse_lost_images(graph)
    _refuse_training_normalization(graph)
    _drop_identities(graph)
    follow_in_place(graph)
    _drop_added_zeros(graph)
    split_swish(graph)
    add_modules(graph)
    _name_first_arguments(graph)
    _one_module_a_call(graph)
    _own_reads(graph)
    _own_parameters(graph)
    _absorb_padding(graph)
    graph.graph.eliminate_dead_code()
    graph.delete_all_unused_submodules()
    for node in graph.graph.nodes:
        node.meta.pop(WRITTEN, None)
        node.meta.pop(PROBES, None)  # shapes without data, which a copy of the graph cannot hold
        node.meta.pop("nn_module_stack", None)  # of the traced modules, not of those made here
    graph.graph.lint()
    graph.recompile()


def _refuse_lost_images(graph: fx.GraphModule) -> None:
    """`squeeze` without a dimension drops the images' one for a single image."""
    for node in graph.graph.nodes:
        ranks = {getattr(value, "ndim", None) for value in node.meta.get(PROBES, ())}
        if len(ranks) > 1:
            raise CaptureError(
                f"{node.meta.get(LINE, 'unknown line')}: operation '{node.name}' drops the "
                "dimension of the images where there is one image (allowed: a named dimension)"
            )


def _is_once(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node calls a module that must be called by no other."""
    return node.op == "call_module" and operator_of(graph, node) in ONCE


def _drop_identities(graph: fx.GraphModule) -> None:
    """What gives the very tensor that it takes, which would else have two quantizers.

    `nn.Identity`, and functions that act in training alone, such as stochastic depth: they were
    traced as the model evaluates.
    """
    for node in list(graph.graph.nodes):
        source = source_of(node)
        if source is not None and _is_identity(graph, node, source):
            node.replace_all_uses_with(source)
            graph.graph.erase_node(node)


def _is_identity(graph: fx.GraphModule, node: fx.Node, source: fx.Node) -> bool:
    module = module_of(graph, node)
    if module is not None:
        return type(module) is nn.Identity
    if node.op not in ("call_function", "call_method") or writes(node):
        return False
    values = node.meta.get(PROBES, ())
    for value, read in zip(values, source.meta.get(PROBES, ()), strict=True):
        if not isinstance(value, Tensor) or value is not read:
            return False
    return bool(values)


def _name_first_arguments(graph: fx.GraphModule) -> None:
    """`layer(input=x)` becomes `layer(x)`."""
    for node in graph.graph.nodes:
        if _is_once(graph, node) and "input" in node.kwargs and not node.args:
            rest = dict(node.kwargs)
            node.args = (rest.pop("input"),)
            node.kwargs = rest


def _refuse_training_normalization(graph: fx.GraphModule) -> None:
    """A batch norm without running statistics depends on the batch. Raises CaptureError."""
    for node in graph.graph.nodes:
        module, place = module_of(graph, node), node.meta.get(LINE, "unknown line")
        if isinstance(module, nn.modules.batchnorm._BatchNorm) and module.running_mean is None:
            raise CaptureError(
                f"{place}: batch norm '{node.target}' has no running statistics "
                "(allowed: track_running_stats=True)"
            )
        if operator_of(graph, node) is BATCH_NORM and _normalizes_by_batch(node):
            raise CaptureError(
                f"{place}: operation '{node.name}' normalizes by the statistics of the batch "
                "(allowed: training=False, with running statistics)"
            )


def _normalizes_by_batch(node: fx.Node) -> bool:
    """Whether a function is a batch norm in its training form, over the images.

    The same function standardizes weights, [1, O, ...]: no size but the channels' may follow
    from the number of images.
    """
    arguments = arguments_of(BATCH_NORM, node)
    source = arguments.get("input")
    if not arguments.get("training") or not isinstance(source, fx.Node):
        return False
    shapes = [value.shape for value in source.meta.get(PROBES, ())]
    sizes_by_axis = enumerate(zip(*shapes, strict=True))
    return any(axis != 1 and len(set(sizes)) > 1 for axis, sizes in sizes_by_axis)


def _drop_added_zeros(graph: fx.GraphModule) -> None:
    """`sum([a, b])` begins with 0 + a, which is a."""
    for node in list(graph.graph.nodes):
        if operator_of(graph, node) is not ADD or len(node.args) != 2 or node.kwargs:
            continue
        term = _beside_zero(*node.args)
        if isinstance(term, fx.Node):
            node.replace_all_uses_with(term)
            graph.graph.erase_node(node)


def _beside_zero(first: Any, second: Any) -> Any:
    """The term of a sum whose other term is the number 0, or None."""
    if _is_zero(first):
        return second
    if _is_zero(second):
        return first
    return None


def _is_zero(value: Any) -> bool:
    return type(value) is int and value == 0


def _one_module_a_call(graph: fx.GraphModule) -> None:
    """A layer or batch norm that is called again is a copy of its own: `name_2`, `name_3`."""
    seen: set[str] = set()
    for node in graph.graph.nodes:
        module = module_of(graph, node)
        if module is None or not _is_once(graph, node):
            continue
        name, number = str(node.target), 1
        while name in seen or (number > 1 and _exists(graph, name)):
            number += 1
            name = f"{node.target}_{number}"
        if number > 1:
            graph.add_submodule(name, copy.deepcopy(module))
            node.target = name
        seen.add(name)


def _exists(graph: fx.GraphModule, path: str) -> bool:
    owner: Any = graph
    for part in path.split("."):
        if not hasattr(owner, part):
            return False
        owner = getattr(owner, part)
    return True


def _own_reads(graph: fx.GraphModule) -> None:
    """What the graph reads by name of a layer or batch norm that it also calls is a copy.

    Capture may change the signs of the layer's own weights.
    """
    modules = {str(node.target) for node in graph.graph.nodes if _is_once(graph, node)}
    copies: dict[str, str] = {}
    for node in graph.graph.nodes:
        target = str(node.target)
        owner, _, name = target.rpartition(".")
        if node.op != "get_attr" or owner not in modules:
            continue
        if target not in copies:
            copies[target] = f"{owner.replace('.', '_')}_{name}"
            while _exists(graph, copies[target]):
                copies[target] += "_"
            free = attribute(graph, target).detach().clone()
            graph.register_parameter(copies[target], nn.Parameter(free, free.is_floating_point()))
        node.target = copies[target]


def _own_parameters(graph: fx.GraphModule) -> None:
    """Layers and batch norms that share a parameter with anything else get a copy of it."""
    parameters = graph.named_parameters(remove_duplicate=False)
    buffers = graph.named_buffers(remove_duplicate=False)
    uses = Counter(_memory(tensor) for _, tensor in (*parameters, *buffers))
    uses.update(_plain_reads(graph))
    for node in graph.graph.nodes:
        module = module_of(graph, node)
        if module is None or not _is_once(graph, node):
            continue
        tensors = [*module.named_parameters(recurse=False), *module.named_buffers(recurse=False)]
        for name, tensor in tensors:
            if uses[_memory(tensor)] > 1:
                uses[_memory(tensor)] -= 1
                free = tensor.detach().clone()
                if name in module._parameters:
                    free = nn.Parameter(free)
                setattr(module, name, free)


def _memory(tensor: Tensor) -> int:
    """Where a tensor's values lie; two parameters may share them (`a.data = b.data`)."""
    return tensor.untyped_storage().data_ptr() or id(tensor)


def _plain_reads(graph: fx.GraphModule) -> list[int]:
    """The tensors that the graph reads by name, once for each."""
    memories = []
    for target in {str(node.target) for node in graph.graph.nodes if node.op == "get_attr"}:
        value = attribute(graph, target)
        if isinstance(value, Tensor):
            memories.append(_memory(value))
    return memories


def _absorb_padding(graph: fx.GraphModule) -> None:
    """Padding with zeros before a convolution becomes the convolution's own."""
    for node in list(graph.graph.nodes):
        conv = module_of(graph, node)
        source = source_of(node)
        if type(conv) is not nn.Conv2d or source is None or len(source.users) > 1:
            continue
        pads = _zero_pads(graph, source)
        if pads is None or isinstance(conv.padding, str):
            continue
        height, width = conv.padding
        left, right, top, bottom = pads
        pads = (left + width, right + width, top + height, bottom + height)
        graph.set_submodule(str(node.target), PaddedConv2d.of(conv, pads))
        node.args = (source.args[0], *node.args[1:])
        graph.graph.erase_node(source)


def _zero_pads(graph: fx.GraphModule, node: fx.Node) -> Pads | None:
    """(left, right, top, bottom) of a node that pads the last two sizes with zeros."""
    if operator_of(graph, node) is not PAD:
        return None
    module, arguments = module_of(graph, node), arguments_of(PAD, node)
    if isinstance(module, nn.ConstantPad2d):
        arguments = {"pad": tuple(module.padding), "value": module.value}
    pads = arguments.get("pad", ())
    plain = arguments.get("mode", "constant") == "constant" and arguments.get("value") in (None, 0)
    if not plain or len(pads) not in (2, 4) or any(type(p) is not int or p < 0 for p in pads):
        return None
    rows = tuple(pads[2:]) or (0, 0)
    return pads[0], pads[1], rows[0], rows[1]
