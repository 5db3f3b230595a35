"""Why a tensor is wrong, as far as the constants of both graphs tell."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import combinations
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from eqnet.backend.graph.reading import STORAGE, Quantizer, constant, dequantized
from eqnet.backend.inside.fed_graph import points_of
from eqnet.backend.inside.matching import Part, parts_before
from eqnet.backend.protocol import Exporter, cpu_of
from eqnet.spec.judging.comparison import Grid
from eqnet.stages.verify.tensors.probing import Graphs

# Equal real values differ by float32 rounding: of a scale that a rewrite divided and multiplied.
EQUAL = 1e-5
SEVERAL = 3
# Two products of larger weights with activations of 8 bits pass the end of 16 bits.
SAFE_WEIGHT = 64


@dataclass(frozen=True)
class Cause:
    """layer: whose tensor it is, where one alone may be. text: one line, empty where unknown."""

    layer: str | None = None
    text: str = ""
    grid: Grid | None = None
    reference_grid: Grid | None = None


@dataclass(frozen=True)
class Weight:
    """A layer's weight: integers and scale where it is quantized, and real values in any case."""

    integers: NDArray[Any] | None
    scale: NDArray[Any] | None
    real: NDArray[Any]


@dataclass(frozen=True)
class Evidence:
    """What was found of one run.

    first: the first tensor beyond its tolerance, None where there is none. parts: of the reference.
    seen: point -> value of the deployed graph. wrong: how many are,
    of `tensors`. both: whether it is wrong without optimizations too, None where only one run was
    made. own_runtime: whether the backend itself ran, of which `exporter` tells.
    """

    graphs: Graphs
    first: str | None
    parts: Mapping[str, Part]
    seen: Mapping[str, str]
    wrong: int
    tensors: int
    exporter: Exporter
    both: bool | None
    own_runtime: bool


def explain(found: Evidence) -> Cause:
    """Name the layer of the first wrong tensor, and what of it differs from the reference."""
    if found.first is None:
        return Cause()
    graphs, part = found.graphs, found.parts[found.first]
    ours, theirs = graphs.points.get(found.first), points_of(graphs.model).get(found.first)
    told = {layer: text for layer in part.layers if (text := _layer(graphs, layer))}
    layer = next(iter([*told, *_suspects(found, part), *part.layers]), None)
    lines = [text for text in (_grid(found.first, ours, theirs), *told.values()) if text]
    lines = lines or _further(found)
    if not lines:
        lines = [_operators(found) or _runtime(found, part)]
    if found.wrong > SEVERAL and 2 * found.wrong > found.tensors:
        lines.insert(
            0,
            f"{found.wrong} of {found.tensors} tensors are beyond their tolerance, as by a setting "
            "of the runtime (a precision such as bfloat16) rather than by one layer",
        )
    return Cause(layer, "; ".join(lines), grid_of(theirs), grid_of(ours))


def grid_of(quantizer: Quantizer | None) -> Grid | None:
    """A quantizer's grid, for the report."""
    if quantizer is None:
        return None
    return Grid(
        scale=quantizer.scale,
        zero_point=quantizer.zero_point,
        lo=quantizer.lo,
        hi=quantizer.hi,
    )


def _grid(name: str, ours: Quantizer | None, theirs: Quantizer | None) -> str:
    """What of a tensor's quantizer differs. Integers may be stored signed or unsigned."""
    if ours is None or theirs is None:
        return ""
    back = constant(theirs.dequantize.inputs[1])
    if back is not None and not np.isclose(back, theirs.scale, rtol=EQUAL, atol=0).all():
        return (
            f"'{name}' is quantized by the scale {theirs.scale:.6g} and dequantized by "
            f"{float(back.flat[0]):.6g} (reference: {ours.scale:.6g})"
        )
    if not np.isclose(ours.scale, theirs.scale, rtol=EQUAL, atol=0):
        return (
            f"the scale of '{name}' is {theirs.scale / ours.scale:.4g} times the reference's "
            f"({theirs.scale:.6g} instead of {ours.scale:.6g})"
        )
    moved = ours.zero_point + STORAGE[theirs.dtype][0] - STORAGE[ours.dtype][0]
    if theirs.zero_point not in (ours.zero_point, moved):
        return f"the zero-point of '{name}' is {theirs.zero_point} (reference: {moved} as stored)"
    return ""


