from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from artifacts import run_plain
from graphs import Builder, inputs, residual_net
from onnx import TensorProto, helper, numpy_helper

from eqnet.backend.graph.reading import dequantized, layers_of, quantizers, strip_qdq

FORMS: dict[str, dict[str, Any]] = {
    "w8a8": {},
    "asymmetric": {"asymmetric": True},
    "w4a4": {"weight_bits": 4, "bits": 4},
    "weight_zero_points": {"weight_zp": 5},
    "relu6": {"relu6": 0.04},
}


def expected_twin(model: onnx.ModelProto) -> onnx.ModelProto:
    """The float twin written another way: quantizer nodes become Identity, weights by numpy."""
    twin = onnx.ModelProto()
    twin.CopyFrom(model)
    arrays = {t.name: numpy_helper.to_array(t) for t in model.graph.initializer}
    for node in twin.graph.node:
        integer_clip = node.op_type == "Clip" and arrays[node.input[1]].dtype != np.float32
        if node.op_type == "DequantizeLinear" and node.input[0] in arrays:
            w, s, z = (arrays[name] for name in node.input)
            shape = (-1,) + (1,) * (w.ndim - 1)
            values = (w.astype(np.int32) - z.reshape(shape)).astype(np.float32) * s.reshape(shape)
            name = f"{node.input[0]}.twin"
            twin.graph.initializer.append(numpy_helper.from_array(values, name))
            node.CopyFrom(helper.make_node("Identity", [name], node.output))
        elif integer_clip or node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            node.CopyFrom(helper.make_node("Identity", [node.input[0]], node.output))
    return twin


@pytest.mark.parametrize("form", FORMS)
def test_strip_qdq_is_the_float_twin(form):
    model = residual_net(**FORMS[form])
    original = ir.from_proto(model)
    before = ir.to_proto(original)
    twin = ir.to_proto(strip_qdq(original))
    onnx.checker.check_model(twin, full_check=True)
    kinds = {node.op_type for node in twin.graph.node}
    assert not kinds & {"QuantizeLinear", "DequantizeLinear"}
    assert ("Clip" in kinds) == (form == "relu6")
    types = {tensor.data_type for tensor in twin.graph.initializer}
    assert types == {TensorProto.FLOAT}
    assert np.array_equal(run_plain(twin, inputs()), run_plain(expected_twin(model), inputs()))
    assert layers_of(ir.from_proto(twin)) == layers_of(original)
    assert ir.to_proto(original) == before


def test_strip_qdq_keeps_the_name_of_a_quantized_output():
    b = Builder(np.random.default_rng(0))
    x = b.node("GlobalAveragePool", ["input"], "gap")
    x = b.node("Flatten", [x], "flat")
    x = b.quantize(x, "flat", 0.01)
    b.nodes[-1].output[0] = "logits"
    twin = ir.to_proto(strip_qdq(ir.from_proto(b.model(classes=3))))
    assert [output.name for output in twin.graph.output] == ["logits"]
    mean = inputs().mean(axis=(2, 3))
    np.testing.assert_allclose(run_plain(twin, inputs()), mean, atol=1e-6)


def test_strip_qdq_where_a_data_mover_runs_on_integers():
    b = Builder(np.random.default_rng(0))
    scale, zero = b.constant("s", np.float32(0.1)), b.constant("z", np.uint8(3))
    q = b.node("QuantizeLinear", ["input", scale, zero], "q")
    pooled = b.node("MaxPool", [q], "pooled", kernel_shape=[8, 8])
    x = b.node("DequantizeLinear", [pooled, scale, zero], "dq")
    b.node("Flatten", [x], "logits")
    twin = ir.to_proto(strip_qdq(ir.from_proto(b.model(classes=3))))
    onnx.checker.check_model(twin, full_check=True)
    assert np.array_equal(run_plain(twin, inputs()), inputs().max(axis=(2, 3)))


def test_quantizers_are_read_with_their_range():
    model = ir.from_proto(residual_net(weight_bits=4, bits=4, asymmetric=True))
    found = {q.quantize.name: (q.lo, q.hi, q.zero_point, str(q.dtype)) for q in quantizers(model)}
    assert found["input.carrier.q"] == (0, 255, 117, "UINT8")
    assert found["relu1.narrow.q"] == (0, 15, 0, "UINT8")
    signed = {q.quantize.name: (q.lo, q.hi) for q in quantizers(ir.from_proto(residual_net()))}
    assert signed["input.carrier.q"] == (-128, 127)


def test_layers_are_named_in_graph_order():
    assert layers_of(ir.from_proto(residual_net())) == {
        "conv1": "Conv",
        "block.conv1": "Conv",
        "block.conv2": "Conv",
        "fc": "Gemm",
    }


def test_dequantized_per_tensor_and_not_constant():
    b = Builder(np.random.default_rng(0))
    w = b.constant("w", np.array([[-4, 3], [2, 7]], np.int8))
    s, z = b.constant("s", np.float32(0.5)), b.constant("z", np.int8(2))
    b.node("DequantizeLinear", [w, s, z], "weights")
    x = b.node("GlobalAveragePool", ["input"], "gap")
    x = b.quantize(x, "gap", 0.1)
    b.node("Flatten", [x], "logits")
    nodes = {n.name: n for n in ir.from_proto(b.model(classes=3)).graph}
    assert dequantized(nodes["weights"]).tolist() == [[-3.0, 0.5], [0.0, 2.5]]
    assert dequantized(nodes["gap.carrier.dq"]) is None
