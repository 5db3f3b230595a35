"""A neutral graph cut at its quantizers: each part runs on integers that it is fed with.

A value on a rounding tie comes out one step apart where floats are summed in another order, and
a deep network can amplify that until its logits have little in common. So no part reads what the
parts before it made of the images: each reads the integers that PyTorch has there.
"""

from __future__ import annotations

from typing import Any

import onnx_ir as ir
from numpy.typing import NDArray

from eqnet.backend.graph.names import point_of
from eqnet.backend.graph.reading import Quantizer, constant, quantizers
from eqnet.backend.protocol import Array

FED = ".fed"


class FedGraph:
    """A neutral graph in ONNX Runtime, optimizations off, whose parts are fed one by one.

    quantizers: those of activations in graph order, by the name of their tensor and role. A
    quantizer of a constant, such as a table of positions, stays in the part that reads it.
    dequantized: scale and zero-point by which each is dequantized, which the cut takes out.
    """

    def __init__(self, model: ir.Model, threads: int | None = None) -> None:
        """Cut `model` in place, which is useless afterwards. threads: None leaves them open."""
        self.quantizers = {
            point_of(str(quantizer.quantize.name)): quantizer for quantizer in quantizers(model)
        }
        self.unknown = [
            str(node.name) for node in model.graph
            if node.op_type == "QuantizeLinear" and constant(node.inputs[0]) is None
            and point_of(str(node.name)) not in self.quantizers
        ]  # fmt: skip
        self.dequantized = {name: _grid(each) for name, each in self.quantizers.items()}
        self._input = str(model.graph.inputs[0].name)
        self._fed = [
            name for name, quantizer in self.quantizers.items() if _cut(model, quantizer, name)
        ]
        self._session = _open(model, threads)

    def run(self, images: Array, values: dict[str, Array]) -> tuple[Array, dict[str, NDArray[Any]]]:
        """Logits, and what each quantizer stores, of images float32 [N, C, H, W].

        values: for each quantizer the real values, float32 [N, ...], that its readers are fed.
        """
        feeds = {self._input: images, **{f"{name}{FED}": values[name] for name in self._fed}}
        logits, *stored = self._session.run(None, feeds)
        return logits, dict(zip(self.quantizers, stored, strict=True))


def _grid(quantizer: Quantizer) -> tuple[float, int] | None:
    """None for a DequantizeLinear without constant scalars."""
    _, scale, *more = quantizer.dequantize.inputs
    values = [constant(value) for value in (scale, *more)]
    if any(value is None or value.size != 1 for value in values):
        return None
    known = [value.item() for value in values if value is not None]
    return float(known[0]), int(known[1]) if len(known) > 1 else 0


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
