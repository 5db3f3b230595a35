"""The neutral graph of a subnet from one export of its network.

PyTorch's exporter takes about a second for each graph, and the forms of one network differ in
quantizers and constants only. So a network is exported once with every quantizer that it can
have, and each form takes out what it lacks and puts in its own integers, scales and biases. The
result is held to PyTorch in every case of the contract, and to `to_onnx` in the project's tests.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from eqnet.backend.graph import point_names as quantizer_names
from eqnet.backend.graph.operators import LAYER_OPS
from eqnet.backend.graph.reading import STORAGE, Quantizer, quantizers, remove_unused
from eqnet.qdq.to_onnx import to_onnx
from eqnet.quant.quantizers import QUANTIZERS
from eqnet.quant.static import QuantizationPoint, StaticQuantizer
from eqnet.spec.subnet import SubnetSpec
from eqnet.supernet.extract import extract
from eqnet.supernet.supernet import Supernet

CARRIER, NARROW = 7, 4  # bits that differ and that both need a Clip


def template_of(supernet: Supernet, spec: SubnetSpec) -> ir.Model:
    """The graph with every quantizer and Clip, and the quantized layers of `spec`."""
    info = supernet.info
    everything = spec.model_copy(
        update={
            "carriers": {tensor.name: CARRIER for tensor in info.tensors},
            "activations": {tensor.name: NARROW for tensor in info.read_tensors()},
        }
    )
    return to_onnx(extract(supernet, everything), info.input_shape)


def specialize(template: ir.Model, net: fx.GraphModule) -> ir.Model:
    """The neutral graph of a static network, from the template of its supernet.

    net: from `extract`, with the same layers in the remainder as the template. Returns a new
    model.
    """
    model = template.clone()
    for quantizer in quantizers(model):
        point = static_point_of(net, point_name_of(quantizer))
        if point is None:
            _take_out(model, quantizer)
        else:
            _set_grid(model, quantizer, point)
    for node in model.graph:
        if node.op_type in LAYER_OPS:
            _set_layer(node, net.get_submodule(str(node.name)))
    remove_unused(model)
    return model


def point_name_of(quantizer: Quantizer) -> str:
    """``<tensor>.carrier`` or ``<tensor>.narrow``."""
    return quantizer_names.point_of(str(quantizer.quantize.name))


def static_point_of(net: fx.GraphModule, name: str) -> QuantizationPoint | None:
    """The place in a static network where a quantizer of that name stands, None if it has none."""
    tensor, _, role = name.rpartition(".")
    static = net.get_submodule(f"{QUANTIZERS}.{tensor}")
    assert isinstance(static, StaticQuantizer)
    return static.carrier if role == "carrier" else static.narrow


def _put(node: ir.Node, index: int, array: NDArray[np.generic]) -> None:
    """Give a node's constant input another content; the graph's constants serve one node each."""
    value = node.inputs[index]
    assert value is not None
    assert value.is_initializer(), f"{node.name}: input {index} is computed"
    value.const_value = ir.tensor(array, name=value.name)
    # A new type: a clone's values share theirs with the template's.
    value.shape = ir.Shape(array.shape)
    value.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))


def _take_out(model: ir.Model, quantizer: Quantizer) -> None:
    quantizer.output.replace_all_uses_with(quantizer.source)
    for node in (quantizer.dequantize, quantizer.clip, quantizer.quantize):
        if node is not None:
            model.graph.remove(node, safe=True)


def _set_grid(model: ir.Model, quantizer: Quantizer, point: QuantizationPoint) -> None:
    clip = quantizer.clip
    assert clip is not None, f"{point_name_of(quantizer)}: the template has a Clip everywhere"
    for node in (quantizer.quantize, quantizer.dequantize):
        _put(node, 1, point.scale.numpy())
        _put(node, 2, point.zero_point.numpy())
    kind = ir.DataType.from_numpy(point.zero_point.numpy().dtype)
    for node in (quantizer.quantize, clip):
        node.outputs[0].type = ir.TensorType(kind)
    if tuple(point.span) == STORAGE[kind]:
        quantizer.dequantize.replace_input_with(0, quantizer.quantize.outputs[0])
        model.graph.remove(clip, safe=True)
        return
    for index, bound in enumerate(point.span, start=1):
        _put(clip, index, np.array(bound, dtype=kind.numpy()))


def _set_layer(node: ir.Node, module: nn.Module) -> None:
    weight, bias = module.weight, module.bias
    if isinstance(weight, nn.Module):
        value = node.inputs[1]
        assert value is not None
        dequantize = value.producer()
        assert dequantize is not None, f"{node.name}: the template has an integer weight"
        for index, part in enumerate((weight.integers, weight.scale, weight.zero_point)):
            assert isinstance(part, Tensor)
            array = part.numpy()
            if node.op_type == "MatMul" and index == 0:
                array = np.ascontiguousarray(array.T)
            _put(dequantize, index, array)
    else:
        assert isinstance(weight, Tensor)
        _put(node, 1, weight.detach().numpy())
    if isinstance(bias, Tensor):
        adder, index = node, 2
        if node.op_type == "MatMul":  # its bias is added by the node after it
            adder, index = node.outputs[0].consumers()[0], 1
        assert len(adder.inputs) == index + 1, f"{node.name}: the template has a bias"
        _put(adder, index, bias.detach().numpy())
