"""TensorRT: lowering, the rules, the float16 twin, and engines built without a GPU."""

from __future__ import annotations

import ctypes
import json
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from eqnet_exporters import tensorrt as module
from eqnet_exporters.onnxruntime import OnnxRuntimeExporter
from eqnet_exporters.tensorrt import BUILD_LOG, FLOAT16_MODEL, TensorRtExporter
from eqnet_exporters.trt import build as trt_build
from eqnet_exporters.trt import cuda as trt_cuda
from eqnet_exporters.trt import log as trt_log
from eqnet_exporters.trt.float16 import to_float16
from eqnet_exporters.trt.lower import to_signed_zero
from eqnet_exporters.trt.rules import problems, require
from eqnet_exporters.trt.shipped import BUILD_SUMS
from graphs import inputs, residual_net
from trt_graphs import broken, neutral

from eqnet.backend.files import sha256_file
from eqnet.backend.graph.reading import layers_of, quantizers, strip_qdq
from eqnet.spec.errors import ArtifactError, EqnetError, ProfileError
from eqnet.spec.hardware.load import load_profile

LAYERS = ["conv1", "block.conv1", "block.conv2", "fc"]


@pytest.fixture
def profile():
    return load_profile("tensorrt_int8")


@pytest.fixture
def lowered(profile) -> ir.Model:
    return TensorRtExporter().lower(ir.from_proto(neutral()), profile)


@pytest.fixture(scope="module")
def artifact(tmp_path_factory):
    """A folder with the lowered model and everything that `finish` wrote."""
    pytest.importorskip("tensorrt_rtx")
    folder = tmp_path_factory.mktemp("tensorrt")
    exporter, chosen = TensorRtExporter(), load_profile("tensorrt_int8")
    ir.save(exporter.lower(ir.from_proto(neutral()), chosen), folder / "model.onnx")
    return folder, exporter.finish(folder, chosen)


def test_lowered_graph_is_int8_with_zero_point_0_and_no_clip(lowered):
    found = list(quantizers(lowered))
    assert len(found) == 4
    assert {(q.dtype, q.zero_point, q.lo, q.hi) for q in found} == {
        (ir.DataType.INT8, 0, -128, 127)
    }
    assert all(q.clip is None for q in found)
    assert problems(lowered) == []


def test_lowering_changes_no_value(lowered, tmp_path):
    ir.save(ir.from_proto(neutral()), tmp_path / "reference.onnx")
    ir.save(lowered, tmp_path / "model.onnx")
    runtime, x = OnnxRuntimeExporter(), inputs(64) * 3  # far enough to saturate at 127
    expected = runtime.open(tmp_path / "reference.onnx", optimize=False)(x)
    found = runtime.open(tmp_path / "model.onnx", optimize=False)(x)
    assert np.ptp(expected) > 0
    np.testing.assert_array_equal(found, expected)


def test_lowering_leaves_the_reference_as_it_is(profile):
    reference = ir.from_proto(neutral())
    before = ir.to_proto(reference).SerializeToString()
    TensorRtExporter().lower(reference, profile)
    assert ir.to_proto(reference).SerializeToString() == before


@pytest.mark.parametrize(
    ("options", "said"), [({}, "integers 0..255"), ({"asymmetric": True}, "zero-point 117")]
)
def test_lowering_refuses_what_int8_cannot_hold(options, said):
    with pytest.raises(ProfileError, match=said) as error:
        to_signed_zero(ir.from_proto(residual_net(**options)))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("zero-point", "'block.conv1.weight.dq': zero-point 3 (allowed: 0)"),
        ("scale", "'block.conv1.weight.dq': scale 0 (allowed: finite and above 0)"),
        ("axis", "'block.conv1': weight scales along axis 1 (allowed: axis 0"),
        ("activation scales", "'relu1.carrier.q': 16 scales on an activation"),
        ("opset", "opset 26 (allowed: 9 to 25)"),
        ("bias", "'fc': its bias comes from DequantizeLinear"),
        ("storage", "'relu1.carrier.q': activation stored as uint8 (allowed: int8)"),
    ],
)
def test_rules_name_the_node_and_what_is_allowed(change, said):
    with pytest.raises(ProfileError) as error:
        require(broken(change))
    assert said in str(error.value)
    assert "\n" not in str(error.value)


