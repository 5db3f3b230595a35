"""Which values of a graph get a quantizer, what reads them, and what they are called."""

from __future__ import annotations

from torch import fx, nn

from eqnet.capture.constants import Constants
from eqnet.capture.operators import (
    BATCH_NORM,
    CONCAT,
    CONV,
    DROPOUT,
    LINEAR,
    Operator,
    module_of,
    operator_of,
    shape_of,
)
from eqnet.quant.layers import ElasticConvTranspose2d
from eqnet.spec.network import ReaderGroup

_EMPTY = nn.ModuleDict()  # its attributes are names that no entry of one can have


def is_layer(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a Conv, ConvTranspose or Linear whose weight can be quantized.

    Transposed convolutions whose output channels no single axis of the weight tells apart, or
    whose output size is given at the call, are none.
    """
    module = module_of(graph, node)
    if isinstance(module, nn.ConvTranspose2d):
        plain = len(node.args) == 1 and not node.kwargs
        return plain and ElasticConvTranspose2d.supports(module)
    operator = operator_of(graph, node)
    return operator.layer is not None and type(module) in operator.modules


def layer_nodes(graph: fx.GraphModule) -> list[fx.Node]:
    """The layers of a graph, in order."""
    return [node for node in graph.graph.nodes if is_layer(graph, node)]


def batch_norms(graph: fx.GraphModule) -> dict[str, str]:
    """Layer name -> name of the batch norm over its output channels that alone reads it."""
    pairs = {}
    for node in layer_nodes(graph):
        readers = list(node.users)
        # Of [N, T, C] a batch norm takes T for the channels.
        spatial = operator_of(graph, node) is not LINEAR or len(shape_of(node)) == 2
        normed = len(readers) == 1 and is_batch_norm(graph, readers[0])
        if spatial and normed:
            pairs[str(node.target)] = str(readers[0].target)
    return pairs


def is_batch_norm(graph: fx.GraphModule, node: fx.Node) -> bool:
    """Whether a node is a batch norm with parameters of its own; a functional one has none."""
    return node.op == "call_module" and operator_of(graph, node) is BATCH_NORM


class Readers:
    """What reads the values of a graph, and which of them get a quantizer."""

    def __init__(self, graph: fx.GraphModule) -> None:
        self._graph = graph
        self._constants = Constants(graph)

    def _operator(self, node: fx.Node) -> Operator:
        return operator_of(self._graph, node)

    def group(self, node: fx.Node) -> ReaderGroup | None:
        """The carrier group of a reader; None for layers."""
        if is_layer(self._graph, node):
            return None
        group = self._operator(node).group
        if group == "concat" and self._is_joined(node):
            return "other"
        if group not in ("add", "mul"):
            return group
        # A sum or product with a constant is no meeting of two tensors, nor is a scaled one.
        if len(self._operands(node)) < 2 or "alpha" in node.kwargs:
            return "other"
        return group

    def _operands(self, node: fx.Node) -> list[fx.Node]:
        """What a node reads, without constants."""
        return [source for source in node.all_input_nodes if source not in self._constants]

    def _feeds_layer(self, node: fx.Node) -> bool:
        return any(is_layer(self._graph, user) for user in node.users)

    def _is_joined(self, concat: fx.Node) -> bool:
        """Whether only layers and pools read what is joined.

        One quantizer after the concat then serves its operands too, with the same integers, so
        they need none of their own.
        """
        while len(concat.users) == 1 and self._is_mover(next(iter(concat.users))):
            concat = next(iter(concat.users))
        if not self._feeds_layer(concat):
            return False
        return all(self.group(user) in (None, "pool") for user in concat.users)

    def groups(self, node: fx.Node) -> set[ReaderGroup]:
        """The carrier groups of a value's readers beside layers."""
        groups = set()
        for user in node.users:
            group = self.group(user)
            if user.op != "output" and group is not None:
                groups.add(group)
        return groups

    def tensors(self) -> list[fx.Node]:
        """Values that get a quantizer: what layers, sums, pools, concats, products and
        activation functions read, and convolutions' outputs that anything else reads.

        A value that has a data mover as its only reader is followed to the mover's output, so
        that one quantizer serves both (max pooling and reshaping keep values on their grid).
        Constants and integers get none.
        """
        nodes = []
        for node in self._graph.graph.nodes:
            if node.op == "output" or not self._is_activation(node):
                continue
            if len(node.users) == 1 and self._is_mover(next(iter(node.users))):
                continue
            groups = {self.group(user) for user in node.users}
            if groups - {"other"} or self.ended_conv(node):
                nodes.append(node)
        return nodes

    def _is_activation(self, node: fx.Node) -> bool:
        if not shape_of(node):
            return False
        floating = bool(node.meta["tensor_meta"].dtype.is_floating_point)
        return floating and (node not in self._constants or self._feeds_layer(node))

    def _is_mover(self, node: fx.Node) -> bool:
        """Whether a node only moves values, so that its output is the same quantized tensor."""
        return self._operator(node).moves

    def sums(self) -> tuple[set[fx.Node], dict[fx.Node, tuple[str, ...]]]:
        """What convolutions can add to as they finish, one operand of each sum at most.

        Returns these operands, and for the other operands the names of the convolutions whose
        output they are added to.
        """
        absorbed: set[fx.Node] = set()
        beside: dict[fx.Node, tuple[str, ...]] = {}
        for node in self._graph.graph.nodes:
            if self.group(node) != "add":
                continue
            absorbing = self._absorbing(node)
            if absorbing is None:
                continue
            operand, conv = absorbing
            absorbed.add(operand)
            for other in node.all_input_nodes:
                if other is not operand:
                    beside[other] = (*beside.get(other, ()), conv)
        return absorbed, beside

    def _absorbing(self, node: fx.Node) -> tuple[fx.Node, str] | None:
        """The operand of a sum that a convolution makes and adds to, and this convolution.

        The first one that ends in no ReLU or clip, or else the first of all.
        """
        folded = None
        for operand in node.all_input_nodes:
            if len(operand.users) > 1:
                continue
            conv = self._summed_conv(operand)
            if conv is None:
                continue
            if not self._folds(operand):
                return operand, conv
            if folded is None:
                folded = operand, conv
        return folded

    def _summed_conv(self, node: fx.Node) -> str | None:
        """As `_conv_of`, with products and sums with constants (layer scale) after it: OpenVINO
        folds those into the convolution that it adds to.
        """
        while self._operator(node).affine:
            operands = self._operands(node)
            if len(operands) != 1 or len(operands[0].users) > 1:
                return None
            node = operands[0]
        return self._conv_of(node)

    def _conv_of(self, node: fx.Node) -> str | None:
        """The convolution whose output a value is, with its batch norm, dropout and ReLU.

        A ReLU that nothing else reads counts, because a quantizer after it would absorb it:
        OpenVINO then adds to the convolution's output without the quantizer's rounding.
        """
        operator = self._operator(node)
        if operator in (BATCH_NORM, DROPOUT) or self._folds(node):
            (source, *_) = node.all_input_nodes  # which may be named in the call
            if len(source.users) > 1:
                return None
            return self._conv_of(source)
        if operator is CONV and node.op == "call_module":
            return str(node.target)
        return None

    def ended_conv(self, node: fx.Node) -> str | None:
        """The convolution whose output a value is, if an operation outside the groups reads it.

        A runtime whose convolutions go from integers to integers leaves this one in float unless
        the value has a quantizer. What a concat joins shares the quantizer after that.
        """
        if not any(self._reads_floats(user) for user in node.users):
            return None
        return self._conv_over_movers(node)

    def read_convs(self, node: fx.Node) -> tuple[str, ...]:
        """The convolutions whose outputs make up a value, if layers read it.

        Where these layers stay in float the value has no quantizer from them, and such a runtime
        would leave the convolutions in float too.
        """
        if not self._feeds_layer(node):
            return ()
        parts = [node]
        joined = self._over_movers(node)
        if joined is not None and self._is_concat(joined):
            parts = joined.all_input_nodes
        convs = []
        for part in parts:
            conv = self._conv_over_movers(part)
            if conv is not None:
                convs.append(conv)
        return tuple(convs)

    def _conv_over_movers(self, node: fx.Node) -> str | None:
        """As `_conv_of`, with data movers after it that nothing else reads."""
        source = self._over_movers(node)
        if source is None:
            return None
        return self._conv_of(source)

    def _over_movers(self, node: fx.Node) -> fx.Node | None:
        """What data movers move to a value, None where anything else reads it on the way."""
        while self._is_mover(node):
            (source, *_) = node.all_input_nodes  # which may be named in the call
            if len(source.users) > 1:
                return None
            node = source
        return node

    def _is_concat(self, node: fx.Node) -> bool:
        return self._operator(node) is CONCAT

    def _reads_floats(self, node: fx.Node) -> bool:
        """Whether a reader is outside the groups and no part of the layer before it."""
        if node.op == "output" or self.group(node) != "other":
            return False
        part = self._folds(node) or self._operator(node) in (BATCH_NORM, CONCAT)
        return not part

    def _folds(self, node: fx.Node) -> bool:
        """Whether a quantizer that follows takes a node over, as no clip to what is computed."""
        return self._operator(node).folds and len(node.all_input_nodes) == 1


def name_of(node: fx.Node) -> str:
    """A node's name as a tensor; one that nn.ModuleDict could not hold (`to`) ends in `_`."""
    if node.op == "placeholder":
        return "input"
    name = node.name
    while hasattr(_EMPTY, name) or name == "input":
        name += "_"
        while any(name == other.name for other in node.graph.nodes):
            name += "_"
    return name
