"""Faults planted in artifacts, as an exporter or a runtime that is wrong would make them.

``plant`` changes ``model.onnx`` alone, at one layer or tensor, writes the target's own files from
it anew and seals the artifact again: the manifest, ``reference.onnx`` and the stored logits stay
those of the sound network. `eqnet verify` has to find the place
(``benchmarks/verify_faults.py``, ``tests/stages/verify/test_locate.py``).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from eqnet.backend.artifact import read_manifest, write_manifest
from eqnet.backend.discovery import find_exporter
from eqnet.backend.files import sha256_file
from eqnet.backend.graph.reading import Quantizer, constant, load_graph
from eqnet.backend.inside.fed_graph import points_of
from eqnet.spec.manifest import MODEL, Manifest

Rng = np.random.Generator
# A factor nearer to 1 than this is hardly a fault.
LEAST_FACTOR, MOST_FACTOR = 1.3, 8.0
# Of gamma / sigma between channels: the standard deviation of its logarithm.
BATCH_NORM_SPREAD = 0.5
# Of the largest sum that an emulated accumulator of 16 bits holds.
SATURATED = (0.2, 0.6)


@dataclass(frozen=True)
class Planted:
    """Where a fault is. tensor: only of a fault in a tensor's quantizer. text: what was done."""

    kind: str
    layer: str | None
    tensor: str | None
    text: str


class NoPlaceError(Exception):
    """The network has no place for this kind of fault."""


def plant(folder: Path, kind: str, rng: Rng) -> Planted:
    """Plant a fault of a kind, a key of `KINDS`, at a random place of an artifact, in place.

    Raises NoPlaceError, and changes nothing, where the network has none.
    """
    manifest, model = read_manifest(folder), load_graph(folder / MODEL)
    planted = KINDS[kind](model, manifest, rng)
    ir.save(model, folder / MODEL)
    find_exporter(manifest.backend).finish(folder, manifest.profile)
    seal(folder, manifest)
    return planted


def seal(folder: Path, manifest: Manifest) -> None:
    """Give the manifest the hashes of the files as they are."""
    files = {name: sha256_file(folder / name) for name in manifest.files}
    write_manifest(folder, manifest.model_copy(update={"files": files}))


def scale(model: ir.Model, manifest: Manifest, rng: Rng) -> Planted:
    """The scale of a layer's weights, or of a tensor, times a factor."""
    factor = _factor(rng)
    points = list(points_of(model).items())
    layers = _quantized(model, manifest)
    if points and (not layers or rng.random() < 0.5):
        name, quantizer = points[int(rng.integers(len(points)))]
        _rescale(quantizer, factor)
        return Planted("scale", None, name, f"scale of '{name}' times {factor:.3g}")
    layer = _any(layers, rng)
    _set(layer, "scale", layer.scale * np.float32(factor))
    return Planted("scale", layer.name, None, f"weights' scale times {factor:.3g}")


def axis(model: ir.Model, manifest: Manifest, rng: Rng) -> Planted:
    """A layer's scales in another order of channels, or its weights with two axes exchanged."""
    layers = _quantized(model, manifest)
    ways = [(layer, way) for layer in layers for way in _exchanges(layer)]
    if not ways:
        raise NoPlaceError("no layer has two channels or axes that can be exchanged")
    layer, way = ways[int(rng.integers(len(ways)))]
    if way == "scales":
        _set(layer, "scale", layer.scale[rng.permutation(_turned(len(layer.scale), rng))])
    else:
        first, second = (0, 1) if way == "channels" else (2, 3)
        _set(layer, "integers", np.ascontiguousarray(layer.integers.swapaxes(first, second)))
    return Planted("axis", layer.name, None, f"{way} in another order")


def batch_norm(model: ir.Model, manifest: Manifest, rng: Rng) -> Planted:
    """A layer whose gamma / sigma is lost from the scales and the bias, channel by channel."""
    layers = [one for one in _quantized(model, manifest) if one.scale.size > 1]
    layer = _any(layers, rng)
    factors = np.exp(rng.normal(0.0, BATCH_NORM_SPREAD, layer.scale.size)).astype(np.float32)
    _set(layer, "scale", layer.scale / factors)
    _change_bias(layer, 1 / factors)
    return Planted("batch_norm", layer.name, None, "gamma / sigma not folded")


def bias(model: ir.Model, manifest: Manifest, rng: Rng) -> Planted:
    """A layer whose bias is on another scale than its sums."""
    layers = [one for one in _quantized(model, manifest) if one.has_bias]
    layer, factor = _any(layers, rng), _factor(rng)
    _change_bias(layer, np.float32(factor), integers=True)
    return Planted("bias", layer.name, None, f"bias times {factor:.3g}")


