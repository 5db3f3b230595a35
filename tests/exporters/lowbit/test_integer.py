"""Integer-only programs: against ONNX Runtime's integers, and damaged files."""

import json
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from eqnet_exporters.lowbit.integer import integer_program
from eqnet_exporters.lowbit.integer_parts import NotIntegerOnlyError
from eqnet_exporters.lowbit.layers import packed_tensors
from graphs import Builder, inputs, residual_net

from eqnet.backend.files import sha256_file
from eqnet.backend.lowbit.integer import INTEGER, PACKED, load_integer
from eqnet.backend.lowbit.packed import write_packed
from eqnet.spec.errors import ArtifactError, UsageError
from eqnet.spec.seal import sealed

FORMS: dict[str, dict[str, Any]] = {
    "w8a8": {},
    "asymmetric": {"asymmetric": True},
    "asymmetric_weights": {"weight_zp": 5},
    "relu6": {"relu6": 0.04},
    "no_pool": {"pool": False},
    "w4a4": {"weight_bits": 4, "bits": 4},
    "w2a2_asymmetric": {"weight_bits": 2, "bits": 2, "asymmetric": True, "weight_zp": 1},
    "w3a8": {"weight_bits": 3},
}


def write(folder, model: onnx.ModelProto):
    """The two files of an integer program."""
    reference = ir.from_proto(model)
    program = integer_program(reference)
    (folder / INTEGER).write_text(json.dumps(program))
    write_packed(folder / PACKED, packed_tensors(reference))
    return load_integer(folder)


def runtime_integers(model: onnx.ModelProto, x: np.ndarray) -> dict[str, np.ndarray]:
    """The integers of every quantizer in ONNX Runtime without optimizations, and the logits."""
    exposed = onnx.ModelProto()
    exposed.CopyFrom(model)
    names = {}
    for node in model.graph.node:
        if node.name.endswith((".q", ".clip")):
            names[node.name.rsplit(".", 1)[0]] = node.output[0]
    exposed.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names.values())
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    exposed = onnx.shape_inference.infer_shapes(exposed)
    session = ort.InferenceSession(exposed.SerializeToString(), options)
    found = session.run(None, {"input": x})
    return dict(zip(["logits", *names], found, strict=True))


def assert_same(program, model, x, least: int) -> None:
    """Every shared tensor has the runtime's integers but for ties; at least `least` are shared."""
    wanted, found = runtime_integers(model, x), program.tensors(program.quantize(x))
    shared = [name for name in found if name in wanted and name != "logits"]
    assert len(shared) >= least, sorted(found)
    for name in shared:
        difference = np.abs(found[name] - wanted[name].astype(np.int32))
        assert difference.max() <= 1, name
        assert np.count_nonzero(difference) <= 5e-3 * difference.size, name
    truth = wanted["logits"]
    assert np.abs(program(x) - truth).max() <= 5 * np.ptp(truth) / 255
    close = np.abs(program(x) - truth).max(axis=1) < 1e-3 * np.ptp(truth)
    assert close.mean() >= 0.9


@pytest.mark.parametrize("form", FORMS)
def test_every_integer_is_the_runtimes_but_for_ties(tmp_path, form):
    model = residual_net(**FORMS[form])
    program = write(tmp_path, model)
    assert_same(program, model, inputs(32), least=4)


def test_every_tensor_is_of_integers_within_its_grid(tmp_path):
    program = write(tmp_path, residual_net(weight_bits=3, bits=3))
    found = program.tensors(program.quantize(inputs(4)))
    assert set(found) == set(program.grids)
    for name, values in found.items():
        grid = program.grids[name]
        assert values.dtype == np.int32, name
        assert grid.lo <= values.min() <= values.max() <= grid.hi, name
    with pytest.raises(TypeError, match="float64, not integer"):
        program.tensors(np.zeros((1, 3, 8, 8)))


