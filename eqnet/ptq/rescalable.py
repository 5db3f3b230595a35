"""Where a captured network may be rescaled channel by channel without changing its function.

Channels start where something makes them that takes a factor for free: a layer, or a norm with a
gamma and beta of its own. They are followed through what multiplies with its input by any
positive factor and keeps channels apart (ReLU and its leaky kin, products with another tensor,
dropout, pooling, reshaping) to what undoes the factor: a layer by its columns, a depthwise layer
by the batch norm after it. Functions that bend (SiLU's sigmoid, GELU) get a multiplication by a
constant before them, and what comes from anything else, such as GELU, one after it. ReLU6 has a
bound of its own, and a sum ties the channel to another tensor's.
"""

from __future__ import annotations

import math
import operator
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeGuard

from torch import fx, nn

from eqnet.capture.constants import Constants
from eqnet.capture.operators import (
    PRELU,
    SIZE,
    Channels,
    Operator,
    arguments_of,
    function_of,
    module_of,
    operator_of,
    shape_of,
)
from eqnet.quant.layers import ELASTIC, BatchNorm, ElasticConv2d, ElasticLayer
from eqnet.quant.quantizers import ActivationQuantizer

Norm = BatchNorm | nn.LayerNorm | nn.GroupNorm


class Place(NamedTuple):
    """Where a tensor has its channels: along `axis`, each with `repeat` values in a row."""

    shape: tuple[int, ...]
    axis: int
    repeat: int

    @property
    def channels(self) -> int:
        """How many there are."""
        return self.shape[self.axis] // self.repeat


class Reader(NamedTuple):
    """A layer that reads the channels, each as `repeat` of its inputs in a row."""

    layer: ElasticLayer
    repeat: int


class Through(NamedTuple):
    """A depthwise layer that hands the channels to a batch norm, which undoes the factor."""

    layer: ElasticConv2d
    norm: nn.BatchNorm2d


class Guard(NamedTuple):
    """A function that bends: a multiplication before it has to undo the factor."""

    node: fx.Node
    source: fx.Node
    place: Place


class Watched(NamedTuple):
    """A quantizer of the channels, and where its tensor has them."""

    quantizer: ActivationQuantizer
    place: Place


@dataclass
class Span:
    """Channels from where they start to all that read them.

    start: what makes them, `place`: where it has them. producer: the layer without a batch norm
    of its own, or the norm, that takes a factor; None where the value has to be multiplied.
    """

    start: fx.Node
    place: Place
    producer: ElasticLayer | Norm | None = None
    readers: list[Reader] = field(default_factory=list)
    throughs: list[Through] = field(default_factory=list)
    guards: list[Guard] = field(default_factory=list)
    watched: list[Watched] = field(default_factory=list)
    scaled: set[fx.Node] = field(default_factory=set)

    @property
    def name(self) -> str:
        """Of the producer, or of the value that has to be multiplied."""
        if self.producer is None:
            return self.start.name
        return str(self.start.target)

    @property
    def quantizers(self) -> set[ActivationQuantizer]:
        """Those of the channels."""
        return {watched.quantizer for watched in self.watched}


class _TiedError(Exception):
    """Something reads the channels that a rescaling would change."""


def spans(graph: fx.GraphModule) -> Iterator[Span]:
    """The places where a captured graph's channels may be rescaled.

    Those that start at a layer or a norm come first, in graph order; then those of quantized
    tensors that none of these reach.
    """
    walker = _Walker(graph)
    seen: set[ActivationQuantizer] = set()
    for node in graph.graph.nodes:
        span = walker.first([walker.made_by(node)])
        if span is not None:
            seen |= span.quantizers
            yield span
    for node in graph.graph.nodes:
        module = module_of(graph, node)
        if isinstance(module, ActivationQuantizer) and module not in seen:
            span = walker.first(walker.multiplied(node.all_input_nodes[0]))
            if span is not None:
                seen |= span.quantizers
                yield span


