"""The second oracle, ONNX's reference evaluator, and what counts as a rounding tie."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from eqnet.backend.graph.reading import quantizers
from eqnet.backend.protocol import Array
from eqnet.qdq.specialize import point_name_of
from eqnet.testing.subnets import Trace

# A value may round either way where it lies this close to halfway between two integers, in
# steps: float32 sums of products in another order differ by a few units in the last place, and
# an integer of 8 bits has a last place of 2^-16 steps.
TIE = 2.0**-13
# Of the 7 images of a case, those that a tie may touch. Everything after a tie may differ, so
# the rest must be equal in every integer for the case to show anything.
TOUCHED = 2
# On grids of powers of two sums are exact and halves common. What changes such a value by less
# than a tie, as SiLU does to a large one or an average to its sum, leaves it near the middle.
TOUCHED_ON_POWERS = 3
# Logits of the same integers differ by the rounding of the last layer's sums alone, relative to
# the largest logit of the image.
ROUNDING = 2e-5


@dataclass(frozen=True)
class Steps:
    """The integers of one quantizer, less the zero-point. scale: of its grid."""

    scale: float
    integers: NDArray[np.int32]


@dataclass(frozen=True)
class OracleRun:
    """What a graph computed: quantizer name -> its integers, and the logits."""

    points: dict[str, Steps]
    logits: Array


def run_oracle(model: ir.Model, images: Array) -> OracleRun:
    """Run a QDQ graph in ONNX's reference evaluator, an implementation in plain numpy.

    images: float32 [N, C, H, W]. A quantizer counts by the name of its QuantizeLinear node.
    """
    from onnx.reference import ReferenceEvaluator

    by_name = {point_name_of(quantizer): quantizer for quantizer in quantizers(model)}
    proto: onnx.ModelProto = ir.to_proto(model)
    integers = [_held(quantizer.dequantize) for quantizer in by_name.values()]
    evaluator = ReferenceEvaluator(proto)
    input_name = proto.graph.input[0].name
    outputs = [value.name for value in proto.graph.output]
    logits, *values = _run(evaluator, [*outputs, *integers], {input_name: images})
    points: dict[str, Steps] = {}
    for (name, quantizer), value in zip(by_name.items(), values, strict=True):
        points[name] = Steps(quantizer.scale, value.astype(np.int32) - quantizer.zero_point)
    return OracleRun(points, logits)


def _held(dequantize: ir.Node) -> str:
    value = dequantize.inputs[0]
    assert value is not None
    return str(value.name)


def _run(evaluator: object, names: list[str], feeds: dict[str, Array]) -> list[Array]:
    results: list[Array] = evaluator.run(names, feeds, intermediate=False)  # type: ignore[attr-defined]
    return results


@dataclass(frozen=True)
class Comparison:
    """wrong: one line for each difference that is no tie. touched: images with a tie."""

    wrong: list[str]
    touched: NDArray[np.bool_]
    ties: int


def compare_integers(trace: Trace, computed: dict[str, Steps]) -> Comparison:
    """Hold a graph's integers to PyTorch's, quantizer by quantizer in the order of execution.

    In an image that no tie has touched yet, an integer may differ by one where PyTorch's own
    value lay within `TIE` of the middle; from then on the image's later values differ for that
    reason and are not looked at. Quantizers that the graph no longer has are passed over, and so
    are those that a pass has moved over a pooling or a reshaping.
    """
    touched = np.zeros(len(trace.logits), dtype=bool)
    wrong: list[str] = []
    ties = 0
    for point in trace.points:
        other = computed.get(point.name)
        if other is None or other.integers.shape != point.integers.shape:
            continue
        if not np.isclose(other.scale, point.scale, rtol=1e-6, atol=0):
            wrong.append(f"{point.name}: scale {other.scale:g} instead of {point.scale:g}")
            continue
        off = other.integers - point.integers
        off[touched] = 0
        excused = (np.abs(off) == 1) & _near_middle(point.values)
        if (bad := (off != 0) & ~excused).any():
            where = tuple(int(i) for i in np.argwhere(bad)[0])
            wrong.append(
                f"{point.name}{list(where)}: {int(bad.sum())} integers differ, the first by "
                f"{int(off[where])} where PyTorch rounded {float(point.values[where]):.6f}"
            )
        ties += int((off != 0).sum())
        touched |= (off != 0).reshape(len(off), -1).any(axis=1)
    return Comparison(wrong, touched, ties)


def _near_middle(values: Array) -> NDArray[np.bool_]:
    result: NDArray[np.bool_] = np.abs(values - np.floor(values) - 0.5) <= TIE
    return result


def prone(trace: Trace) -> NDArray[np.bool_]:
    """Images [N] in which some value lies so close to the middle that it may round either way."""
    images = np.zeros(len(trace.logits), dtype=bool)
    for point in trace.points:
        images |= _near_middle(point.values).reshape(len(images), -1).any(axis=1)
    return images


def different(logits: Array, expected: Array) -> NDArray[np.bool_]:
    """Images [N] whose logits differ by more than the rounding of the last sums."""
    largest = np.abs(expected).max(axis=1)
    result: NDArray[np.bool_] = np.abs(logits - expected).max(axis=1) > ROUNDING * largest
    return result