def varied(depthwise: bool) -> onnx.ModelProto:
    """Groups, dilation, strides, uneven padding, an average pool and a concatenation."""
    b = Builder(np.random.default_rng(4))
    x = b.quantize("input", "input", 0.02, signed=True)
    x = b.quantize(b.node("Relu", [b.conv(x, "conv1", 3, 8)], "r1"), "r1", 0.012)
    group = 8 if depthwise else 2
    w = b.weight("grouped", (8, 8 // group, 3, 3), 4)
    y = b.node(
        "Conv",
        [x, w, b.bias("grouped", x)],
        "grouped.output",
        "grouped",
        kernel_shape=[3, 3],
        pads=[2, 1, 2, 3],
        strides=[1, 1],
        dilations=[2, 2],
        group=group,
    )
    y = b.quantize(b.node("Relu", [y], "r2"), "r2", 0.01)
    z = b.conv(x, "narrow", 8, 4, k=1, bits=5)
    z = b.quantize(z, "narrow", 0.02, zp=100)
    x = b.node("AveragePool", [y], "pool", kernel_shape=[2, 2], strides=[2, 2])
    x = b.quantize(x, "pool", 0.0093)  # ratios of scales that no integer makes a tie of
    z = b.node("MaxPool", [z], "max", kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    z = b.quantize(z, "max", 0.02, zp=100)
    x = b.quantize(b.node("Concat", [x, z], "cat", axis=1), "cat", 0.0213, zp=98)
    x = b.quantize(b.conv(x, "conv2", 12, 8, stride=2), "conv2", 0.03, zp=130)
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x], "gap")], "flat")
    b.gemm(b.quantize(x, "flat", 0.0191, zp=128), "fc", 8, 10)
    return b.model()


@pytest.mark.parametrize("depthwise", [False, True])
def test_other_ops_and_windows(tmp_path, depthwise):
    model = varied(depthwise)
    program = write(tmp_path, model)
    kinds = {step.op for step in program.steps}
    assert {"conv", "gemm", "average_pool", "max_pool", "concat", "requantize"} <= kinds
    assert_same(program, model, inputs(32), least=7)


def small(change) -> onnx.ModelProto:
    """One convolution and a dense layer, with `change` between them."""
    b = Builder(np.random.default_rng(0))
    x = b.quantize("input", "input", 0.02, signed=True)
    x = b.quantize(b.node("Relu", [b.conv(x, "conv1", 3, 8)], "r1"), "r1", 0.012)
    x = change(b, x)
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x], "gap")], "flat")
    b.gemm(b.quantize(x, "flat", 0.01), "fc", 8, 10)
    return b.model()


def sigmoid(b, x):
    return b.quantize(b.node("Sigmoid", [x], "sig"), "sig", 1 / 255)


def product(b, x):
    return b.quantize(b.node("Mul", [x, x], "square"), "square", 0.01)


def remainder(b, x):
    return b.quantize(b.conv(x, "conv2", 8, 8, float_weight=True), "conv2", 0.02, zp=128)


def float_sum(b, x):
    y = b.conv(x, "conv2", 8, 8)
    return b.quantize(b.node("Add", [x, y], "sum"), "sum", 0.02, zp=128)


def bare_bias(b, x):
    b.bias = lambda layer, x: b.constant(f"{layer}.bias", np.full(8, 0.1234567, np.float32))
    x = b.quantize(b.conv(x, "conv2", 8, 8), "conv2", 0.02, zp=128)
    del b.bias
    return x


def edges(b, x):
    y = b.node("AveragePool", [x], "ap", kernel_shape=[3, 3], pads=[1] * 4, strides=[1, 1])
    return b.quantize(y, "ap", 0.01)


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (sigmoid, "Sigmoid 'sig' has no integer form"),
        (product, "Mul 'square' has no integer form"),
        (remainder, "layer 'conv2' stays in float"),
        (float_sum, "Add 'sum' reads a float tensor"),
        (bare_bias, "'conv2': its bias is on no integer grid"),
        (edges, "AveragePool 'ap' divides by another count"),
    ],
)
def test_what_has_no_integer_form_is_named(change, text):
    with pytest.raises(NotIntegerOnlyError) as caught:
        integer_program(ir.from_proto(small(change)))
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_sum_that_can_pass_32_bits_is_refused():
    b = Builder(np.random.default_rng(0))
    x = b.quantize("input", "input", 0.02)
    w = b.weight("fc", (2, 200_000), 8)
    x = b.node("Flatten", [x], "flat")
    b.node("Gemm", [x, w], "logits", "fc", transB=1)
    with pytest.raises(NotIntegerOnlyError, match="'fc': its sums can pass 32 bits"):
        integer_program(ir.from_proto(b.model(200_000, 1, 2)))


def test_another_input_is_one_line(tmp_path):
    program = write(tmp_path, residual_net())
    for wrong in (np.zeros((1, 3, 8, 9), np.float32), np.zeros((1, 3, 8, 8))):
        with pytest.raises(UsageError, match=r"allowed: float32 \[N, 3, 8, 8\]"):
            program(wrong)


def broken(content: dict[str, Any], key: str) -> dict[str, Any]:
    del content["ops"][0][key]
    return content


def ranged(content: dict[str, Any], **changes: object) -> dict[str, Any]:
    return {**content, "ops": [{**content["ops"][0], **changes}, *content["ops"][1:]]}