class _Walker:
    """Follows channels through one graph."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self._graph = graph
        self._constants = Constants(graph)

    def first(self, starts: list[Span | None]) -> Span | None:
        """The first of these starts from which all readers can be served, and it pays."""
        for span in starts:
            if span is None:
                continue
            try:
                self._follow(span.start, span.place, span)
                self._require_one_scaled_factor(span)
            except _TiedError:
                continue
            if self._pays(span):
                return span
        return None

    def made_by(self, node: fx.Node) -> Span | None:
        """The start at a layer or norm that takes a factor into its own parameters."""
        module, shape = module_of(self._graph, node), shape_of(node)
        axis = 1
        if isinstance(module, nn.Linear | nn.LayerNorm):
            axis = len(shape) - 1
        if isinstance(module, ELASTIC) or _takes_factors(module):
            return Span(node, Place(shape, axis, 1), module)
        return None

    def multiplied(self, node: fx.Node) -> list[Span | None]:
        """Starts at a value that is multiplied itself: channels after the images, then last.

        Images and what has a bound, such as a gate, are none.
        """
        shape = shape_of(node)
        bounded = node.op == "placeholder" or self._channels(node) is Channels.BOUNDED
        if bounded or node in self._constants or len(shape) < 2:
            return []
        axes = [1, 3] if len(shape) == 4 else [len(shape) - 1]
        return [Span(node, Place(shape, axis, 1)) for axis in axes]

    def _follow(self, node: fx.Node, place: Place, span: Span) -> None:
        """Collect the readers of a value. Raises _TiedError where one forbids a rescaling."""
        span.scaled.add(node)
        for user in node.users:
            if self._takes_size(user):
                continue
            module = module_of(self._graph, user)
            if isinstance(module, ELASTIC):
                self._read(module, user, place, span)
            elif isinstance(module, ActivationQuantizer):
                span.watched.append(Watched(module, place))
                for form in user.users:  # (carrier, narrow)
                    if form.target is not operator.getitem:
                        raise _TiedError
                    self._follow(form, place, span)
            elif self._channels(user) in (Channels.BENT, Channels.BOUNDED):
                span.guards.append(Guard(user, node, place))
            else:
                self._follow(user, self._after(user, node, place), span)

    def _channels(self, node: fx.Node) -> Channels:
        """What becomes of a channel's factor in a node."""
        return operator_of(self._graph, node).channels

    def _pays(self, span: Span) -> bool:
        """Whether a quantizer sees the channels, and something that outliers matter to."""
        bending = any(self._channels(guard.node) is Channels.BENT for guard in span.guards)
        return bool(span.watched) and bool(span.readers or span.throughs or bending)

    def _read(self, layer: ElasticLayer, user: fx.Node, place: Place, span: Span) -> None:
        norm = self._norm_after(user)
        if norm is not None and _is_depthwise(layer, place) and place.repeat == 1:
            assert isinstance(layer, ElasticConv2d)
            span.throughs.append(Through(layer, norm))
        else:
            span.readers.append(Reader(layer, _require_inputs(layer, place)))

    def _norm_after(self, node: fx.Node) -> nn.BatchNorm2d | None:
        """The batch norm with statistics and a gamma that alone reads a value."""
        if len(node.users) != 1:
            return None
        module = module_of(self._graph, next(iter(node.users)))
        if not isinstance(module, nn.BatchNorm2d):
            return None
        if module.weight is None or module.running_mean is None:
            return None
        return module

    def _after(self, node: fx.Node, source: fx.Node, place: Place) -> Place:
        """Where the channels are after an operation.

        Raises _TiedError if it mixes or bends them.
        """
        shape, operator = shape_of(node), operator_of(self._graph, node)
        if not shape:
            raise _TiedError
        if operator.channels is Channels.MULTIPLIED or _is_dividend(operator, node, source):
            return _broadcast(place, shape)
        if not node.args or node.args[0] is not source or self._meets_another(node, source):
            raise _TiedError
        if operator.channels is Channels.SCALED:
            if operator is PRELU and (place.axis != 1 or place.repeat != 1):
                raise _TiedError  # its slopes are those of other channels
            return place
        if operator.channels is Channels.POOLED:
            if place.axis != 1 or len(place.shape) != 4 or len(shape) != 4:
                raise _TiedError
            return place._replace(shape=shape)
        if operator.channels is Channels.RESHAPED:
            return _reshaped(place, shape)
        if operator.channels is Channels.AVERAGED:
            return _averaged(arguments_of(operator, node), place, shape)
        raise _TiedError

    def _require_one_scaled_factor(self, span: Span) -> None:
        """A product of two scaled tensors would have the factor twice. Raises _TiedError."""
        for node in span.scaled - {span.start}:
            if self._channels(node) in (Channels.MULTIPLIED, Channels.DIVIDED):
                scaled = [arg for arg in (*node.args, *node.kwargs.values()) if arg in span.scaled]
                if len(scaled) != 1:
                    raise _TiedError

    def _takes_size(self, node: fx.Node) -> bool:
        """Whether a node asks for a shape, which no factor changes."""
        is_shape = function_of(node) == "getattr" and node.args[1:] == ("shape",)
        return is_shape or operator_of(self._graph, node) is SIZE

    def _meets_another(self, node: fx.Node, source: fx.Node) -> bool:
        for other in node.all_input_nodes:
            if other is not source and shape_of(other) and other.op != "get_attr":
                return True
        return False