def test_an_integer_clip_is_against_the_rules():
    found = problems(ir.from_proto(neutral()))
    assert any("integers are read by Clip" in line for line in found)


def test_float16_twin_is_valid_and_close(lowered, tmp_path):
    twin = to_float16(lowered)
    proto = ir.to_proto(twin)
    onnx.checker.check_model(proto, full_check=True)
    assert twin.opset_imports[""] == 23
    halves = {v.name for v in twin.graph.initializers.values() if v.dtype == ir.DataType.FLOAT16}
    assert {"conv1.bias.fp16", "fc.bias.fp16"} <= halves
    scales = [v for n, v in twin.graph.initializers.items() if n.endswith("scale")]
    assert {v.dtype for v in scales} == {ir.DataType.FLOAT}
    first = next(node for node in twin.graph if node.op_type == "QuantizeLinear")
    assert first.inputs[0] is twin.graph.inputs[0], "the input is quantized in float32"
    ir.save(lowered, tmp_path / "model.onnx")
    ir.save(twin, tmp_path / "half.onnx")
    runtime, x = OnnxRuntimeExporter(), inputs(32)
    full = runtime.open(tmp_path / "model.onnx", optimize=False)(x)
    half = runtime.open(tmp_path / "half.onnx", optimize=False)(x)
    assert half.dtype == np.float32
    # float16 has 11 significant bits, and a tie may fall to the other side: one 7-bit step of
    # a few activations, far below one step of the logits' 8-bit grid on the median image.
    assert np.median(np.abs(half - full)) < np.ptp(full) / 255


@pytest.mark.parametrize("remainder", ["float16", "float32"])
def test_a_float_model_is_built_in_the_profiles_remainder(
    lowered, profile, tmp_path, monkeypatch, remainder
):
    """What `eqnet bench` times beside an artifact; nothing runs, so no GPU is needed."""
    monkeypatch.setattr(TensorRtExporter, "unavailable", lambda self, profile=None: None)
    monkeypatch.setattr(trt_build, "find_tensorrt", lambda: None)
    monkeypatch.setattr(module, "Cuda", lambda: None)
    monkeypatch.setattr(module, "load_shipped", lambda trt, cuda, model: None)
    monkeypatch.setattr(module, "TensorRtRunner", lambda trt, plan, cuda: plan)
    monkeypatch.setattr(trt_build, "build", lambda trt, content, **_: SimpleNamespace(plan=content))
    ir.save(strip_qdq(lowered), tmp_path / "float.onnx")
    rules = profile.model_copy(update={"remainder": remainder})
    content: Any = TensorRtExporter().open(tmp_path / "float.onnx", profile=rules)
    types = {tensor.data_type for tensor in onnx.load_from_string(content).graph.initializer}
    assert (onnx.TensorProto.FLOAT16 in types) == (remainder == "float16")
    plain: Any = TensorRtExporter().open(tmp_path / "float.onnx", profile=rules, optimize=False)
    assert plain == (tmp_path / "float.onnx").read_bytes()


def test_float16_refuses_constants_beyond_its_range(lowered):
    bias = lowered.graph.initializers["fc.bias"]
    bias.const_value = ir.tensor(np.full(10, 7e4, np.float32), name="fc.bias")
    with pytest.raises(ProfileError, match=r"'fc.bias' holds 70000 .*65504"):
        to_float16(lowered)


def test_engines_for_five_compute_capabilities_without_a_gpu(artifact):
    folder, written = artifact
    engines = [f"model.{target.lower()}.engine" for target in trt_build.TARGETS]
    assert written == [FLOAT16_MODEL, *engines, BUILD_LOG, BUILD_SUMS]
    assert all((folder / name).stat().st_size > 0 for name in written)
    assert len({sha256_file(folder / name) for name in engines}) == len(engines)
    sums = json.loads((folder / BUILD_SUMS).read_text())
    assert sums["weights"] == 3 * 16 * 9 + 2 * 16 * 16 * 9 + 160
    assert all(e["weights_bytes"] <= sums["weights_bytes_limit"] for e in sums["engines"])
    assert "--onnx=model.fp16.onnx --stronglyTyped" in sums["trtexec"]
    assert "--maxShapes=input:32x3x8x8" in sums["trtexec"]


