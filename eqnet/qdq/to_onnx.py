"""From an extracted subnet to the neutral ONNX QDQ graph (`reference.onnx`).

PyTorch's exporter maps the two quantization operators of `eqnet.quant.ops` straight to
QuantizeLinear, Clip and DequantizeLinear; afterwards nodes, values and constants get the names
that layers and tensors have in the subnet.
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import io
import logging
import re
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import onnx_ir as ir
import torch
from onnxscript import opset21 as op
from torch import Tensor, fx, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

from eqnet.backend.graph.operators import LAYER_OPS, NEUTRAL_OPSET
from eqnet.backend.graph.point_names import PARTS, ROLES, part_name, point_name
from eqnet.qdq.name_nodes import name_everything
from eqnet.qdq.rewrites import (
    module_of_node,
    pad_in_conv,
    transpose_weights,
    wrap_by_index,
)
from eqnet.quant.quantizers import QUANTIZERS
from eqnet.quant.static import StaticConv2d, StaticConvTranspose2d, StaticLinear, StaticQuantizer
from eqnet.spec.collection import uncollected
from eqnet.spec.errors import CaptureError

FULL_RANGES = ((0, 255), (-128, 127))
LAYER_MODULES = (
    StaticConv2d,
    StaticConvTranspose2d,
    StaticLinear,
    nn.Conv2d,
    nn.ConvTranspose2d,
    nn.Linear,
)


def _quantize_dequantize(x: Any, scale: Any, zero_point: Any, lo: int, hi: int) -> Any:
    integers = op.QuantizeLinear(x, scale, zero_point)
    if (lo, hi) not in FULL_RANGES:
        kind = zero_point.dtype
        low = op.Constant(value=_scalar(lo, kind))
        high = op.Constant(value=_scalar(hi, kind))
        integers = op.Clip(integers, low, high)
    return op.DequantizeLinear(integers, scale, zero_point)


def _dequantize(integers: Any, scale: Any, zero_point: Any, axis: int = 0) -> Any:
    return op.DequantizeLinear(integers, scale, zero_point, axis=axis)


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
    shapes = ({0: torch.export.Dim("N", min=1)},)
    try:
        with _quiet(), uncollected(), _translations_read_once():
            with _MeanForPool():
                traced = torch.export.export(net, (example,), dynamic_shapes=shapes)
            program = torch.onnx.export(
                traced,
                dynamo=True,
                opset_version=NEUTRAL_OPSET,
                input_names=["input"],
                output_names=["logits"],
                dynamic_shapes=shapes,  # of a traced network these are axes' names
                custom_translation_table=translations(),
                verbose=False,
            )
    except Exception as error:
        raise CaptureError(f"the network has no ONNX form: {_reason(error)}") from error
    assert program is not None
    model: ir.Model = program.model
    pool_globally(model)
    pad_in_conv(model)
    wrap_by_index(model)
    transpose_weights(model)
    name_graph(model, net)
    return model


class _MeanForPool(TorchFunctionMode):
    """Pooling to one value a channel is a mean, as it is inside PyTorch.

    There it also takes over the strides of a channels-last input, as after a permutation. The
    exporter would write these out as seven nodes that compute and gather indices.
    """

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run `func`, or the mean in its place."""
        if func is functional.adaptive_avg_pool2d:
            return _pooled(*args, **(kwargs or {}))
        return func(*args, **(kwargs or {}))


def _pooled(x: Tensor, output_size: Any) -> Tensor:
    if output_size in (1, (1, 1), [1, 1]):
        return x.mean((-2, -1), keepdim=True)
    return functional.adaptive_avg_pool2d(x, output_size)


def _reason(error: BaseException) -> str:
    """The operator that PyTorch's exporter stopped at, and the first line of what it says.

    The outermost errors tell the steps of an export; the operator stands further inside.
    """
    said, last = "", error
    while last.__cause__ is not None:
        last = last.__cause__
        match = re.search(r"%(\w+) : .*target=torch\.ops\.([\w.]+)", str(last))
        if match and not said:
            said = f"operator '{match[2]}' (node '{match[1]}'): "
    lines = str(last).strip().splitlines() or [type(last).__name__]
    return said + lines[0]


@functools.cache
def _read_once(read: Callable[[], Any]) -> Any:
    return read()


@contextlib.contextmanager
def _translations_read_once() -> Iterator[None]:
    """Within: the translations of PyTorch's operators are read once a process.

    Otherwise every export parses the source of 500 functions again, a fifth of its time.
    """
    try:
        module = importlib.import_module("torch.onnx._internal._lazy_import")
        library = module.onnxscript_apis
        read = library.get_torchlib_ops
    except (ImportError, AttributeError):  # their own names, which may go
        yield
        return
    library.get_torchlib_ops = functools.partial(_read_once, read)
    try:
        yield
    finally:
        library.get_torchlib_ops = read


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

    PyTorch's exporter says of each node which module it comes from. It shares equal constants
    between nodes, so their names would not tell.
    """
    layers, points = set(_layer_names(net)), set(_point_names(net))
    for node in model.graph:
        module = module_of_node(node)
        if module in layers and node.op_type in LAYER_OPS:
            node.name = module
        elif node.op_type == "QuantizeLinear":
            point = module.removeprefix(f"{QUANTIZERS}.")
            assert point in points
            _name_quantizer(node, point)
    name_everything(model, layers, frozenset(net.state_dict()))


def _calls(net: fx.GraphModule) -> Iterator[tuple[str, nn.Module]]:
    for node in net.graph.nodes:
        if node.op == "call_module":
            yield str(node.target), net.get_submodule(str(node.target))


def _layer_names(net: fx.GraphModule) -> list[str]:
    return [name for name, module in _calls(net) if isinstance(module, LAYER_MODULES)]


def _point_names(net: fx.GraphModule) -> list[str]:
    names = []
    for name, module in _calls(net):
        if isinstance(module, StaticQuantizer):
            tensor = name.removeprefix(f"{QUANTIZERS}.")
            for role in ROLES:
                if getattr(module, role) is not None:
                    names.append(point_name(tensor, role))
    return names


def _name_quantizer(node: ir.Node, point: str) -> None:
    node.name = part_name(point, node.op_type)
    for reader in node.outputs[0].consumers():
        if reader.op_type in PARTS:
            reader.name = part_name(point, reader.op_type)
        if reader.op_type == "Clip":
            for last in reader.outputs[0].consumers():
                last.name = part_name(point, last.op_type)


def pool_globally(model: ir.Model) -> None:
    """Write means over height and width as GlobalAveragePool, which runtimes have kernels for."""
    for node in list(model.graph):
        if node.op_type != "ReduceMean" or len(node.inputs) < 2:
            continue
        source, axes = node.inputs[0], node.inputs[1]
        if source is None or source.shape is None or len(source.shape) != 4:
            continue
        if axes is None or axes.const_value is None:
            continue
        keeps = node.attributes.get_int("keepdims", 1) == 1
        if keeps and sorted(axis % 4 for axis in axes.const_value.numpy().tolist()) == [2, 3]:
            pool = ir.node("GlobalAveragePool", [source], name=f"{node.name}_pool")
            pool.metadata_props.update(node.metadata_props)
            ir.convenience.replace_nodes_and_values(
                model.graph, node, [node], [pool], node.outputs, pool.outputs
            )
