"""One layer at a time: what a graph makes of the very integers that PyTorch has before it.

A value on a rounding tie comes out one step apart, and a deep net with random weights hands that
on until the logits have little in common. So the graph is cut at its quantizers: each part is fed
with PyTorch's integers, and must make PyTorch's next ones, but for ties. Export asks the same of
every graph, and takes a wider view of what a tie is.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from eqnet.backend.graph.reading import constant
from eqnet.backend.inside.fed_graph import FedGraph
from eqnet.testing.oracle import TIE
from eqnet.testing.subnets import Point, Trace


@dataclass(frozen=True)
class Fed:
    """quantizers: their number; wrong: one line for each that differs by more than ties.

    ties: integers that are one step apart, of all `integers`. logits: their largest error, as a
    share of the largest logit.
    """

    quantizers: int
    wrong: list[str]
    ties: int
    integers: int
    logits: float


def feed(model: ir.Model, trace: Trace, images: np.ndarray) -> Fed:
    """Run every part of a neutral graph in ONNX Runtime, optimizations off; changes `model`."""
    points = {point.name: point for point in trace.points}
    quantized = [node.inputs[0] for node in model.graph if node.op_type == "QuantizeLinear"]
    graph = FedGraph(model, threads=1)
    # A quantizer of a constant, such as a table of positions, stays in the part that reads it.
    assert len(graph.quantizers) == sum(constant(value) is None for value in quantized)
    values = {name: _values(points[name]) for name in graph.quantizers}
    logits, stored = graph.run(images, values)
    wrong, ties, integers = [], 0, 0
    for name, quantizer in graph.quantizers.items():
        point = points[name]
        off = stored[name].astype(np.int32) - quantizer.zero_point - point.integers
        parts = np.abs(point.values - np.floor(point.values) - 0.5)
        excused = (np.abs(off) == 1) & (parts <= TIE)
        if (bad := (off != 0) & ~excused).any():
            wrong.append(f"{name}: {int(bad.sum())} of {off.size} integers differ")
        if not np.isclose(quantizer.scale, point.scale, rtol=1e-6, atol=0):
            wrong.append(f"{name}: scale {quantizer.scale:g} instead of {point.scale:g}")
        ties, integers = ties + int((off != 0).sum()), integers + off.size
    error = np.abs(logits - trace.logits).max() / np.abs(trace.logits).max()
    return Fed(len(graph.quantizers), wrong, ties, integers, float(error))


def _values(point: Point) -> np.ndarray:
    return point.integers.astype(np.float32) * np.float32(point.scale)
