"""Reading QDQ graphs, and their float twin. Shared by exporters, verification and benchmarks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from eqnet.backend.graph.operators import LAYER_OPS
from eqnet.spec.errors import ArtifactError, one_line

STORAGE: dict[ir.DataType, tuple[int, int]] = {
    ir.DataType.UINT8: (0, 255),
    ir.DataType.INT8: (-128, 127),
}


def load_graph(path: Path) -> ir.Model:
    """Read an ONNX file. Raises ArtifactError with one line."""
    with reading_errors(path):
        return ir.load(path)


@contextmanager
def reading_errors(path: Path) -> Iterator[None]:
    """Within: whatever a library raises of an ONNX file is an ArtifactError with one line."""
    try:
        yield
    except OSError as error:
        raise ArtifactError(f"{path}: cannot read: {error.strerror}") from error
    except Exception as error:  # protobuf's DecodeError has no public base
        raise ArtifactError(f"{path}: not an ONNX file: {one_line(error)}") from error


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The array of an initializer or of a Constant node, or None for anything else."""
    if value is None:
        return None
    tensor = ir.convenience.get_const_tensor(value)
    if tensor is None:
        return None
    return np.asarray(tensor.numpy())


def layers_of(model: ir.Model) -> dict[str, str]:
    """Name -> op type of every Conv, ConvTranspose, Gemm and MatMul, in graph order."""
    layers = {}
    for node in model.graph:
        if node.op_type in LAYER_OPS and node.name:
            layers[node.name] = node.op_type
    return layers


@dataclass
class Quantizer:
    """One activation quantizer: QuantizeLinear, an optional integer Clip, DequantizeLinear.

    lo, hi: the inclusive range of its integers, storage saturation and Clip taken together.
    """

    quantize: ir.Node
    clip: ir.Node | None
    dequantize: ir.Node
    scale: float
    zero_point: int
    lo: int
    hi: int

    @property
    def source(self) -> ir.Value:
        """The float tensor that is quantized."""
        value = self.quantize.inputs[0]
        assert value is not None
        return value

    @property
    def output(self) -> ir.Value:
        """The same tensor on the quantizer's grid."""
        return self.dequantize.outputs[0]

    @property
    def dtype(self) -> ir.DataType:
        """Storage type: UINT8 or INT8."""
        return storage_type(self.quantize)

    def same_grid(self, other: Quantizer) -> bool:
        """Whether both use the same integers for the same values."""
        return (self.scale, self.zero_point, self.lo, self.hi, self.dtype) == (
            other.scale,
            other.zero_point,
            other.lo,
            other.hi,
            other.dtype,
        )


def storage_type(quantize: ir.Node) -> ir.DataType:
    """Integer type that a QuantizeLinear node produces (its zero-point's; uint8 without one)."""
    zero = constant(_input(quantize, 2))
    if zero is None:
        return ir.DataType.UINT8
    return ir.DataType.from_numpy(zero.dtype)


def _scalar(value: ir.Value | None, default: float) -> float | None:
    """A scalar constant, `default` for an absent input, None for anything else."""
    if value is None:
        return default
    array = constant(value)
    if array is None or array.size != 1:
        return None
    number: float = array.item()
    return number


def _input(node: ir.Node, index: int) -> ir.Value | None:
    return node.inputs[index] if index < len(node.inputs) else None


def _only_reader(value: ir.Value) -> ir.Node | None:
    readers = value.consumers()
    if len(readers) != 1 or value.is_graph_output():
        return None
    return readers[0]


def quantizer_at(node: ir.Node) -> Quantizer | None:
    """The quantizer that starts at this QuantizeLinear, or None if it is of another form."""
    if node.op_type != "QuantizeLinear" or storage_type(node) not in STORAGE:
        return None
    scale, zero = _scalar(_input(node, 1), 1.0), _scalar(_input(node, 2), 0)
    lo, hi = STORAGE[storage_type(node)]
    reader, clip = _only_reader(node.outputs[0]), None
    if reader is not None and reader.op_type == "Clip":
        low, high = _scalar(_input(reader, 1), lo), _scalar(_input(reader, 2), hi)
        if low is None or high is None:
            return None
        lo, hi, clip = max(lo, int(low)), min(hi, int(high)), reader
        reader = _only_reader(clip.outputs[0])
    if reader is None or reader.op_type != "DequantizeLinear" or scale is None or zero is None:
        return None
    return Quantizer(node, clip, reader, float(scale), int(zero), lo, hi)


def quantizers(model: ir.Model) -> list[Quantizer]:
    """Every activation quantizer, in graph order."""
    of_activations = []
    for node in model.graph:
        if node.op_type == "QuantizeLinear" and constant(node.inputs[0]) is None:
            quantizer = quantizer_at(node)
            if quantizer is not None:
                of_activations.append(quantizer)
    return of_activations


