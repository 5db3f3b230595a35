"""Where a captured network may be rescaled channel by channel without changing its function.

Between what makes a channel (a layer, or a batch norm with its own gamma and beta) and the layers
that read it there may stand only what multiplies with its input by any positive factor, and what
keeps channels apart: ReLU and its leaky kin, dropout, pooling, reshaping. ReLU6 has a bound of its
own, and a sum ties the channel to another tensor's.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from torch import fx, nn

from eqnet.capture.bounds import function_of, module_of
from eqnet.capture.readers import DROPOUTS, NORMS, POOL_MODULES, shape_of
from eqnet.quant.layers import ELASTIC, ElasticLayer
from eqnet.quant.quantizers import ActivationQuantizer

HOMOGENEOUS_MODULES = (nn.ReLU, nn.LeakyReLU, nn.PReLU, nn.Identity, *DROPOUTS)
HOMOGENEOUS_FUNCTIONS = {"relu", "leaky_relu", "prelu", "dropout", "contiguous"}
RESHAPING_FUNCTIONS = {"flatten", "reshape", "view", "squeeze", "unsqueeze"}
POOLING_MODULES = (*POOL_MODULES, nn.MaxPool2d)
POOLING_FUNCTIONS = {"avg_pool2d", "adaptive_avg_pool2d", "max_pool2d", "boolean_dispatch"}
SIZE_FUNCTIONS = {"size", "dim"}


class Place(NamedTuple):
    """Where a tensor has its channels: along `axis`, each with `repeat` values in a row."""

    shape: tuple[int, ...]
    axis: int
    repeat: int


class Reader(NamedTuple):
    """A layer that reads the channels, each as `repeat` of its inputs in a row."""

    layer: ElasticLayer
    repeat: int


class Watched(NamedTuple):
    """A quantizer of the channels, and where its tensor has them."""

    quantizer: ActivationQuantizer
    place: Place


@dataclass
class Span:
    """Channels from their producer to all of their readers.

    name: of the producer. producer: a layer without a batch norm of its own, or a batch norm.
    """

    name: str
    producer: ElasticLayer | nn.BatchNorm2d | nn.BatchNorm1d
    channels: int
    readers: list[Reader] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)


class _TiedError(Exception):
    """Something reads the channels that a rescaling would change."""


def spans(graph: fx.GraphModule) -> Iterator[Span]:
    """The places where a captured graph's channels may be rescaled, in graph order."""
    for node in graph.graph.nodes:
        span = _start(graph, node)
        if span is None:
            continue
        shape = shape_of(node)
        axis = len(shape) - 1 if isinstance(span.producer, nn.Linear) else 1
        try:
            _follow(graph, node, Place(shape, axis, 1), span)
        except _TiedError:
            continue
        if span.readers and span.watched:
            yield span


def _start(graph: fx.GraphModule, node: fx.Node) -> Span | None:
    module = module_of(graph, node)
    if isinstance(module, ELASTIC):
        return Span(str(node.target), module, module.weight_quantizer.channels)
    if isinstance(module, NORMS) and module.weight is not None and module.bias is not None:
        return Span(str(node.target), module, module.num_features)
    return None


def _follow(graph: fx.GraphModule, node: fx.Node, place: Place, span: Span) -> None:
    """Collect the readers of a value. Raises _TiedError where one forbids a rescaling."""
    for user in node.users:
        if _takes_size(user):
            continue
        module = module_of(graph, user)
        if not user.args or user.args[0] is not node or _meets_another(user, node):
            raise _TiedError
        if isinstance(module, ELASTIC):
            span.readers.append(Reader(module, _require_inputs(module, place)))
            continue
        if isinstance(module, ActivationQuantizer):
            span.watched.append(Watched(module, place))
            for form in user.users:  # (carrier, narrow)
                if form.target is not operator.getitem:
                    raise _TiedError
                _follow(graph, form, place, span)
            continue
        _follow(graph, user, _behind(module, user, place, span.channels), span)


def _takes_size(node: fx.Node) -> bool:
    name = function_of(node)
    return name in SIZE_FUNCTIONS or (name == "getattr" and node.args[1:] == ("shape",))


def _meets_another(node: fx.Node, source: fx.Node) -> bool:
    others = [other for other in node.all_input_nodes if other is not source]
    return any(shape_of(other) and other.op != "get_attr" for other in others)


def _require_inputs(layer: ElasticLayer, place: Place) -> int:
    """How many of a layer's inputs in a row are one channel. Raises _TiedError if they are not."""
    linear = isinstance(layer, nn.Linear)
    if place.axis != (len(place.shape) - 1 if linear else 1) or (not linear and _rank(place) != 4):
        raise _TiedError
    return place.repeat


def _behind(module: nn.Module | None, node: fx.Node, place: Place, channels: int) -> Place:
    """Where the channels are behind an operation. Raises _TiedError if it mixes or bends them."""
    shape, name = shape_of(node), (function_of(node) or "").rstrip("_")
    if not shape:
        raise _TiedError
    if isinstance(module, HOMOGENEOUS_MODULES) or name in HOMOGENEOUS_FUNCTIONS:
        per_channel = isinstance(module, nn.PReLU) or name == "prelu"
        if per_channel and (place.axis != 1 or place.repeat != 1):
            raise _TiedError
        return place
    if isinstance(module, POOLING_MODULES) or name in POOLING_FUNCTIONS:
        if place.axis != 1 or _rank(place) != 4 or len(shape) != 4:
            raise _TiedError
        return place._replace(shape=shape)
    if isinstance(module, nn.Flatten) or name in RESHAPING_FUNCTIONS:
        return _reshaped(place, shape, channels)
    if name == "mean":
        return _averaged(node, place, shape)
    raise _TiedError


def _rank(place: Place) -> int:
    return len(place.shape)


def _reshaped(place: Place, shape: tuple[int, ...], channels: int) -> Place:
    """Values stay in a row: the axis that begins where the channels did must hold them all."""
    outer = math.prod(place.shape[: place.axis])
    for axis in range(1, len(shape)):
        if shape[0] == 1 and math.prod(shape[:axis]) == outer and shape[axis] % channels == 0:
            return Place(shape, axis, shape[axis] // channels)
    raise _TiedError


def _averaged(node: fx.Node, place: Place, shape: tuple[int, ...]) -> Place:
    given = dict(zip(("dim", "keepdim"), node.args[1:], strict=False)) | dict(node.kwargs)
    dims = given.get("dim")
    sizes = dims if isinstance(dims, tuple | list) else (dims,)
    axes = {size % _rank(place) for size in sizes if isinstance(size, int)}
    if not axes or len(axes) != len(sizes) or place.axis in axes or 0 in axes:
        raise _TiedError
    gone = 0 if given.get("keepdim") else sum(axis < place.axis for axis in axes)
    return Place(shape, place.axis - gone, place.repeat)