def wide(model: ir.Model, manifest: Manifest, rng: Rng) -> Planted:
    """A layer whose weights fill 8 bits where the others keep to 7: the same real values.

    Kernels that add two products in 16 bits overflow there; others compute what they should.
    """
    layers = [one for one in _quantized(model, manifest) if _fits_twice(one.integers)]
    layer = _any(layers, rng)
    _set(layer, "integers", layer.integers * np.int8(2))
    _set(layer, "scale", layer.scale / np.float32(2))
    _finer_bias(layer)
    return Planted("wide", layer.name, None, "weights in 8 bits, without reduce_range")


def clipped(model: ir.Model, manifest: Manifest, rng: Rng) -> Planted:
    """A layer whose sums saturate, as a Clip in the graph: an emulated accumulator."""
    layer = _any(_quantized(model, manifest), rng)
    reach = np.abs(layer.integers.astype(np.float64)).reshape(len(layer.integers), -1).sum(axis=1)
    largest = float((reach * layer.scale.max()).max()) * 0.05
    limit = np.float32(largest * rng.uniform(*SATURATED))
    _after(layer.node, "Clip", [np.float32(-limit), limit])
    return Planted("clipped", layer.name, None, f"sums saturate at {limit:.3g} (emulated)")


def bfloat16(model: ir.Model, manifest: Manifest, rng: Rng) -> Planted:
    """A layer that reads, multiplies and gives bfloat16, as Casts in the graph: emulated."""
    layer = _any(_quantized(model, manifest), rng)
    for index in (0, 1):
        value = layer.node.inputs[index]
        assert value is not None
        layer.node.replace_input_with(index, _rounded(value, layer.node, before=True))
    output = layer.node.outputs[0]
    _rounded(output, layer.node, before=False)
    return Planted("bfloat16", layer.name, None, "in bfloat16 (emulated)")


KINDS: dict[str, Callable[[ir.Model, Manifest, Rng], Planted]] = {
    "scale": scale,
    "axis": axis,
    "batch_norm": batch_norm,
    "bias": bias,
    "wide": wide,
    "clipped": clipped,
    "bfloat16": bfloat16,
}


@dataclass
class _Layer:
    """A layer with a quantized weight. has_bias: one with a value other than 0."""

    name: str
    node: ir.Node
    dequantize: ir.Node
    integers: NDArray[Any]
    scale: NDArray[np.float32]
    bias: NDArray[Any] | None

    @property
    def has_bias(self) -> bool:
        return self.bias is not None and bool(np.any(self.bias))


def _quantized(model: ir.Model, manifest: Manifest) -> list[_Layer]:
    found = []
    for node in model.graph:
        if node.name not in manifest.layers or len(node.inputs) < 2 or node.inputs[1] is None:
            continue
        dequantize = node.inputs[1].producer()
        if dequantize is None or dequantize.op_type != "DequantizeLinear":
            continue
        integers, scales = constant(dequantize.inputs[0]), constant(dequantize.inputs[1])
        if integers is None or scales is None:
            continue
        found.append(
            _Layer(
                str(node.name),
                node,
                dequantize,
                np.asarray(integers),
                np.asarray(scales, np.float32),
                _bias_of(node),
            )
        )
    return found


def _any(layers: list[_Layer], rng: Rng) -> _Layer:
    if not layers:
        raise NoPlaceError("no layer of this kind")
    return layers[int(rng.integers(len(layers)))]


def _factor(rng: Rng) -> float:
    factor = float(np.exp(rng.uniform(np.log(LEAST_FACTOR), np.log(MOST_FACTOR))))
    return factor if rng.random() < 0.5 else 1 / factor


def _constant(node: ir.Node, index: int, array: NDArray[Any]) -> None:
    """Give one node a constant of its own, in place of one that others may share."""
    old, graph = node.inputs[index], node.graph
    assert old is not None
    assert isinstance(graph, ir.Graph)
    name = f"{node.name}.{index}.planted"
    value = ir.Value(name=name, const_value=ir.tensor(np.ascontiguousarray(array), name=name))
    value.shape, value.dtype = ir.Shape(array.shape), ir.DataType.from_numpy(array.dtype)
    graph.register_initializer(value)
    node.replace_input_with(index, value)


def _set(layer: _Layer, what: str, array: NDArray[Any]) -> None:
    index = 0 if what == "integers" else 1
    kept = layer.integers.dtype if what == "integers" else np.float32
    _constant(layer.dequantize, index, array.astype(kept))


def _rescale(quantizer: Quantizer, factor: float) -> None:
    scales = np.float32(quantizer.scale * factor)
    for node in (quantizer.quantize, quantizer.dequantize):
        _constant(node, 1, np.asarray(scales))