def _layer(graphs: Graphs, name: str) -> str:
    """What of a layer's constants differs, or nothing."""
    ours, theirs = _node(graphs.reference, name), _node(graphs.model, name)
    if ours is None or theirs is None:
        return f"layer '{name}' is not in the deployed graph" if theirs is None else ""
    weights = (_weight(ours), _weight(theirs))
    weight = _weights(name, *weights)
    # Where tensors are moved, biases take the difference.
    bias = "" if graphs.offsets() else _biases(name, _bias(ours), _bias(theirs))
    if weight.startswith("scales") and bias and _spread(*weights):
        return (
            f"the weights' scales and the bias of '{name}' are other than the reference's channel "
            "by channel, as where a batch norm is not folded"
        )
    return "; ".join(text for text in (weight.removeprefix("scales: "), bias) if text)


def _node(model: ir.Model, name: str) -> ir.Node | None:
    return next((node for node in model.graph if node.name == name), None)


def _weight(layer: ir.Node) -> Weight | None:
    value = layer.inputs[1] if len(layer.inputs) > 1 else None
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        real = dequantized(producer)
        integers, scale = constant(producer.inputs[0]), constant(producer.inputs[1])
        return None if real is None else Weight(integers, scale, real)
    plain = constant(value)
    return None if plain is None else Weight(None, None, plain)


def _bias(layer: ir.Node) -> NDArray[Any] | None:
    """Real values of a layer's bias; None where it has none or a rewrite computes it."""
    value = layer.inputs[2] if len(layer.inputs) > 2 else None
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        return dequantized(producer)
    return constant(value)


def _weights(name: str, ours: Weight | None, theirs: Weight | None) -> str:
    """What differs; with ``scales: `` in front where the integers are equal."""
    if ours is None or theirs is None:
        return ""
    if ours.real.shape != theirs.real.shape:
        shapes = f"{list(theirs.real.shape)} (reference: {list(ours.real.shape)})"
        return f"the weights of '{name}' have the shape {shapes}"
    if _equal(ours.real, theirs.real):
        return ""
    a, b = ours.integers, theirs.integers
    if a is None or b is None:
        return _values(f"the weights of '{name}'", ours.real, theirs.real)
    if not np.array_equal(a, b):
        return _integers(f"the weights of '{name}'", a, b, ours.real, theirs.real)
    if ours.scale is None or theirs.scale is None or _equal(ours.scale, theirs.scale):
        return f"the weights of '{name}' are dequantized along another axis or zero-point"
    return f"scales: {_values(f'''the weights' scales of '{name}' ''', ours.scale, theirs.scale)}"


def _integers(
    what: str,
    a: NDArray[Any],
    b: NDArray[Any],
    ours: NDArray[Any],
    theirs: NDArray[Any],
) -> str:
    """How integers became others, of the real values `ours` and `theirs`."""
    for first, second in combinations(range(a.ndim), 2):
        if np.array_equal(b, a.swapaxes(first, second)):
            return f"{what}: axes {first} and {second} are exchanged"
    if np.array_equal(np.sort(a, axis=None), np.sort(b, axis=None)):
        return f"{what}: the reference's integers in another order, as with a swapped axis"
    return _values(what, ours, theirs)


def _biases(name: str, ours: NDArray[Any] | None, theirs: NDArray[Any] | None) -> str:
    if ours is None or theirs is None or _equal(ours, theirs):
        return ""
    text = _values(f"the bias of '{name}'", ours, theirs)
    return f"{text}: on another scale" if "times" in text else text


def _values(what: str, ours: NDArray[Any], theirs: NDArray[Any]) -> str:
    """How one array became another: by a factor, in another order, or in some values."""
    what = what.strip()
    a, b = np.atleast_1d(ours).astype(np.float64), np.atleast_1d(theirs).astype(np.float64)
    if a.shape != b.shape:
        return f"{what}: {b.size} values (reference: {a.size})"
    ratio = _ratio(a, b)
    if ratio is not None:
        return f"{what}: {ratio:.4g} times the reference's"
    if np.allclose(np.sort(a, axis=None), np.sort(b, axis=None), rtol=EQUAL, atol=0):
        return f"{what}: the reference's in another order, as with a swapped axis"
    other = int(np.count_nonzero(~_close(a, b)))
    return f"{what}: {other} of {a.size} values are not the reference's"


def _ratio(a: NDArray[np.float64], b: NDArray[np.float64]) -> float | None:
    """The one factor between two arrays; None where there is none, or it is 1."""
    largest = int(np.abs(a).argmax())
    if a.flat[largest] == 0:
        return None
    ratio = float(b.flat[largest] / a.flat[largest])
    off = np.abs(b - ratio * a).max()
    return ratio if off <= 1e-3 * abs(ratio * a.flat[largest]) and ratio != 1 else None


