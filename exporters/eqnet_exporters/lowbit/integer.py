"""From the neutral graph to ``integer.json``: a network that integer-only hardware can run.

Between two quantizers stands one sum of integers (a convolution, a dense layer, a sum of two
tensors, an average), whose unit is a known real number ``u``. Its quantizer, of scale s, becomes
``round(sum * m / 2^k)`` with ``m / 2^k = u / s``: a 31-bit multiplier and a right shift for each
output channel. Convolution, ReLU and ReLU6, and the quantizer are one op so.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from onnx_ir.passes.common import ShapeInferencePass

from eqnet.backend.graph.operators import operator_of
from eqnet.backend.graph.reading import Quantizer, quantizers
from eqnet.backend.lowbit.integer import FORMAT, PACKED, VERSION
from eqnet_exporters.lowbit.integer_parts import (
    INT32,
    NotIntegerOnlyError,
    ScaleArray,
    fixed_point,
    flattens,
    ints,
    is_plain,
    largest_of,
    reach,
    refusal,
    window,
)
from eqnet_exporters.lowbit.layers import Layer, Weight, layers
from eqnet_exporters.passes._build import prefix
from eqnet_exporters.passes.fold_activations import fold_activations
from eqnet_exporters.passes.share_quantizers import share_quantizers
from eqnet_exporters.passes.tidy import tidy

# Finer than any sum of 8-bit products is told apart by, and far from the end of int32.
LOGIT_STEPS = 1 << 24


@dataclass(frozen=True)
class _Sum:
    """A sum of integers that no quantizer has read yet.

    units: for each input, the real value of one, float64 [1] or [channels]. reach: the largest
    real value that the sum can have.
    """

    op: dict[str, Any]
    units: list[ScaleArray]
    reach: float


@dataclass(frozen=True)
class _Joined:
    """A concatenation that no quantizer has read yet."""

    name: str
    inputs: list[str]


def integer_program(reference: ir.Model) -> dict[str, Any]:
    """The content of ``integer.json`` for a neutral graph.

    Raises NotIntegerOnlyError, which names the node, for a network with a float op, a layer in the
    remainder or a tensor without quantizer.
    """
    model = reference.clone()
    tidy(model)
    share_quantizers(model)
    fold_activations(model)
    model = ShapeInferencePass()(model).model
    return _Builder(model).build()


@dataclass
class _Builder:
    model: ir.Model
    tensors: dict[str, dict[str, Any]] = field(default_factory=dict)
    ops: list[dict[str, Any]] = field(default_factory=list)
    values: dict[ir.Value, str | _Sum | _Joined] = field(default_factory=dict)
    source: str | None = None

    def build(self) -> dict[str, Any]:
        """Walk the graph once, in order."""
        points = {quantizer.quantize: quantizer for quantizer in quantizers(self.model)}
        by_node = {layer.node: layer for layer in layers(self.model)}
        parts: set[ir.Node | None] = set()  # of quantizers and of quantized weights
        for quantizer in points.values():
            parts |= {quantizer.dequantize, quantizer.clip}
        for layer in by_node.values():
            if layer.weight is not None:
                parts.add(layer.weight.dequantize)
        for node in self.model.graph:
            if node in points:
                self._quantize(points[node])
            elif node in by_node:
                self.values[node.outputs[0]] = self._layer(by_node[node])
            elif node not in parts:
                self.values[node.outputs[0]] = self._other(node)
        return self._result()

    def _result(self) -> dict[str, Any]:
        output = self._output()
        shape = self.model.graph.inputs[0].shape
        if self.source is None or shape is None:
            raise NotIntegerOnlyError("the input has no quantizer")
        return {
            "format": FORMAT,
            "version": VERSION,
            "rounding": "half_even",
            "weights": PACKED,
            "input": {"tensor": self.source, "shape": [int(str(size)) for size in shape[1:]]},
            "output": {"tensor": output},
            "tensors": self.tensors,
            "ops": self.ops,
        }

    def _output(self) -> str:
        """The tensor of the logits; sums that nothing quantizes get a grid of 25 bits."""
        value = self.model.graph.outputs[0]
        state = self.values.get(value)
        if isinstance(state, str):
            return state
        if not isinstance(state, _Sum):
            raise NotIntegerOnlyError("the logits come from no integer op")
        name = value.name or "logits"
        self._emit(state, name, state.reach / LOGIT_STEPS or 1.0, 0, *INT32)
        return name

    # --- quantizers ---

    def _quantize(self, quantizer: Quantizer) -> None:
        name, state = prefix(quantizer), self.values.get(quantizer.source)
        grid = (quantizer.scale, quantizer.zero_point, quantizer.lo, quantizer.hi)
        if quantizer.source in self.model.graph.inputs:
            if self.source is not None:
                raise NotIntegerOnlyError(f"'{name}': the input has two quantizers")
            self.source = name
            self._tensor(name, *grid)
        elif isinstance(state, str):
            name = self._requantized(state, name, *grid)
        elif isinstance(state, _Joined):
            parts = []
            for index, part in enumerate(state.inputs):
                parts.append(self._requantized(part, f"{name}.{index}", *grid))
            self._tensor(name, *grid)
            self.ops.append(_op("concat", state.name, parts, name))
        elif state is None:
            raise NotIntegerOnlyError(f"'{name}' quantizes no known tensor")
        else:
            self._emit(state, name, *grid)
        self.values[quantizer.output] = name

    def _requantized(
        self, source: str, name: str, scale: float, zero: int, lo: int, hi: int
    ) -> str:
        """The tensor `source` on another grid: itself where the grid is its own."""
        grid = self.tensors[source]
        same = (grid["scale"], grid["zero_point"]) == (scale, zero)
        if same and lo <= grid["lo"] and grid["hi"] <= hi:
            return source
        op = {"op": "requantize", "name": name, "inputs": [source]}
        self._emit(_Sum(op, [_unit(grid)], reach(grid)), name, scale, zero, lo, hi)
        return name

    def _tensor(self, name: str, scale: float, zero: int, lo: int, hi: int) -> None:
        self.tensors[name] = {"scale": scale, "zero_point": zero, "lo": lo, "hi": hi}

    def _emit(self, done: _Sum, name: str, scale: float, zero: int, lo: int, hi: int) -> None:
        ratios = [unit / scale for unit in done.units]
        multipliers, shift = fixed_point(done.op["name"], ratios)
        self._tensor(name, scale, zero, lo, hi)
        self.ops.append({**done.op, "output": name, "multiplier": multipliers, "shift": shift})

    # --- ops ---

    def _grid(self, value: ir.Value | None, node: ir.Node) -> str:
        state = self.values.get(value) if value is not None else None
        if not isinstance(state, str):
            raise NotIntegerOnlyError(
                f"{node.op_type} '{node.name}' reads a float tensor (allowed: quantized ones)"
            )
        return state

    def _layer(self, layer: Layer) -> _Sum:
        node, weight = layer.node, layer.weight
        if weight is None:
            raise NotIntegerOnlyError(
                f"layer '{layer.name}' stays in float (allowed: integer layers)"
            )
        source = self._grid(node.inputs[0], node)
        op: dict[str, Any] = {"name": layer.name, "inputs": [source]}
        op["weight"] = f"{layer.name}.weight"
        if node.op_type == "Conv" and weight.integers.ndim == 4:
            op |= {"op": "conv", **window(node, 2), "group": node.attributes.get_int("group", 1)}
        elif node.op_type == "Gemm" and is_plain(node):
            op |= {"op": "gemm"}
        else:
            raise refusal(node)
        if weight.axis != 0:
            raise NotIntegerOnlyError(f"layer '{layer.name}': scales along axis {weight.axis}")
        if layer.bias is not None:
            if layer.bias_steps is None:
                raise NotIntegerOnlyError(f"layer '{layer.name}': its bias is on no integer grid")
            op |= {"bias": f"{layer.name}.bias", "bias_shift": weight.shift}
        shift = op.get("bias_shift", 0)
        unit = self.tensors[source]["scale"] * weight.scale.astype(np.float64) / (1 << shift)
        sums = self._largest_sums(layer, weight, source, shift)
        return _Sum(op, [unit], float((sums * unit).max()))

    def _largest_sums(
        self, layer: Layer, weight: Weight, source: str, shift: int
    ) -> NDArray[np.int64]:
        """The largest possible sum of each channel, int64 [channels].

        Raises NotIntegerOnlyError where one does not fit into int32.
        """
        largest = largest_of(self.tensors[source])
        zero = weight.zero_point.astype(np.int64).reshape(-1, *[1] * (weight.integers.ndim - 1))
        rows = np.abs(weight.integers.astype(np.int64) - zero).reshape(len(weight.integers), -1)
        sums: NDArray[np.int64] = rows.sum(axis=1) * largest << shift
        if layer.bias_steps is not None:
            sums = sums + np.abs(layer.bias_steps.astype(np.int64))
        if sums.max() > INT32[1]:
            raise NotIntegerOnlyError(f"layer '{layer.name}': its sums can pass 32 bits")
        return sums

    def _other(self, node: ir.Node) -> str | _Sum | _Joined:
        kind, first = node.op_type, node.inputs[0]
        if kind == "Add":
            return self._add(node)
        if kind == "Concat" and node.attributes.get_int("axis", 0) in (1, -3):
            return _Joined(_name(node), [self._grid(value, node) for value in node.inputs])
        if kind in ("GlobalAveragePool", "AveragePool"):
            return self._average(node)
        if kind == "MaxPool" and not any(value.uses() for value in node.outputs[1:]):
            options = {"kernel": ints(node, "kernel_shape", [1, 1]), **window(node, 2)}
            return self._moved("max_pool", node, self._grid(first, node), options)
        if operator_of(node).flattens and flattens(node):
            return self._moved("flatten", node, self._grid(first, node), {})
        raise refusal(node)

    def _moved(self, op: str, node: ir.Node, source: str, options: dict[str, Any]) -> str:
        """An op that selects or reorders integers: the output has its input's grid."""
        name = _name(node)
        self.tensors[name] = dict(self.tensors[source])
        self.ops.append({**_op(op, name, [source], name), **options})
        return name

    def _add(self, node: ir.Node) -> _Sum:
        first, second = node.inputs
        if first is None or second is None or first.shape != second.shape:
            raise refusal(node)
        names = [self._grid(value, node) for value in node.inputs]
        op = {"op": "add", "name": _name(node), "inputs": names}
        grids = [self.tensors[name] for name in names]
        return _Sum(op, [_unit(grid) for grid in grids], sum(reach(grid) for grid in grids))

    def _average(self, node: ir.Node) -> _Sum:
        source, shape = self._grid(node.inputs[0], node), node.inputs[0].shape  # type: ignore[union-attr]  # a grid's value
        if node.op_type == "AveragePool":
            options = {"kernel": ints(node, "kernel_shape", [1, 1]), **window(node, 2)}
            counts = node.attributes.get_int("count_include_pad", 0) or not any(options["pads"])
            if not counts or options.pop("dilations") != [1, 1]:
                raise NotIntegerOnlyError(
                    f"AveragePool '{node.name}' divides by another count at edges"
                )
        elif shape is None or len(shape) != 4 or not all(isinstance(n, int) for n in shape[2:]):
            raise refusal(node)
        else:
            kernel = [int(str(n)) for n in shape[2:]]
            options = {"kernel": kernel, "strides": [1, 1], "pads": [0] * 4}
        op = {"op": "average_pool", "name": _name(node), "inputs": [source], **options}
        grid = self.tensors[source]
        return _Sum(op, [_unit(grid) / math.prod(options["kernel"])], reach(grid))


def _unit(grid: dict[str, Any]) -> ScaleArray:
    return np.array([grid["scale"]], dtype=np.float64)


def _op(kind: str, name: str, inputs: list[str], output: str) -> dict[str, Any]:
    return {"op": kind, "name": name, "inputs": inputs, "output": output}


def _name(node: ir.Node) -> str:
    return node.name or node.outputs[0].name or node.op_type
