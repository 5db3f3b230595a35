"""The ONNX Runtime and low-bit exporters on hand-made graphs, executed for real."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from artifacts import profile, run_plain
from graphs import Builder, inputs, residual_net
from onnx.reference import ReferenceEvaluator

from eqnet.backend.discovery import find_exporter
from eqnet.backend.graph.reading import layers_of, quantizers
from eqnet.spec.errors import ArtifactError

FORMS: dict[str, tuple[dict[str, Any], str]] = {
    "w8a8": ({}, "onnxruntime"),
    "asymmetric": ({"asymmetric": True}, "onnxruntime"),
    "asymmetric_weights": ({"weight_zp": 5}, "onnxruntime"),
    "relu6": ({"relu6": 0.04}, "onnxruntime"),
    "w4a4": ({"weight_bits": 4, "bits": 4}, "lowbit"),
    "w2a2_asymmetric": ({"weight_bits": 2, "bits": 2, "asymmetric": True}, "lowbit"),
    "w3a8": ({"weight_bits": 3}, "lowbit"),
}
INT8 = {"symmetry": "symmetric", "storage": "int8"}
LAYERS = ["conv1", "block.conv1", "block.conv2", "fc"]


def lowered(tmp_path, model: onnx.ModelProto, target):
    exporter = find_exporter(target.backend)
    ir.save(exporter.lower(ir.from_proto(model), target), tmp_path / "model.onnx")
    onnx.checker.check_model(str(tmp_path / "model.onnx"), full_check=True)
    return exporter, tmp_path / "model.onnx"


@pytest.mark.parametrize("storage", ["uint8", "int8"])
@pytest.mark.parametrize("form", FORMS)
def test_all_layers_run_in_int8_and_agree(tmp_path, form, storage):
    arguments, backend = FORMS[form]
    model = residual_net(**arguments)
    target = profile(backend, activations={"symmetry": "asymmetric", "storage": storage})
    exporter, path = lowered(tmp_path, model, target)
    x = inputs(128)
    truth = run_plain(model, x)
    plain = exporter.open(path, optimize=False, threads=1)(x)
    fast = exporter.open(path, optimize=True, threads=1)(x)
    assert plain.dtype == fast.dtype == np.float32
    # Off, only the bias is computed anew, as integer x scale, which float32 rounds by itself.
    np.testing.assert_allclose(plain, truth, rtol=0, atol=1e-5)
    # On, a value halfway between two integers may round the other way; such ties are rare.
    ties = np.abs(fast - truth) > 1e-4
    assert ties.any(axis=1).mean() <= 0.03
    assert np.abs(fast - truth).max() <= 2 * np.ptp(truth) / 255
    assert exporter.int8_layers(tmp_path, layers_of(ir.load(path))) == LAYERS


@pytest.mark.parametrize("form", FORMS)
def test_without_optimizations_it_is_what_onnx_defines(form):
    model = residual_net(**FORMS[form][0])
    x = inputs(8)
    expected = ReferenceEvaluator(model).run(None, {"input": x})[0]
    np.testing.assert_allclose(run_plain(model, x), expected, rtol=0, atol=1e-5)


def test_every_intermediate_integer_is_what_onnx_defines_but_for_ties():
    model = residual_net(weight_bits=4, bits=4)
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    names = [n.output[0] for n in model.graph.node if n.op_type == "QuantizeLinear"]
    for name in names:
        exposed.graph.output.append(onnx.ValueInfoProto(name=name))
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    shapes = onnx.shape_inference.infer_shapes(model)
    known = {info.name: info for info in shapes.graph.value_info}
    del exposed.graph.output[1:]
    exposed.graph.output.extend(known[name] for name in names)
    session = ort.InferenceSession(exposed.SerializeToString(), options)
    found = session.run(names, {"input": inputs(8)})
    wanted = ReferenceEvaluator(exposed).run(names, {"input": inputs(8)})
    differ = sum(int((a != b).sum()) for a, b in zip(found, wanted, strict=True))
    largest = max(int(np.abs(a.astype(int) - b).max()) for a, b in zip(found, wanted, strict=True))
    assert largest <= 1
    assert differ <= 1e-3 * sum(a.size for a in found)


def test_a_layer_in_the_remainder_is_not_claimed(tmp_path):
    b = Builder(np.random.default_rng(0))
    x = b.quantize("input", "input", 0.02, signed=True)
    x = b.node("Relu", [b.conv(x, "conv1", 3, 8)], "relu")
    x = b.conv(b.quantize(x, "relu", 0.01), "conv2", 8, 8, float_weight=True)
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x], "gap")], "flat")
    b.gemm(b.quantize(x, "flat", 0.01, signed=True), "fc", 8, 10)
    exporter, path = lowered(tmp_path, b.model(), profile())
    assert exporter.int8_layers(tmp_path, layers_of(ir.load(path))) == ["conv1", "fc"]


def test_lower_leaves_the_reference_alone_and_uses_one_storage():
    reference = ir.from_proto(residual_net())
    before = ir.to_proto(reference).SerializeToString(deterministic=True)
    made = find_exporter("onnxruntime").lower(reference, profile())
    assert ir.to_proto(reference).SerializeToString(deterministic=True) == before
    assert {str(q.dtype) for q in quantizers(made)} == {"UINT8"}
    assert layers_of(made) == layers_of(reference)
    assert [str(size) for size in made.graph.inputs[0].shape] == ["N", "3", "8", "8"]


def test_profile_of_this_backend_is_accepted():
    assert find_exporter("onnxruntime").refusals(profile(isa="avx512_vnni")) == []
    assert find_exporter("lowbit").refusals(profile("lowbit", bits=[[2, 2], [8, 8]])) == []


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"bits": [[4, 8]]}, "bits: 4 (allowed: 8 or more)"),
        ({"remainder": "bfloat16"}, "remainder: bfloat16 (allowed: float32)"),
        ({"opset": 23}, "opset: 23 (allowed: 21)"),
        ({"placement": {"add": "none"}}, "placement.add: 'none' leaves convolutions"),
        ({"activations": INT8, "isa": "avx512_vnni"}, "activations.storage: int8 runs 3 to 8"),
    ],
)
def test_refusals_are_one_line_each(changes, text):
    (line,) = find_exporter("onnxruntime").refusals(profile(**changes))
    assert line.startswith(text)
    assert "\n" not in line


def test_int8_storage_is_accepted_for_arm():
    assert find_exporter("onnxruntime").refusals(profile(activations=INT8, isa="dotprod")) == []


@pytest.mark.parametrize("content", [None, b"", b"not a graph", b"\x08\x07"])
def test_a_file_that_is_no_graph_is_one_line(tmp_path, content):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.onnx: ") as caught:
        find_exporter("onnxruntime").open(path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("scale", [0.006, 0.02, 0.03])
def test_two_8_bit_quantizers_in_a_row_stay_two(tmp_path, scale):
    b = Builder(np.random.default_rng(0))
    x = b.quantize("input", "input", 0.02, signed=True)
    x = b.quantize(b.node("Relu", [b.conv(x, "conv1", 3, 8)], "relu1"), "relu1", 0.012)
    x = b.conv(b.quantize(x, "relu1", scale, kind="narrow"), "conv2", 8, 8)
    x = b.node("Relu", [x], "relu2")
    x = b.node("GlobalAveragePool", [b.quantize(x, "relu2", 0.015)], "gap")
    x = b.quantize(b.node("Flatten", [x], "flat"), "flat", 0.01)
    b.gemm(x, "fc", 8, 10)
    model, batch = b.model(), 3 * inputs(128)
    exporter, path = lowered(tmp_path, model, profile())
    truth = run_plain(model, batch)
    differ = np.abs(exporter.open(path, threads=1)(batch) - truth) > 1e-4
    assert differ.any(axis=1).mean() <= 0.03
    assert exporter.int8_layers(tmp_path, layers_of(ir.load(path))) == ["conv1", "conv2", "fc"]
