"""Which tensor of a deployed graph is which quantized tensor of the neutral graph."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Set
from dataclasses import dataclass

import onnx_ir as ir

from eqnet.backend.graph.operators import LAYER_OPS
from eqnet.backend.graph.reading import Quantizer, is_integer_clip
from eqnet.backend.inside.fed_graph import points_of

LOGITS = "logits"
STORING = frozenset({"QuantizeLinear", "DequantizeLinear", "Identity", "Constant"})


def deployed_tensors(reference: ir.Model, deployed: ir.Model) -> dict[str, tuple[str, ...]]:
    """Quantizer of `reference` -> names of values of `deployed` that may be its tensor, best first.

    The output of the quantizer of that name, unless its shape is known to be another; and what
    the same nodes read there, where a rewrite has moved the quantizer over a pooling or a
    reshaping. Where neither is left there is none.
    """
    others = points_of(deployed)
    nodes = {str(node.name): node for node in deployed.graph}
    found = {}
    for name, quantizer in points_of(reference).items():
        values = [_same_place(quantizer, others.get(name)), _read_by_same(quantizer, nodes)]
        names = (str(value.name) for value in values if value is not None)
        found[name] = tuple(dict.fromkeys(names))
    return found


def _same_place(quantizer: Quantizer, other: Quantizer | None) -> ir.Value | None:
    if other is None:
        return None
    ours, theirs = quantizer.output.shape, other.output.shape
    if ours is not None and theirs is not None and ours != theirs:
        return None
    return other.output


def _read_by_same(quantizer: Quantizer, nodes: dict[str, ir.Node]) -> ir.Value | None:
    """What the quantizer's first reader that `nodes` still have reads in its place."""
    for use in quantizer.output.uses():
        node = nodes.get(str(use.node.name))
        if node is None or node.op_type != use.node.op_type or use.idx >= len(node.inputs):
            continue
        value = node.inputs[use.idx]
        if value is not None and value.producer() is not None:
            return value
    return None


@dataclass(frozen=True)
class Part:
    """What lies between a cut tensor and the cut tensors before it.

    layers: names of the Conv, ConvTranspose, Gemm and MatMul nodes, in graph order. operators: op
    types, without those of quantizers. nodes: names of all nodes. inner: quantizers of activations
    that lie inside, uncut. reads: the cut tensors that it begins at.
    """

    layers: tuple[str, ...]
    operators: Counter[str]
    nodes: frozenset[str]
    inner: int
    reads: frozenset[str]


def parts_before(model: ir.Model, cuts: Mapping[str, str]) -> dict[str, Part]:
    """The part before each cut tensor, and before the logits, under `LOGITS`.

    cuts: what the tensors are called here -> names of the graph's values.
    """
    order = {node: place for place, node in enumerate(model.graph)}
    ends: dict[str, str] = {}
    for name, value in cuts.items():
        ends.setdefault(value, name)
    values = {str(out.name): out for node in model.graph for out in node.outputs}
    sources = {name: values[value] for name, value in cuts.items() if value in values}
    sources[LOGITS] = model.graph.outputs[0]
    quantize = {point.quantize for point in points_of(model).values()}
    return {name: _part(source, ends, order, quantize) for name, source in sources.items()}


def _part(
    source: ir.Value,
    ends: Mapping[str, str],
    order: Mapping[ir.Node, int],
    quantize: Set[ir.Node],
) -> Part:
    nodes: set[ir.Node] = set()
    reads: set[str] = set()
    stack = [source]
    while stack:
        value = stack.pop()
        node = value.producer()
        if value is not source and str(value.name) in ends:
            reads.add(ends[str(value.name)])
        elif node is not None and node not in nodes:
            nodes.add(node)
            stack += [one for one in node.inputs if one is not None]
    ordered = sorted(nodes, key=order.__getitem__)
    layers = tuple(str(node.name) for node in ordered if node.op_type in LAYER_OPS)
    operators = Counter(node.op_type for node in ordered if not _stores(node))
    names = frozenset(str(node.name) for node in ordered)
    own = 1 if str(source.name) in ends else 0
    return Part(layers, operators, names, len(nodes & quantize) - own, frozenset(reads))


def _stores(node: ir.Node) -> bool:
    """Whether a node is of a quantizer, or of nothing."""
    return node.op_type in STORING or is_integer_clip(node)
