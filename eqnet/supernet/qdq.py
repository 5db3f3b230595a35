"""From an extracted subnet to the neutral ONNX QDQ graph (`reference.onnx`).

PyTorch's exporter maps the two quantization operators of `eqnet.quant.ops` straight to
QuantizeLinear, Clip and DequantizeLinear; afterwards nodes and values get the names that layers
and tensors have in the subnet.
"""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset21 as op
from torch import fx, nn

from eqnet.quant.static import StaticConv2d, StaticLinear, StaticQuantizer
from eqnet.spec.errors import CaptureError
from eqnet.supernet.capture import QUANTIZERS

OPSET = 21
FULL_RANGES = ((0, 255), (-128, 127))
LAYERS = (StaticConv2d, StaticLinear, nn.Conv2d, nn.Linear)
LAYER_OPS = ("Conv", "Gemm", "MatMul", "ConvTranspose")


def _quantize_dequantize(x: Any, scale: Any, zero_point: Any, lo: int, hi: int) -> Any:
    integers = op.QuantizeLinear(x, scale, zero_point)
    if (lo, hi) not in FULL_RANGES:
        kind = zero_point.dtype
        low = op.Constant(value=_scalar(lo, kind))
        high = op.Constant(value=_scalar(hi, kind))
        integers = op.Clip(integers, low, high)
    return op.DequantizeLinear(integers, scale, zero_point)


def _dequantize(integers: Any, scale: Any, zero_point: Any) -> Any:
    return op.DequantizeLinear(integers, scale, zero_point, axis=0)


def _scalar(value: int, kind: ir.DataType) -> Any:
    return ir.tensor(value, dtype=kind)


def translations() -> dict[Callable[..., Any], Callable[..., Any]]:
    """How PyTorch's exporter writes the quantization operators."""
    return {
        torch.ops.eqnet.quantize_dequantize.default: _quantize_dequantize,
        torch.ops.eqnet.dequantize.default: _dequantize,
    }


def to_onnx(net: fx.GraphModule, input_shape: tuple[int, int, int]) -> ir.Model:
    """The neutral QDQ graph of a static network, opset 21.

    net: from `extract`. Input `input` float32 [N, C, H, W] with dynamic N, output `logits`.
    Raises CaptureError when an operator of the network has no ONNX form.
    """
    example = torch.zeros(2, *input_shape)
    batch = torch.export.Dim("N", min=1)
    try:
        with _quiet():
            program = torch.onnx.export(
                net, (example,), dynamo=True, opset_version=OPSET,
                input_names=["input"], output_names=["logits"],
                dynamic_shapes=({0: batch},), custom_translation_table=translations(),
                verbose=False,
            )  # fmt: skip
    except Exception as error:
        first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise CaptureError(f"the network has no ONNX form: {first}") from error
    assert program is not None
    model: ir.Model = program.model
    pool_globally(model)
    name_graph(model, net)
    return model


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep the exporter's progress lines and deprecation warnings off the user's screen."""
    level = logging.getLogger("torch.onnx").level
    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    with warnings.catch_warnings(), contextlib.redirect_stdout(io.StringIO()):
        warnings.simplefilter("ignore")
        try:
            yield
        finally:
            logging.getLogger("torch.onnx").setLevel(level)


def name_graph(model: ir.Model, net: fx.GraphModule) -> None:
    """Name layers after the subnet's layers, and quantizers after its tensors.

    PyTorch's exporter keeps the order of calls, and shares equal constants between nodes, so
    order identifies a node where the names of its constants do not.
    """
    layers = [node for node in model.graph if _is_layer(node)]
    for node, name in zip(layers, _layer_names(net), strict=True):
        node.name = name
    quantizers = [node for node in model.graph if node.op_type == "QuantizeLinear"]
    for node, name in zip(quantizers, _point_names(net), strict=True):
        _name_quantizer(node, name)
    for item in (*model.graph, *_values(model), model):
        item.metadata_props.clear()
    model.producer_name = "eqnet"


def _calls(net: fx.GraphModule) -> Iterator[tuple[str, nn.Module]]:
    for node in net.graph.nodes:
        if node.op == "call_module":
            yield str(node.target), net.get_submodule(str(node.target))


def _layer_names(net: fx.GraphModule) -> list[str]:
    return [name for name, module in _calls(net) if isinstance(module, LAYERS)]


def _point_names(net: fx.GraphModule) -> list[str]:
    names = []
    for name, module in _calls(net):
        if isinstance(module, StaticQuantizer):
            tensor = name.removeprefix(f"{QUANTIZERS}.")
            points = {"carrier": module.carrier, "narrow": module.narrow}
            names += [f"{tensor}.{role}" for role, point in points.items() if point is not None]
    return names


def _values(model: ir.Model) -> Iterator[ir.Value]:
    yield from model.graph.inputs
    yield from model.graph.initializers.values()
    for node in model.graph:
        yield from node.outputs


def _is_layer(node: ir.Node) -> bool:
    """Whether a node is a Conv or Linear: its weight is an initializer, quantized or not."""
    if node.op_type not in LAYER_OPS:
        return False
    value = node.inputs[1]
    while value is not None and not value.is_initializer():
        source = value.producer()
        if source is None or source.op_type not in ("DequantizeLinear", "Transpose", "Identity"):
            return False
        value = source.inputs[0]
    return value is not None


def _name_quantizer(node: ir.Node, point: str) -> None:
    node.name = f"{point}.q"
    for reader, _ in node.outputs[0].uses():
        if reader.op_type == "Clip":
            reader.name = f"{point}.clip"
            for last, _ in reader.outputs[0].uses():
                last.name = f"{point}.dq"
        elif reader.op_type == "DequantizeLinear":
            reader.name = f"{point}.dq"


def pool_globally(model: ir.Model) -> None:
    """Write means over height and width as GlobalAveragePool, which runtimes have kernels for."""
    for node in list(model.graph):
        if node.op_type != "ReduceMean" or len(node.inputs) < 2:
            continue
        axes = node.inputs[1]
        shape = node.inputs[0].shape if node.inputs[0] is not None else None
        keeps = node.attributes.get_int("keepdims", 1) == 1
        if axes is None or axes.const_value is None or shape is None or len(shape) != 4:
            continue
        if keeps and sorted(axis % 4 for axis in axes.const_value.numpy().tolist()) == [2, 3]:
            pool = ir.node("GlobalAveragePool", [node.inputs[0]], name=f"{node.name}_pool")
            ir.convenience.replace_nodes_and_values(
                model.graph, node, [node], [pool], node.outputs, pool.outputs
            )