def _spread(ours: Weight | None, theirs: Weight | None) -> bool:
    """Whether the factor between the scales is another one for each channel."""
    if ours is None or theirs is None or ours.scale is None or theirs.scale is None:
        return False
    if ours.scale.size < 2 or ours.scale.shape != theirs.scale.shape:
        return False
    a, b = ours.scale.astype(np.float64), theirs.scale.astype(np.float64)
    return _ratio(a, b) is None


def _equal(a: NDArray[Any], b: NDArray[Any]) -> bool:
    return a.shape == b.shape and bool(_close(a.astype(np.float64), b.astype(np.float64)).all())


def _close(a: NDArray[np.float64], b: NDArray[np.float64]) -> NDArray[np.bool_]:
    near: NDArray[np.bool_] = np.isclose(a, b, rtol=EQUAL, atol=EQUAL * np.abs(a).max(initial=0))
    return near


def _further(found: Evidence) -> list[str]:
    """Quantizers that the target's form adds there, with a scale that no tensor there has."""
    assert found.first is not None
    deployed, points = _deployed_part(found), found.graphs.points
    if deployed is None:
        return []
    near = [*found.parts[found.first].reads, found.first]
    scales = [points[name].scale for name in near if name in points]
    lines = []
    for name, quantizer in points_of(found.graphs.model).items():
        inside = str(quantizer.quantize.name) in deployed.nodes and name not in points
        if inside and not np.isclose(quantizer.scale, scales, rtol=EQUAL, atol=0).any():
            listed = ", ".join(f"{scale:.6g}" for scale in scales)
            lines.append(
                f"the quantizer '{name}' has the scale {quantizer.scale:.6g} (the reference's "
                f"tensors there: {listed})"
            )
    return lines


def _deployed_part(found: Evidence) -> Part | None:
    """What the deployed graph has in place of the first wrong tensor's part."""
    assert found.first is not None
    return parts_before(found.graphs.model, found.seen).get(found.first)


def _suspects(found: Evidence, part: Part) -> list[str]:
    """Of layers with the reference's constants: those beside an operator that it has not, then
    those whose sums may overflow."""
    deployed = _deployed_part(found)
    more = set(deployed.operators - part.operators) if deployed is not None else set()
    beside = []
    for name in part.layers:
        node = _node(found.graphs.model, name)
        if node is not None and more & _around(node):
            beside.append(name)
    return [*beside, *(name for name in part.layers if _overflows(found, [name]))]


def _around(node: ir.Node) -> set[str]:
    """Op types of what makes a node's inputs and of what reads its outputs."""
    before = [value.producer() for value in node.inputs if value is not None]
    after = [reader for value in node.outputs for reader in value.consumers()]
    return {one.op_type for one in (*before, *after) if one is not None}


def _operators(found: Evidence) -> str:
    """Which operators the deployed graph has there that the reference has not."""
    assert found.first is not None
    deployed = _deployed_part(found)
    if deployed is None:
        return ""
    more = deployed.operators - found.parts[found.first].operators
    if not more:
        return ""
    listed = ", ".join(f"{count} {op}" for op, count in sorted(more.items()))
    return f"the deployed graph has operators there that the reference has not: {listed}"


def _runtime(found: Evidence, part: Part) -> str:
    """The constants are the reference's: the runtime computes otherwise."""
    equal = "the constants there are the reference's"
    if found.both is None or not found.own_runtime:
        return equal
    if found.both:
        return (
            f"{equal}, and optimizations make no difference: the runtime's own file holds "
            "something else than model.onnx, or an operator has another meaning there"
        )
    why = "a kernel or a fusion of the runtime"
    if _overflows(found, part.layers):
        why = "sums of 16 bits overflow, because this CPU has no VNNI and these weights fill 8 bits"
    return f"{equal}, and with optimizations off the runtime computes it rightly: {why}"


def _overflows(found: Evidence, layers: Iterable[str]) -> bool:
    """Whether this CPU adds products of int8 in 16 bits, and a weight is large enough."""
    if not cpu_of(found.exporter).adds_in_16_bits():
        return False
    for name in layers:
        node = _node(found.graphs.model, name)
        weight = None if node is None else _weight(node)
        if weight is None or weight.integers is None:
            continue
        if int(np.abs(weight.integers.astype(np.int32)).max(initial=0)) > SAFE_WEIGHT:
            return True
    return False