def _exchanges(layer: _Layer) -> list[str]:
    """Which orders of a layer can be changed so that something changes."""
    ways, shape = [], layer.integers.shape
    if layer.scale.size > 1 and np.ptp(layer.scale) > 0.1 * layer.scale.max():
        ways.append("scales")
    if shape[0] == shape[1] > 1:
        ways.append("channels")
    if len(shape) == 4 and shape[2] == shape[3] > 1:
        ways.append("sides")
    return ways


def _turned(count: int, rng: Rng) -> NDArray[np.int64]:
    return np.roll(np.arange(count), int(rng.integers(1, count)))


def _fits_twice(integers: NDArray[Any]) -> bool:
    """int8 weights that keep to 7 bits, and use them."""
    if integers.dtype != np.int8:
        return False
    low, high = int(integers.min(initial=0)), int(integers.max(initial=0))
    return low >= -64 and high <= 63 and max(-low, high) > 32


def _bias_of(node: ir.Node) -> NDArray[Any] | None:
    """Its integers where it has such, else its real values."""
    value = node.inputs[2] if len(node.inputs) > 2 else None
    producer = None if value is None else value.producer()
    if producer is not None and producer.op_type == "DequantizeLinear":
        return constant(producer.inputs[0])
    return constant(value)


def _change_bias(layer: _Layer, factors: Any, *, integers: bool = False) -> None:
    """Times factors. An int32 bias changes with its scale, or, as demanded, in its integers."""
    if layer.bias is None:
        return
    value = layer.node.inputs[2]
    assert value is not None
    producer = value.producer()
    if producer is None:
        _constant(layer.node, 2, (layer.bias * factors).astype(np.float32))
    elif integers:
        _constant(producer, 0, np.rint(layer.bias * np.float64(factors)).astype(np.int32))
    else:
        scales = constant(producer.inputs[1])
        assert scales is not None
        _constant(producer, 1, (scales * factors).astype(np.float32))


def _finer_bias(layer: _Layer) -> None:
    """The same bias where the weights' scale is half."""
    if layer.bias is None or layer.bias.dtype != np.int32:
        return
    _change_bias(layer, np.float64(2), integers=True)
    _change_bias(layer, np.float32(0.5))


def _after(node: ir.Node, op_type: str, constants: list[Any]) -> None:
    """Put an operator behind a node, for all that read it."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    output = node.outputs[0]
    inputs = [output]
    for number, array in enumerate(constants):
        name = f"{node.name}.{op_type}.{number}"
        value = ir.Value(name=name, const_value=ir.tensor(np.asarray(array), name=name))
        value.shape, value.dtype = ir.Shape([]), ir.DataType.FLOAT
        graph.register_initializer(value)
        inputs.append(value)
    made = ir.node(op_type, inputs, name=f"{node.name}.{op_type}")
    result = made.outputs[0]
    result.name, result.shape = f"{made.name}.output", output.shape
    result.dtype = ir.DataType.FLOAT
    _put_behind(output, [made], graph)


def _put_behind(output: ir.Value, made: list[ir.Node], graph: ir.Graph) -> None:
    """Let all that reads a value read what the last of these nodes makes of it."""
    producer, result = output.producer(), made[-1].outputs[0]
    assert producer is not None
    last = output.is_graph_output()
    uses = [use for use in output.uses() if use.node not in made]
    graph.insert_after(producer, made)
    for use in uses:
        use.node.replace_input_with(use.idx, result)
    if last:
        output.name, result.name = f"{output.name}.before", output.name
        for index, value in enumerate(graph.outputs):
            if value is output:
                graph.outputs[index] = result


def _rounded(value: ir.Value, node: ir.Node, *, before: bool) -> ir.Value:
    """Round a value to bfloat16: for `node`, which reads it, or for all that read it."""
    graph = node.graph
    assert isinstance(graph, ir.Graph)
    stem = f"{node.name}.{value.name}"
    down = ir.node("Cast", [value], {"to": int(ir.DataType.BFLOAT16)}, name=f"{stem}.bf16")
    up = ir.node("Cast", [down.outputs[0]], {"to": int(ir.DataType.FLOAT)}, name=f"{stem}.f32")
    for made, kind in ((down, ir.DataType.BFLOAT16), (up, ir.DataType.FLOAT)):
        out = made.outputs[0]
        out.name, out.shape = f"{made.name}.output", value.shape
        out.dtype = kind
    if before:
        graph.insert_before(node, [down, up])
        return up.outputs[0]
    _put_behind(value, [down, up], graph)
    return up.outputs[0]
