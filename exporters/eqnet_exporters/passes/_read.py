"""Small readers that the passes share: what a node reads, and what computes it."""

from __future__ import annotations

import onnx_ir as ir

from eqnet.backend.graph.reading import Quantizer, quantizer_of


def operand(node: ir.Node, index: int) -> ir.Value | None:
    """Input `index` of a node, None where it has no such input or leaves it out."""
    if index < len(node.inputs):
        return node.inputs[index]
    return None


def producer_of(value: ir.Value | None) -> ir.Node | None:
    """The node that computes a value, None for what no node computes."""
    if value is None:
        return None
    return value.producer()


def producers_of(node: ir.Node) -> list[ir.Node]:
    """The nodes that compute what a node reads, in the order of its inputs."""
    producers = []
    for value in node.inputs:
        producer = producer_of(value)
        if producer is not None:
            producers.append(producer)
    return producers


def quantizer_before(node: ir.Node) -> Quantizer | None:
    """The quantizer whose output is the node's first input, or None."""
    source = operand(node, 0)
    if source is None:
        return None
    return quantizer_of(source)
