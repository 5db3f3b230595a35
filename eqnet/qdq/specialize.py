"""The neutral graph of a subnet from one export of its network.

PyTorch's exporter takes 10 s for EfficientNet-B0, and the subnets of one network differ in
quantizers and constants only. So a network is exported once with every quantizer that it can
have, and each subnet takes out what it lacks and puts in its own integers, scales, biases and
float weights. The result is held to PyTorch in every case of the contract, and to `to_onnx` in
the project's tests.
"""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from torch import Tensor, fx, nn

from eqnet.backend.graph import point_names as quantizer_names
from eqnet.backend.graph.operators import LAYER_OPS
from eqnet.backend.graph.reading import STORAGE, Quantizer, quantizers, remove_unused
from eqnet.quant.quantizers import QUANTIZERS
from eqnet.quant.static import QuantizationPoint, StaticQuantizer


def specialize(template: ir.Model, net: fx.GraphModule) -> ir.Model:
    """The neutral graph of a static network, from the template of its supernet.

    template: from `to_onnx`, of a static network with every quantizer, a Clip in each, and
    every layer quantized. net: from `extract`. Returns a new model. Raises TemplateError where
    the network has another form than the template, as a bias where it has none.
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
    _refresh(model, net)
    remove_unused(model)
    return model


def _refresh(model: ir.Model, net: fx.GraphModule) -> None:
    """Parameters of other modules, such as the statistics of a batch norm of its own."""
    state = net.state_dict()
    for name, value in model.graph.initializers.items():
        if name in state and value.const_value is not None:
            array = state[name].numpy()
            if array.shape == value.const_value.numpy().shape:
                value.const_value = ir.tensor(array, name=name)


class TemplateError(Exception):
    """A network that its template cannot become."""


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
    if clip is None:
        raise TemplateError(f"{point_name_of(quantizer)}: the template has no Clip")
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
    value = node.inputs[1]
    dequantize = value.producer() if value is not None else None
    if value is None or dequantize is None:
        raise TemplateError(f"{node.name}: the template has no integer weight")
    turned = node.op_type == "MatMul"
    if isinstance(weight, nn.Module):
        for index, part in enumerate((weight.integers, weight.scale, weight.zero_point)):
            assert isinstance(part, Tensor)
            _put(dequantize, index, _array(part, turned=turned and index == 0))
    else:
        assert isinstance(weight, Tensor)
        _put_float(node, _array(weight, turned=turned))
    _set_bias(node, bias)


def _array(tensor: Tensor, *, turned: bool) -> NDArray[np.generic]:
    array: NDArray[np.generic] = tensor.detach().numpy()
    return np.ascontiguousarray(array.T) if turned else array


def _put_float(node: ir.Node, array: NDArray[np.generic]) -> None:
    """A weight that stays in float takes the place of the dequantized one."""
    name = f"{node.name}.weight"
    tensor = ir.tensor(array, name=name)
    weight = ir.Value(name=name, const_value=tensor, shape=ir.Shape(array.shape))
    weight.type = ir.TensorType(ir.DataType.from_numpy(array.dtype))
    assert node.graph is not None
    node.replace_input_with(1, weight)
    node.graph.initializers.pop(name, None)  # the integers that had its name
    node.graph.register_initializer(weight)


def _set_bias(node: ir.Node, bias: Tensor | nn.Module | None) -> None:
    place = _bias_of(node)
    if (place is not None) != isinstance(bias, Tensor):
        raise TemplateError(f"{node.name}: a bias here or in the template alone")
    if place is not None and isinstance(bias, Tensor):
        _put(*place, bias.detach().numpy())


def _bias_of(node: ir.Node) -> tuple[ir.Node, int] | None:
    """The node that adds a layer's bias, and which of its inputs that is."""
    if node.op_type != "MatMul":
        return (node, 2) if len(node.inputs) > 2 else None
    for reader in node.outputs[0].consumers():
        for index, value in enumerate(reader.inputs):
            if value is not None and value.name == f"{node.name}.bias":
                return reader, index
    return None