DAMAGE = {
    "not JSON": (lambda c: "{", "not valid JSON"),
    "a list": (lambda c: [], "not an integer program"),
    "another format": (lambda c: {**c, "format": "x"}, "not an integer program"),
    "later": (lambda c: {**c, "version": 2}, "version 2"),
    "no ops": (lambda c: {k: v for k, v in c.items() if k != "ops"}, "'ops' is missing"),
    "no output": (lambda c: {**c, "output": {"tensor": "x"}}, "no op makes 'x'"),
    "ops of numbers": (lambda c: {**c, "ops": [1]}, "not a sound program"),
    "no weight": (lambda c: broken(c, "weight"), "'weight' is missing"),
    "unknown op": (lambda c: {**c, "ops": [{**c["ops"][0], "op": "x"}]}, "op 'x' is unknown"),
    "unknown tensor": (
        lambda c: {**c, "ops": [{**c["ops"][0], "inputs": ["x"]}]},
        "uses no known tensor",
    ),
    "shift": (lambda c: {**c, "ops": [{**c["ops"][0], "shift": [63]}]}, "shifts"),
    "negative": (lambda c: ranged(c, multiplier=[[-1]]), "multipliers (allowed: integers of 0 to"),
    "wide": (lambda c: ranged(c, multiplier=[[2**31]]), "integers of 0 to 2147483647)"),
    "fraction": (lambda c: ranged(c, multiplier=[[0.5]]), "op 'conv1': multipliers"),
    "no shift": (
        lambda c: ranged(c, shift=[0]),
        "op 'conv1': shifts (allowed: integers of 1 to 62)",
    ),
    "huge pads": (
        lambda c: ranged(c, pads=[10**9, 0, 0, 0]),
        "op 'conv1': pads (allowed: integers of 0 to 64)",
    ),
    "no strides": (lambda c: ranged(c, strides=[0, 1]), "strides (allowed"),
    "half a stride": (lambda c: ranged(c, strides=[0.5, 1]), "strides (allowed"),
    "huge bias shift": (lambda c: ranged(c, bias_shift=64), "bias_shift (allowed"),
    "huge input": (
        lambda c: {**c, "input": {**c["input"], "shape": [3, 10**8, 10**8]}},
        "op 'input': shape (allowed",
    ),
    "huge integer": (
        lambda c: json.dumps(c).replace('"version": 1', '"version": ' + "1" * 400),
        "an integer of 400 digits",
    ),
    "wide grid": (
        lambda c: {**c, "tensors": {n: {**g, "hi": 2**40} for n, g in c["tensors"].items()}},
        "integers of 32 bits",
    ),
    "float": (lambda c: {**c, "tensors": {"a": 1.5}}, "not a sound program"),
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_program_is_one_line(tmp_path, damage):
    write(tmp_path, residual_net())
    change, text = DAMAGE[damage]
    content = change(json.loads((tmp_path / INTEGER).read_text()))
    made = content if isinstance(content, str) else json.dumps(content)
    (tmp_path / INTEGER).write_text(made)
    with pytest.raises(ArtifactError) as caught:
        load_integer(tmp_path)
    assert text in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_program_that_cannot_run_names_its_op(tmp_path):
    write(tmp_path, residual_net())
    content = json.loads((tmp_path / INTEGER).read_text())
    content["ops"][0]["group"] = 3
    (tmp_path / INTEGER).write_text(json.dumps(content))
    with pytest.raises(ArtifactError, match="op 'conv1' cannot run"):
        load_integer(tmp_path)(inputs(2))
    (tmp_path / INTEGER).unlink()
    with pytest.raises(ArtifactError, match="cannot read"):
        load_integer(tmp_path)


@pytest.mark.parametrize("name", [INTEGER, PACKED])
def test_a_program_in_an_artifact_is_held_to_its_manifest(tmp_path, name):
    write(tmp_path, residual_net())
    files = {file: sha256_file(tmp_path / file) for file in (INTEGER, PACKED)}
    manifest = tmp_path / "manifest.json"
    manifest.write_text(json.dumps(sealed({"files": files})))
    load_integer(tmp_path)
    del files[name]
    manifest.write_text(json.dumps(sealed({"files": files})))
    with pytest.raises(ArtifactError, match=rf"{name}: the manifest lists no such file"):
        load_integer(tmp_path)
    manifest.write_text(json.dumps(sealed({"files": {**files, name: "0" * 64}})))
    with pytest.raises(ArtifactError, match="changed or corrupt"):
        load_integer(tmp_path)
    manifest.write_text(json.dumps({"files": files}))
    with pytest.raises(ArtifactError, match="digest"):
        load_integer(tmp_path)
