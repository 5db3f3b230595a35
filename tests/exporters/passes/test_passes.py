"""Every pass keeps every integer: outputs are compared bit by bit, without optimizations."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from artifacts import run_plain
from eqnet_exporters.passes.activation_storage import activation_storage
from eqnet_exporters.passes.fold_activations import fold_activations
from eqnet_exporters.passes.integer_bias import integer_bias
from eqnet_exporters.passes.share_quantizers import share_quantizers
from eqnet_exporters.passes.tidy import tidy
from graphs import Builder, inputs, residual_net

from eqnet.backend.graph.reading import quantizers

FORMS: dict[str, dict[str, Any]] = {
    "w8a8": {},
    "asymmetric": {"asymmetric": True},
    "w4a4": {"weight_bits": 4, "bits": 4},
    "w2a2": {"weight_bits": 2, "bits": 2, "asymmetric": True},
    "relu6_wide": {"relu6": 0.04},
    "relu6_narrow": {"relu6": 0.02},
    "no_pool": {"pool": False, "bits": 3},
}


def apply(model: onnx.ModelProto, *passes) -> onnx.ModelProto:
    graph = ir.from_proto(model)
    for each in passes:
        each(graph)
    made = ir.to_proto(graph)
    onnx.checker.check_model(made, full_check=True)
    return made


def kinds(model: onnx.ModelProto) -> list[str]:
    return [node.op_type for node in model.graph.node]


def as_int8(model: ir.Model) -> None:
    activation_storage("int8")(model)


def as_uint8(model: ir.Model) -> None:
    activation_storage("uint8")(model)


PASSES: dict[str, list[Any]] = {
    "int8": [as_int8],
    "uint8": [as_uint8],
    "there_and_back": [as_int8, as_uint8],
    "fold": [fold_activations],
    "share": [share_quantizers],
    "share_fold": [share_quantizers, fold_activations],
    "bias": [integer_bias],
    "all_int8": [tidy, share_quantizers, fold_activations, as_int8, integer_bias, tidy],
}


@pytest.mark.parametrize("chain", PASSES)
@pytest.mark.parametrize("form", FORMS)
def test_passes_keep_every_integer(form, chain):
    model = residual_net(**FORMS[form])
    x = 3 * inputs(32)
    before = run_plain(model, x)
    after = run_plain(apply(model, *PASSES[chain]), x)
    if "bias" in chain or chain == "all_int8":  # float32 rounding of bias = integer x scale
        np.testing.assert_allclose(after, before, rtol=0, atol=1e-5)
    else:
        assert np.array_equal(after, before)
    assert np.ptp(before) > 0.5


@pytest.mark.parametrize("storage", ["uint8", "int8"])
def test_storage_is_uniform_and_ranges_move_by_128(storage):
    model = ir.from_proto(residual_net(bits=4))
    old = {q.quantize.name: q for q in quantizers(model)}
    kept = {n: (q.lo - q.zero_point, q.hi - q.zero_point, q.scale) for n, q in old.items()}
    activation_storage(storage)(model)
    new = {q.quantize.name: q for q in quantizers(model)}
    assert {str(q.dtype) for q in new.values()} == {storage.upper()}
    assert {n: (q.lo - q.zero_point, q.hi - q.zero_point, q.scale) for n, q in new.items()} == kept


def test_fold_takes_relu_and_covering_relu6_without_a_clip():
    folded = apply(residual_net(relu6=0.02), fold_activations)
    # The pooled ReLU6 has MaxPool for a reader; the other two activations are gone.
    assert kinds(folded).count("Relu") == 0
    assert kinds(folded).count("Clip") == 1
    shared = apply(residual_net(relu6=0.02), share_quantizers, fold_activations)
    assert kinds(shared).count("Clip") == 0


def test_fold_keeps_a_narrower_relu6_as_an_integer_clip():
    model = apply(residual_net(relu6=0.04, pool=False), fold_activations)
    (clip,) = [node for node in model.graph.node if node.op_type == "Clip"]
    assert clip.name == "relu1.carrier.clip"
    (found,) = [q for q in quantizers(ir.from_proto(model)) if q.clip is not None]
    assert (found.lo, found.hi) == (0, round(6 / 0.04))


def test_fold_leaves_an_activation_with_float_readers():
    b = Builder(np.random.default_rng(0))
    x = b.node("Relu", ["input"], "relu")
    y = b.quantize(x, "relu", 0.01)
    x = b.node("Add", [x, y], "sum")
    b.node("Flatten", [b.node("GlobalAveragePool", [x], "gap")], "logits")
    assert "Relu" in kinds(apply(b.model(classes=3), fold_activations))


def test_fold_with_a_free_zero_point_narrows_the_range():
    b = Builder(np.random.default_rng(0))
    x = b.quantize(b.node("Relu", ["input"], "relu"), "relu", 0.02, zp=100)
    b.node("Flatten", [b.node("GlobalAveragePool", [x], "gap")], "logits")
    model = b.model(classes=3)
    folded = apply(model, fold_activations)
    assert "Relu" not in kinds(folded)
    assert np.array_equal(run_plain(folded, inputs()), run_plain(model, inputs()))
    (found,) = quantizers(ir.from_proto(folded))
    assert (found.lo, found.hi) == (100, 255)


def test_share_puts_max_pooling_between_equal_quantizers():
    model = ir.from_proto(residual_net(bits=4))
    share_quantizers(model)
    pool = next(node for node in model.graph if node.op_type == "MaxPool")
    front, behind = pool.inputs[0].producer(), pool.outputs[0].consumers()[0]
    assert (front.op_type, behind.op_type) == ("DequantizeLinear", "QuantizeLinear")
    assert front.inputs[1] is behind.inputs[1]
    assert front.inputs[2] is behind.inputs[2]
    count = model.graph.num_nodes()
    share_quantizers(model)
    assert model.graph.num_nodes() == count


def test_share_continues_a_quantizer_behind_a_mover():
    b = Builder(np.random.default_rng(0))
    x = b.quantize("input", "input", 0.02, bits=4, signed=True)
    x = b.node("MaxPool", [x], "pool", kernel_shape=[2, 2], strides=[2, 2])
    x = b.conv(b.quantize(x, "pool", 0.05, signed=True), "conv", 3, 10)
    b.node("Flatten", [b.node("GlobalAveragePool", [x], "gap")], "logits")
    model = b.model()
    shared = apply(model, share_quantizers)
    assert np.array_equal(run_plain(shared, inputs()), run_plain(model, inputs()))
    assert kinds(shared).count("QuantizeLinear") == kinds(model).count("QuantizeLinear") + 1


def test_integer_bias_leaves_a_bias_off_the_grid_alone():
    model = residual_net()
    for tensor in model.graph.initializer:
        if tensor.name == "fc.bias":
            tensor.CopyFrom(
                onnx.numpy_helper.from_array(np.linspace(0, 1, 10, dtype=np.float32), "fc.bias")
            )
    biased = apply(model, integer_bias)
    last = {node.name: node for node in biased.graph.node}
    assert last["fc"].input[2] == "fc.bias"
    assert last["conv1"].input[2] == "conv1.bias.dq.output"


def test_tidy_lifts_constants_and_drops_identities_and_dead_code():
    b = Builder(np.random.default_rng(0))
    value = onnx.numpy_helper.from_array(np.array([2.0], np.float32), "two")
    two = b.node("Constant", [], "two", value=value)
    x = b.node("Identity", [b.node("Mul", ["input", two], "mul")], "same")
    b.node("Sqrt", [x], "dead")
    b.node("Flatten", [b.node("GlobalAveragePool", [x], "gap")], "logits")
    model = b.model(classes=3)
    assert kinds(apply(model, tidy)) == ["Mul", "GlobalAveragePool", "Flatten"]