def test_int8_layers_are_read_from_the_build_log(artifact):
    folder, _ = artifact
    layers = layers_of(ir.load(folder / "model.onnx"))
    assert TensorRtExporter().int8_layers(folder, layers) == LAYERS


def test_a_layer_left_in_float_is_not_proved(profile, tmp_path):
    pytest.importorskip("tensorrt_rtx")
    model = TensorRtExporter().lower(ir.from_proto(neutral(float_layer=True)), profile)
    half = ir.to_proto(to_float16(model)).SerializeToString()
    import tensorrt_rtx

    engine = trt_build.build(tensorrt_rtx, half, target="SM89")
    types = trt_log.compute_types(engine.log, layers_of(model))
    assert types["block.conv2"] == "Half"
    assert types["block.conv1"] == types["conv1"] == "Int8"


def test_int8_layers_need_a_build_log(tmp_path):
    with pytest.raises(ArtifactError, match=r"build\.log: cannot read the build log"):
        TensorRtExporter().int8_layers(tmp_path, {"conv1": "Conv"})


def test_the_parser_is_a_real_gate():
    trt = pytest.importorskip("tensorrt_rtx")
    asymmetric = residual_net(asymmetric=True).SerializeToString()
    with pytest.raises(EqnetError, match=r"cannot parse the model: .*[Zz]ero") as error:
        trt_build.build(trt, asymmetric, target="SM89")
    assert "\n" not in str(error.value)


def test_finish_refuses_a_graph_against_the_rules(profile, tmp_path):
    ir.save(broken("zero-point"), tmp_path / "model.onnx")
    with pytest.raises(ProfileError, match="zero-point 3"):
        TensorRtExporter().finish(tmp_path, profile)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


@pytest.mark.parametrize(
    ("log", "said"),
    [
        ("Total Weights Memory: 999999 bytes", "keeps 999999 bytes of weights"),
        ("Engine generation completed", "SM89 engine does not say how much memory"),
    ],
)
def test_finish_refuses_weights_not_shown_to_be_int8(profile, tmp_path, monkeypatch, log, said):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(trt_build, "TARGETS", ("SM89",))
    monkeypatch.setattr(trt_build, "build", lambda *_, **__: trt_build.Engine("SM89", b"p", log))
    model = TensorRtExporter().lower(ir.from_proto(neutral()), profile)
    ir.save(model, tmp_path / "model.onnx")
    with pytest.raises(EqnetError, match=said) as error:
        TensorRtExporter().finish(tmp_path, profile)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(("remainder", "width"), [("float16", 2), ("float32", 4)])
def test_a_float_layer_is_allowed_its_width_in_the_file_that_is_built(
    profile, tmp_path, monkeypatch, remainder, width
):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(trt_build, "TARGETS", ("SM89",))
    target = profile.model_copy(update={"remainder": remainder})
    model = TensorRtExporter().lower(ir.from_proto(neutral(float_layer=True)), target)
    ir.save(model, tmp_path / "model.onnx")
    TensorRtExporter().finish(tmp_path, target)
    sums = json.loads((tmp_path / BUILD_SUMS).read_text())
    int8, in_float = 3 * 16 * 9 + 16 * 16 * 9 + 160, 16 * 16 * 9
    assert sums["weights_bytes_limit"] == 1.5 * int8 + width * in_float + 16 * 1024


def test_no_gpu_is_a_reason_not_a_crash(monkeypatch, tmp_path):
    def missing(name: str) -> None:
        raise OSError(name)

    monkeypatch.setattr(ctypes, "CDLL", missing)
    trt_cuda.gpu_problem.cache_clear()
    try:
        exporter = TensorRtExporter()
        assert exporter.unavailable() == (
            "no NVIDIA GPU to run on (no NVIDIA GPU driver on this machine)"
        )
        with pytest.raises(EqnetError, match="no NVIDIA GPU"):
            exporter.open(tmp_path / "model.onnx")
    finally:
        trt_cuda.gpu_problem.cache_clear()


def test_refusals(profile):
    exporter = TensorRtExporter()
    assert exporter.refusals(profile) == []
    lines = exporter.refusals(load_profile("openvino_asym"))
    assert any("zero_point" in line for line in lines)
    assert any("activations.symmetry" in line for line in lines)


def test_float_twin_can_be_stripped_from_the_lowered_graph(lowered):
    assert not any("QuantizeLinear" in node.op_type for node in strip_qdq(lowered).graph)