def quantizer_of(value: ir.Value) -> Quantizer | None:
    """The quantizer whose output `value` is, or None."""
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear":
        return None
    while node is not None and node.op_type in ("DequantizeLinear", "Clip"):
        source = node.inputs[0]
        node = source.producer() if source is not None else None
    quantizer = quantizer_at(node) if node is not None else None
    if quantizer is None or quantizer.output is not value:
        return None
    return quantizer


def dequantized(node: ir.Node) -> NDArray[np.floating] | None:
    """The real values of a constant after DequantizeLinear: ``(q - z) * s`` along its axis.

    Returns an array of the constant's shape in the scale's dtype, or None if any input is not
    constant. Blocked scales are of another form and give None too.
    """
    integers, scale = constant(node.inputs[0]), constant(node.inputs[1])
    zero = constant(_input(node, 2))
    if integers is None or scale is None or (zero is None and _input(node, 2) is not None):
        return None
    shape = [1] * integers.ndim
    if scale.size > 1:
        axis = node.attributes.get_int("axis", 1)
        if scale.ndim != 1 or scale.size != integers.shape[axis]:
            return None
        shape[axis] = scale.size
    wide = integers.astype(np.int32)
    if zero is not None:
        wide = wide - _along(zero.astype(np.int32), shape)
    result: NDArray[np.floating] = wide.astype(scale.dtype) * _along(scale, shape)
    return result.astype(scale.dtype).reshape(integers.shape)


def _along(parameter: NDArray[Any], shape: list[int]) -> NDArray[Any]:
    """A scalar, or a vector that is to lie in `shape`, as an array of as many dimensions."""
    if parameter.size > 1:
        return parameter.reshape(shape)
    return parameter.reshape([1] * len(shape))


def _bypass(node: ir.Node) -> None:
    """Take a node out: its readers read its first input."""
    source = node.inputs[0]
    assert source is not None
    output, graph = node.outputs[0], node.graph
    assert graph is not None
    if output.is_graph_output():
        _keep_output_name(output, source, graph)
    output.replace_all_uses_with(source)
    graph.remove(node, safe=True)


def _keep_output_name(output: ir.Value, source: ir.Value, graph: ir.Graph) -> None:
    """Make `source` the graph output in place of `output`, under the same name."""
    name = output.name
    for index, value in enumerate(graph.outputs):
        if value is output:
            graph.outputs[index] = source
    output.name = f"{name}.quantized"
    source.name = name


def _fold_constant(node: ir.Node) -> bool:
    """Replace DequantizeLinear of a constant by a float initializer; False if it is none."""
    values = dequantized(node)
    graph = node.graph
    if values is None or graph is None or not isinstance(graph, ir.Graph):
        return False
    source = node.inputs[0]
    assert source is not None
    name = f"{source.name}.float"
    if name in graph.initializers:
        name = f"{name}.{node.outputs[0].name}"
    folded = ir.Value(name=name, const_value=ir.tensor(values, name=name))
    folded.shape, folded.dtype = ir.Shape(values.shape), ir.DataType.from_numpy(values.dtype)
    graph.register_initializer(folded)
    node.outputs[0].replace_all_uses_with(folded)
    graph.remove(node, safe=True)
    return True


def is_integer_clip(node: ir.Node) -> bool:
    """Whether a node is a Clip between integers, part of a quantizer."""
    if node.op_type != "Clip":
        return False
    for bound in node.inputs[1:]:
        if bound is not None:
            array = constant(bound)
            return array is not None and np.issubdtype(array.dtype, np.integer)
    return False


def remove_unused(model: ir.Model) -> None:
    """Drop nodes and initializers that nothing reads, in place."""
    from onnx_ir.passes.common import RemoveUnusedNodesPass

    RemoveUnusedNodesPass()(model)


def strip_qdq(model: ir.Model) -> ir.Model:
    """The float twin of a QDQ graph: the same net with no quantization left to execute.

    Weights become float initializers of the same real values; every activation
    QuantizeLinear, integer Clip and DequantizeLinear is taken out. Returns a new model and
    leaves `model` as it is; inputs and outputs keep their names.

    Give it the neutral graph (``reference.onnx``): a target's own passes may have folded a Relu
    into the saturation of the quantizer after it, and the twin would then lack the Relu.
    """
    twin = model.clone()
    for node in list(twin.graph):
        if node.op_type == "DequantizeLinear" and _fold_constant(node):
            continue
        if node.op_type in ("QuantizeLinear", "DequantizeLinear") or is_integer_clip(node):
            _bypass(node)
    remove_unused(twin)
    _forget_integer_types(twin)
    return twin


def _forget_integer_types(model: ir.Model) -> None:
    """Data movers that ran on integers now run on floats: let their types be inferred anew."""
    for node in model.graph:
        for value in node.outputs:
            if value.dtype in STORAGE:
                value.type = None
