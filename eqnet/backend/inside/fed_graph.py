"""A neutral graph cut at its quantizers: each part runs on values that it is fed with.

A value on a rounding tie comes out one step apart where floats are summed in another order, and
a deep network can amplify that until its logits have little in common. So no part reads what the
parts before it made of the images: each reads what another implementation (PyTorch at export, the
deployed runtime in verification) has there, and the difference is that part's alone.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from eqnet.backend.graph.point_names import point_of
from eqnet.backend.graph.reading import Quantizer, constant, quantizers
from eqnet.backend.protocol import Array

FED = ".fed"


Stored = tuple[Array, dict[str, NDArray[Any]]]
"""Logits, and the integers of each quantizer."""


def points_of(model: ir.Model) -> dict[str, Quantizer]:
    """The activation quantizers of a graph by the name of their tensor and role, in order."""
    return {point_of(str(found.quantize.name)): found for found in quantizers(model)}


class FedGraph:
    """A neutral graph in ONNX Runtime, optimizations off, whose parts are fed one by one.

    quantizers: those of activations in graph order, by the name of their tensor and role. A
    quantizer of a constant, such as a table of positions, stays in the part that reads it.
    dequantized: scale and zero-point by which each is dequantized, which the cut takes out.
    """

    def __init__(
        self, model: ir.Model, threads: int | None = None, only: Collection[str] | None = None
    ) -> None:
        """Cut `model` in place, which is useless afterwards. threads: None leaves them open.

        only: names of the quantizers to cut at, all by default.
        """
        self.quantizers: dict[str, Quantizer] = {}
        self.dequantized: dict[str, tuple[float, int] | None] = {}
        every = points_of(model)
        for name, quantizer in every.items():
            if only is None or name in only:
                self.quantizers[name] = quantizer
                self.dequantized[name] = _grid(quantizer)
        self.unknown = _unknown(model, every)
        self._input = str(model.graph.inputs[0].name)
        self._fed = []
        for name, quantizer in self.quantizers.items():
            if _cut(model, quantizer, name):
                self._fed.append(name)
        self._session = _open(model, threads)

    def run(self, images: Array, values: Mapping[str, Array]) -> Stored:
        """Logits, and what each quantizer stores, of images float32 [N, C, H, W].

        values: for each quantizer the real values, float32 [N, ...], that its readers are fed.
        """
        feeds = {self._input: images}
        for name in self._fed:
            feeds[f"{name}{FED}"] = values[name]
        logits, *stored = self._session.run(None, feeds)
        return logits, dict(zip(self.quantizers, stored, strict=True))


def _unknown(model: ir.Model, known: Collection[str]) -> list[str]:
    """Quantizers of activations that are not of the form that `quantizers` reads."""
    names = []
    for node in model.graph:
        if node.op_type != "QuantizeLinear" or constant(node.inputs[0]) is not None:
            continue
        name = str(node.name)
        if point_of(name) not in known:
            names.append(name)
    return names


def _grid(quantizer: Quantizer) -> tuple[float, int] | None:
    """None for a DequantizeLinear without constant scalars."""
    numbers = []
    for value in quantizer.dequantize.inputs[1:]:
        array = constant(value)
        if array is None or array.size != 1:
            return None
        numbers.append(array.item())
    scale, zero_point = numbers if len(numbers) > 1 else (numbers[0], 0)
    return float(scale), int(zero_point)


def _cut(model: ir.Model, quantizer: Quantizer, name: str) -> bool:
    """Make the integers an output, and what their readers see an input; False without readers."""
    stored, output = quantizer.dequantize.inputs[0], quantizer.output
    assert stored is not None
    model.graph.outputs.append(stored)
    if output.is_graph_output():
        return False
    fed = ir.Value(name=f"{name}{FED}", shape=output.shape, type=ir.TensorType(ir.DataType.FLOAT))
    ir.convenience.replace_all_uses_with(output, fed)
    model.graph.remove(quantizer.dequantize)
    model.graph.inputs.append(fed)
    return True


def _open(model: ir.Model, threads: int | None) -> Any:
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.log_severity_level = 3
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if threads is not None:
        options.intra_op_num_threads = threads
    content = ir.to_proto(model).SerializeToString()
    return ort.InferenceSession(content, options, providers=["CPUExecutionProvider"])
