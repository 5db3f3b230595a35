"""What is read from anybody's graph: forms of layers and tensors, names, work."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from graphs import residual_net
from onnx import TensorProto, helper
from strangers import constants, float_net, model, quantize_static

from eqnet.backend.graph.layer_forms import (
    layer_ends,
    layer_forms,
    name_layers,
    operator_counts,
    shared_names,
)
from eqnet.backend.graph.shapes import inferred
from eqnet.backend.graph.work import macs_of
from eqnet.spec.outside.inspection import LayerForm

SCALES = {"s": np.float32(0.1), "z": np.uint8(0), "w_s": np.float32(0.02), "w_z": np.int8(0)}
INT8 = np.arange(32, dtype=np.int8).reshape(4, 8)


def forms(proto: onnx.ModelProto) -> dict[str, LayerForm]:
    made = ir.from_proto(proto)
    name_layers(made)
    return {layer.name: layer for layer in layer_forms(made)}


def macs(proto: onnx.ModelProto) -> dict[str, int | None]:
    made, shapes = ir.from_proto(proto), inferred(proto)
    name_layers(made)
    pairs = zip(layer_forms(made), layer_ends(made), strict=True)
    return {
        layer.name: macs_of(layer, shapes.get(x, ()), shapes.get(y, ())) for layer, (x, y) in pairs
    }


def quantized_matmul(
    *nodes: onnx.NodeProto, weight: np.ndarray = INT8, **more: object
) -> onnx.ModelProto:
    """Nodes around an int8 weight `w`, whose dequantized form is `wd`, and an input [N, 4]."""
    dq = helper.make_node("DequantizeLinear", ["w", "w_s", "w_z"], ["wd"], "w.dq")
    return model([dq, *nodes], constants(**SCALES, w=weight, **more), shape=("N", 4))


def test_a_qdq_graph():
    read = forms(residual_net(weight_bits=4, bits=4, asymmetric=True))
    assert list(read) == ["conv1", "block.conv1", "block.conv2", "fc"]
    assert {layer.form for layer in read.values()} == {"qdq"}
    conv = read["conv1"]
    assert conv.weight.granularity == "per_channel"
    assert (conv.weight.type, conv.weight.axis, conv.weight.symmetric) == ("int8", 0, True)
    assert (conv.input.type, conv.input.zero_point, conv.input.symmetric) == ("uint8", 117, False)
    assert conv.output_via == ("Relu",)
    assert (conv.output, conv.readers) == (None, ("MaxPool",))
    assert conv.bias == "float32"
    assert (conv.weights, conv.weight_bytes) == (8 * 3 * 9, 8 * 3 * 9)
    narrow = read["block.conv2"].input
    assert (narrow.type, narrow.bits, narrow.zero_point, narrow.lowest) == ("uint8", 4, 0, 0)
    assert read["fc"].readers == ("output",)


def test_zero_points_that_differ_are_none():
    read = forms(residual_net(weight_zp=5))
    weight = read["block.conv1"].weight
    assert (weight.zero_point, weight.symmetric) == (5, False)


def test_a_float_graph():
    read = forms(float_net())
    assert {layer.form for layer in read.values()} == {"float"}
    assert [layer.kind for layer in read.values()] == ["conv", "depthwise", "linear"]
    assert read["depth"].producer == "Relu"
    assert (read["fc"].weight_type, read["fc"].weight_bytes) == ("float32", 4 * 80)
    assert not any(layer.is_quantized for layer in read.values())


def test_quantize_static_in_both_forms(tmp_path: Path):
    qdq = forms(onnx.load(quantize_static(tmp_path, "qdq.onnx")))
    integer = forms(onnx.load(quantize_static(tmp_path, "qop.onnx", qoperator=True)))
    assert [layer.form for layer in qdq.values()] == ["qdq"] * 3
    assert [layer.op for layer in integer.values()] == ["QLinearConv", "QLinearConv", "QGemm"]
    for left, right in zip(qdq.values(), integer.values(), strict=True):
        assert (left.weight.type, left.weight.granularity) == ("int8", "per_channel")
        assert left.input == right.input
        assert left.weight.symmetric is right.weight.symmetric is True
        assert left.bias == right.bias == "int32"
        assert left.output == right.output
    assert integer["conv1_quant"].form == "qoperator"


def test_a_weight_behind_a_quantizer_and_a_transposition():
    proto = model(
        [
            helper.make_node("QuantizeLinear", ["w", "w_s", "w_z"], ["wq"], axis=0),
            helper.make_node("DequantizeLinear", ["wq", "w_s", "w_z"], ["wd"], axis=0),
            helper.make_node("Transpose", ["wd"], ["wt"]),
            helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
            helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"]),
            helper.make_node("MatMul", ["xd", "wt"], ["y"], "fc"),
        ],
        constants(
            **{**SCALES, "w_s": np.full(8, 0.1, np.float32), "w_z": np.zeros(8, np.int8)},
            w=np.ones((8, 4), np.float32),
        ),
        shape=("N", 4),
    )
    layer = forms(proto)["fc"]
    assert (layer.form, layer.weight.granularity, layer.weight.axis) == ("qdq", "per_channel", 0)
    assert (layer.weight_type, layer.weights) == ("float32", 32)


@pytest.mark.parametrize("between", [(), ("Relu",), ("Relu", "Identity")])
def test_what_stands_between_a_quantizer_and_a_layer(between: tuple[str, ...]):
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"]),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["t0"]),
    ]
    for number, op in enumerate(between):
        nodes.append(helper.make_node(op, [f"t{number}"], [f"t{number + 1}"]))
    last = f"t{len(between)}"
    layer = forms(quantized_matmul(*nodes, helper.make_node("MatMul", [last, "wd"], ["y"], "fc")))
    assert layer["fc"].form == ("weights only" if between else "qdq")
    assert layer["fc"].input_via == between


def test_dynamic_activations_and_four_bit_weights():
    dynamic = quantized_matmul(
        helper.make_node("DynamicQuantizeLinear", ["x"], ["xq", "xs", "xz"]),
        helper.make_node("DequantizeLinear", ["xq", "xs", "xz"], ["xd"]),
        helper.make_node("MatMul", ["xd", "wd"], ["y"], "fc"),
    )
    assert forms(dynamic)["fc"].form == "dynamic"
    assert forms(dynamic)["fc"].input.symmetric is None
    four = helper.make_tensor("w", TensorProto.INT4, (4, 8), np.zeros(32, np.int8).tolist())
    packed = model(
        [
            helper.make_node("DequantizeLinear", ["w", "w_s"], ["wd"], block_size=2, axis=0),
            helper.make_node("MatMul", ["x", "wd"], ["y"], "fc"),
        ],
        [four, *constants(w_s=np.ones((2, 8), np.float32))],
        shape=("N", 4),
    )
    layer = forms(packed)["fc"]
    assert (layer.form, layer.weight.bits, layer.weight.granularity) == (
        "weights only",
        4,
        "per_block",
    )
    assert layer.weight_bytes == 16


def test_a_product_of_activations():
    proto = model(
        [
            helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0]),
            helper.make_node("MatMul", ["x", "t"], ["y"], "scores"),
        ],
        [],
        shape=(6, 4),
    )
    layer = forms(proto)["scores"]
    assert (layer.kind, layer.form, layer.weights, layer.weight) == ("product", "float", 0, None)
    assert macs(proto) == {"scores": 6 * 6 * 4}


def test_layers_without_a_name_get_that_of_their_output():
    proto = float_net()
    for node in proto.graph.node:
        node.name = "c2" if node.op_type == "Relu" else ""
    made = ir.from_proto(proto)
    assert name_layers(made)
    assert [layer.name for layer in layer_forms(made)] == ["c1", "c2_2", "y"]
    assert not name_layers(made)
    assert shared_names(made) == []
    assert operator_counts(made) == {"Relu": 2, "GlobalAveragePool": 1, "Flatten": 1}


def test_names_that_layers_share_stay():
    proto = float_net()
    for node in proto.graph.node[:3]:
        node.name = "same"
    made = ir.from_proto(proto)
    assert not name_layers(made)
    assert shared_names(made) == ["same"]


def test_layers_inside_of_a_branch_are_counted():
    inner = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["inner_y"], "inside")],
        "branch",
        [],
        [helper.make_tensor_value_info("inner_y", TensorProto.FLOAT, None)],
    )
    other = helper.make_graph(
        [helper.make_node("Identity", ["x"], ["other_y"])],
        "other",
        [],
        [helper.make_tensor_value_info("other_y", TensorProto.FLOAT, None)],
    )
    choice = helper.make_node("If", ["c"], ["y"], "choice", then_branch=inner, else_branch=other)
    proto = model(
        [choice], constants(w=np.ones((4, 4), np.float32), c=np.bool_(True)), shape=("N", 4)
    )
    assert list(forms(proto)) == ["inside"]


def test_work_of_each_layer_for_one_image():
    assert macs(float_net()) == {"conv1": 64 * 8 * 3 * 9, "depth": 64 * 8 * 9, "fc": 80}
    transposed = model(
        [helper.make_node("ConvTranspose", ["x", "w"], ["y"], "up", strides=[2, 2])],
        constants(w=np.ones((3, 5, 2, 2), np.float32)),
    )
    assert macs(transposed) == {"up": 64 * 3 * 5 * 4}


def test_work_is_the_same_in_the_qoperator_form(tmp_path: Path):
    integer = onnx.load(quantize_static(tmp_path, qoperator=True))
    assert list(macs(integer).values()) == list(macs(float_net()).values())


def test_work_is_unknown_where_a_size_is():
    proto = float_net()
    for axis in (2, 3):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"side{axis}"
    assert macs(proto) == {"conv1": None, "depth": None, "fc": 80}