def _takes_factors(module: nn.Module | None) -> TypeGuard[Norm]:
    """Whether a module is a norm with a gamma and a beta for each channel."""
    if isinstance(module, nn.LayerNorm):
        affine = len(module.normalized_shape) == 1
    else:
        affine = isinstance(module, BatchNorm | nn.GroupNorm)
    names = ("weight", "bias")
    return affine and all(getattr(module, name, None) is not None for name in names)


def _is_depthwise(layer: ElasticLayer, place: Place) -> bool:
    depthwise = isinstance(layer, ElasticConv2d) and layer.groups == layer.in_channels > 1
    return depthwise and layer.out_channels == layer.in_channels and place.axis == 1


def _is_dividend(operator: Operator, node: fx.Node, source: fx.Node) -> bool:
    """Whether a node divides a value. A quotient that is rounded is none: it does not scale."""
    divides = operator.channels is Channels.DIVIDED
    return divides and node.args[:1] == (source,) and not node.kwargs


def _require_inputs(layer: ElasticLayer, place: Place) -> int:
    """How many of a layer's inputs in a row are one channel. Raises _TiedError if they are not."""
    rank = len(place.shape)
    if isinstance(layer, nn.Linear):
        axis = rank - 1
    elif rank == 4:
        axis = 1
    else:
        raise _TiedError
    if place.axis != axis:
        raise _TiedError
    return place.repeat


def _broadcast(place: Place, shape: tuple[int, ...]) -> Place:
    """Where the channels are in a product of another shape, aligned from the last axis."""
    axis = place.axis + len(shape) - len(place.shape)
    if shape[axis] != place.shape[place.axis]:
        raise _TiedError
    return Place(shape, axis, place.repeat)


def _reshaped(place: Place, shape: tuple[int, ...]) -> Place:
    """Values stay in a row: the axis that begins where the channels did must hold them all."""
    outer, channels = math.prod(place.shape[: place.axis]), place.channels
    for axis in range(1, len(shape)):
        if shape[0] == 1 and math.prod(shape[:axis]) == outer and shape[axis] % channels == 0:
            return Place(shape, axis, shape[axis] // channels)
    raise _TiedError


def _averaged(arguments: dict[str, Any], place: Place, shape: tuple[int, ...]) -> Place:
    """Where the channels are in a mean over some axes, none of them theirs or the images'."""
    dims = arguments.get("dim")
    if not isinstance(dims, tuple | list):
        dims = (dims,)
    axes = {dim % len(place.shape) for dim in dims if isinstance(dim, int)}
    if not axes or len(axes) != len(dims) or place.axis in axes or 0 in axes:
        raise _TiedError
    if arguments.get("keepdim"):
        return place._replace(shape=shape)
    gone = sum(axis < place.axis for axis in axes)
    return Place(shape, place.axis - gone, place.repeat)
