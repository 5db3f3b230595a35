"""One layer at a time: what a graph makes of the very integers that PyTorch has before it.

A value on a rounding tie comes out one step apart, and a deep net with random weights hands that
on until the logits have little in common. So the graph is cut at its quantizers: each part is fed
with PyTorch's integers, and must make PyTorch's next ones, but for ties.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import onnxruntime as ort

from eqnet.backend.graphs import Quantizer, constant, quantizers
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
    found = {
        quantizer.quantize.name.removesuffix(".q"): quantizer for quantizer in quantizers(model)
    }
    quantized = [node.inputs[0] for node in model.graph if node.op_type == "QuantizeLinear"]
    # A quantizer of a constant, such as a table of positions, stays in the part that reads it.
    assert len(found) == sum(constant(value) is None for value in quantized)
    feeds = {"input": images}
    for name, quantizer in found.items():
        feeds[_cut(model, quantizer, name)] = _values(points[name])
    logits, *made = _run(model, feeds)
    wrong, ties, integers = [], 0, 0
    for (name, quantizer), held in zip(found.items(), made, strict=True):
        point = points[name]
        off = held.astype(np.int32) - quantizer.zero_point - point.integers
        parts = np.abs(point.values - np.floor(point.values) - 0.5)
        excused = (np.abs(off) == 1) & (parts <= TIE)
        if (bad := (off != 0) & ~excused).any():
            wrong.append(f"{name}: {int(bad.sum())} of {off.size} integers differ")
        if not np.isclose(quantizer.scale, point.scale, rtol=1e-6, atol=0):
            wrong.append(f"{name}: scale {quantizer.scale:g} instead of {point.scale:g}")
        ties, integers = ties + int((off != 0).sum()), integers + off.size
    error = np.abs(logits - trace.logits).max() / np.abs(trace.logits).max()
    return Fed(len(found), wrong, ties, integers, float(error))


def _cut(model: ir.Model, quantizer: Quantizer, name: str) -> str:
    """Make the integers an output and what their readers see an input, whose name it returns."""
    given = ir.Value(
        name=f"{name}.given", shape=quantizer.output.shape, type=ir.TensorType(ir.DataType.FLOAT)
    )
    held = quantizer.dequantize.inputs[0]
    assert held is not None
    ir.convenience.replace_all_uses_with(quantizer.output, given)
    model.graph.remove(quantizer.dequantize)
    model.graph.inputs.append(given)
    model.graph.outputs.append(held)
    return f"{name}.given"


def _values(point: Point) -> np.ndarray:
    return point.integers.astype(np.float32) * np.float32(point.scale)


def _run(model: ir.Model, feeds: dict[str, np.ndarray]) -> list[np.ndarray]:
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    content = ir.to_proto(model).SerializeToString()
    session = ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)
