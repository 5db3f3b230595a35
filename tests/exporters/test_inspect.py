"""What each backend says of strangers' files: by its own word, with reasons that are right."""

from __future__ import annotations

import platform
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from eqnet_exporters.onnxruntime import OnnxRuntimeExporter
from eqnet_exporters.openvino import OpenVinoExporter
from eqnet_exporters.tensorrt import TensorRtExporter
from eqnet_exporters.trt import build as trt_build
from eqnet_exporters.trt import log as trt_log
from eqnet_exporters.trt.lower import to_signed_zero
from graphs import Builder, residual_net
from onnx import helper
from strangers import (
    constants,
    float_net,
    model,
    quantize_static,
    residual_float_net,
    save,
)
from trt_graphs import broken, neutral

from eqnet.backend.graph.layer_forms import layer_forms
from eqnet.backend.graph.model_file import read_model_file
from eqnet.backend.protocol import Exporter, Inspects
from eqnet.spec.outside.inspection import BackendFinding, LayerFinding, LayerForm

BACKENDS: tuple[type[Exporter], ...] = (OnnxRuntimeExporter, OpenVinoExporter, TensorRtExporter)
ON_X86 = platform.machine() in ("x86_64", "AMD64")


def layers_of(path: Path) -> list[LayerForm]:
    return layer_forms(read_model_file(path).model)


def ask(exporter: Inspects, path: Path) -> BackendFinding:
    layers = layers_of(path)
    finding = exporter.inspect(path, layers)
    if finding.layers:
        assert [one.name for one in finding.layers] == [one.name for one in layers]
    for one in finding.layers:
        assert bool(one.reason) == (one.precision != "int8"), one
    return finding


def only(finding: BackendFinding, name: str) -> LayerFinding:
    return {one.name: one for one in finding.layers}[name]


def int8_of(finding: BackendFinding) -> list[str]:
    return [one.name for one in finding.layers if one.precision == "int8"]


def openvino() -> OpenVinoExporter:
    pytest.importorskip("openvino")
    return OpenVinoExporter()


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_float_file_is_taken_and_runs_in_float(backend: type[Exporter], tmp_path: Path):
    exporter = backend()
    assert isinstance(exporter, Inspects)
    if backend is OpenVinoExporter:
        pytest.importorskip("openvino")
    finding = ask(exporter, save(float_net(), tmp_path / "net.onnx"))
    assert finding.verdict in ("loaded", "checked")
    assert int8_of(finding) == []
    reasons = Counter(one.reason for one in finding.layers)
    assert len(reasons) == 1
    assert "does not quantize it" in next(iter(reasons))
    assert all("eqnet quantize --profile" in one.remedy for one in finding.layers)


@pytest.mark.parametrize("form", [{}, {"asymmetric": True}, {"weight_zp": 5}, {"weight_bits": 4}])
def test_onnxruntime_and_openvino_agree_with_what_verify_counts(
    form: dict[str, Any], tmp_path: Path
):
    path = save(residual_net(**form), tmp_path / "model.onnx")
    layers = {layer.name: layer.op for layer in layers_of(path)}
    if "asymmetric" in form:  # int8 activations are another session's matter
        runtime = OnnxRuntimeExporter()
        assert int8_of(ask(runtime, path)) == runtime.int8_layers(tmp_path, layers)
    exporter = openvino()
    assert int8_of(ask(exporter, path)) == exporter.int8_layers(tmp_path, layers)


class TestOnnxRuntime:
    def test_quantize_static_runs_in_int8(self, tmp_path: Path):
        for name, qoperator in (("qdq.onnx", False), ("qop.onnx", True)):
            path = quantize_static(tmp_path, name, qoperator=qoperator)
            finding = ask(OnnxRuntimeExporter(), path)
            assert finding.verdict == "loaded"
            assert finding.runtime.startswith("onnxruntime ")
            assert len(int8_of(finding)) == 3, finding

    def test_dynamic_quantization_runs_in_int8(self, tmp_path: Path):
        from onnxruntime.quantization import quantize_dynamic

        source = save(float_net(), tmp_path / "float.onnx")
        quantize_dynamic(str(source), str(tmp_path / "dynamic.onnx"))
        finding = ask(OnnxRuntimeExporter(), tmp_path / "dynamic.onnx")
        assert len(int8_of(finding)) == 3, finding

    def test_float_readers_are_named(self, tmp_path: Path):
        b = Builder(np.random.default_rng(0))
        x = b.conv(b.quantize("input", "input", 0.02, zp=117), "conv1", 3, 8)
        x = b.node("Sigmoid", [x], "s.output")
        x = b.node("GlobalAveragePool", [x], "gap.output")
        x = b.quantize(b.node("Flatten", [x], "flat.output"), "flat", 0.01)
        b.gemm(x, "fc", 8, 10)
        finding = ask(OnnxRuntimeExporter(), save(b.model(), tmp_path / "net.onnx"))
        conv = only(finding, "conv1")
        assert conv.precision == "float"
        assert "no quantizer at its output behind Sigmoid" in conv.reason
        assert "QGemm takes one in int32" in only(finding, "fc").reason
        assert finding.quantizers_left

    def test_a_relu_before_a_free_zero_point(self, tmp_path: Path):
        b = Builder(np.random.default_rng(0))
        x = b.conv(b.quantize("input", "input", 0.02, zp=117), "conv1", 3, 8)
        x = b.quantize(b.node("Relu", [x], "r.output"), "r", 0.02, zp=9)
        x = b.node("GlobalAveragePool", [x], "gap.output")
        x = b.quantize(b.node("Flatten", [x], "flat.output"), "flat", 0.01)
        b.gemm(x, "fc", 8, 10)
        finding = only(ask(OnnxRuntimeExporter(), save(b.model(), tmp_path / "net.onnx")), "conv1")
        assert finding.precision == "float"
        assert "Relu in front of a quantizer with zero-point 9" in finding.reason

    @pytest.mark.skipif(not ON_X86, reason="ARM fuses int8 activations by default")
    def test_int8_activations_need_an_entry_on_x86(self, tmp_path: Path):
        path = quantize_static(tmp_path, net=residual_float_net(), activations="QInt8")
        finding = ask(OnnxRuntimeExporter(), path)
        assert "session.qdqisint8allowed" in only(finding, "two").reason
        assert "QUInt8" in only(finding, "two").remedy

    def test_weights_alone_are_no_int8_layer(self, tmp_path: Path):
        proto = residual_net(asymmetric=True)
        conv = next(node for node in proto.graph.node if node.name == "conv1")
        conv.input[0] = "input"
        finding = only(ask(OnnxRuntimeExporter(), save(proto, tmp_path / "net.onnx")), "conv1")
        assert finding.precision == "float"
        assert "only its weights are integers" in finding.reason

    def test_a_large_file_is_optimized_with_its_weights_beside_it(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ):
        path = quantize_static(tmp_path)
        small = ask(OnnxRuntimeExporter(), path)
        monkeypatch.setattr("eqnet_exporters.ort.session.LARGE", 0)
        assert ask(OnnxRuntimeExporter(), path) == small

    def test_operators_that_it_does_not_know_are_refused(self, tmp_path: Path):
        node = helper.make_node("Whatever", ["x"], ["y"], "w", domain="own.domain")
        path = save(model([node], [], domains=("own.domain",)), tmp_path / "net.onnx")
        finding = ask(OnnxRuntimeExporter(), path)
        assert finding.verdict == "refused"
        assert "Whatever" in finding.reason
        assert str(path) not in finding.reason


class TestOpenVino:
    def test_weights_with_zero_points_are_float(self, tmp_path: Path):
        path = quantize_static(tmp_path, weights="QUInt8")
        finding = ask(openvino(), path)
        assert finding.verdict == "loaded"
        in_float = [one for one in finding.layers if one.precision == "float"]
        assert in_float
        assert all("zero-point other than 0" in one.reason for one in in_float)
        assert "openvino_asym" in in_float[0].remedy

    def test_the_qoperator_form_is_refused_or_said_to_be_float(self, tmp_path: Path):
        finding = ask(openvino(), quantize_static(tmp_path, qoperator=True))
        if finding.verdict == "refused":
            assert "QDQ form" in finding.remedy
            return
        assert all("QDQ form" in one.remedy for one in finding.layers if one.precision != "int8")

    def test_weights_that_layers_share_tell_none_of_them(self, tmp_path: Path):
        proto = model(
            [
                helper.make_node("Conv", ["x", "w"], ["a"], "one", pads=[1] * 4),
                helper.make_node("Conv", ["a", "w"], ["y"], "two", pads=[1] * 4),
            ],
            constants(w=np.ones((3, 3, 3, 3), np.float32)),
        )
        finding = ask(openvino(), save(proto, tmp_path / "net.onnx"))
        assert [one.precision for one in finding.layers] == ["float", "float"]


class TestTensorRt:
    def test_what_the_exporter_lowers_is_taken(self, tmp_path: Path):
        made = ir.from_proto(neutral())
        to_signed_zero(made)
        ir.save(made, tmp_path / "net.onnx")
        finding = ask(TensorRtExporter(), tmp_path / "net.onnx")
        assert finding.verdict == "checked"
        assert int8_of(finding) == ["conv1", "block.conv1", "block.conv2", "fc"]

    @pytest.mark.parametrize(
        ("change", "layer", "reason"),
        [
            ("zero-point", "block.conv1", "zero-point other than 0"),
            ("storage", "block.conv1", "uint8"),
            ("axis", "block.conv1", "along another axis"),
            ("bias", "fc", "bias is an integer"),
            ("activation scales", "block.conv1", "several scales"),
        ],
    )
    def test_a_broken_rule_names_its_layer(
        self, change: str, layer: str, reason: str, tmp_path: Path
    ):
        ir.save(broken(change), tmp_path / "net.onnx")
        finding = ask(TensorRtExporter(), tmp_path / "net.onnx")
        assert finding.verdict == "refused"
        assert reason in only(finding, layer).reason
        assert only(finding, "block.conv2").precision == "int8"

    def test_operators_of_other_domains_are_refused(self, tmp_path: Path):
        proto = float_net()
        proto.graph.node[0].input[0] = "xq"
        quant = helper.make_node(
            "Quant", ["x", "s", "z", "b"], ["xq"], "q", domain="qonnx.custom_op.general", signed=0
        )
        proto.graph.node.insert(0, quant)
        proto.graph.initializer.extend(
            constants(s=np.float32(0.1), z=np.float32(0), b=np.float32(4))
        )
        proto.opset_import.append(helper.make_opsetid("qonnx.custom_op.general", 1))
        path = save(proto, tmp_path / "net.onnx")
        layer = layers_of(path)[0]
        assert (layer.form, layer.input.type, layer.input.stored) == (
            "activations only",
            "uint4",
            False,
        )
        finding = ask(TensorRtExporter(), path)
        assert finding.verdict == "refused"
        assert finding.reason == "operator qonnx.custom_op.general:Quant"

    def test_quantize_static_as_it_comes_is_refused(self, tmp_path: Path):
        finding = ask(TensorRtExporter(), quantize_static(tmp_path))
        assert finding.verdict == "refused"
        for one in finding.layers:
            assert "tensorrt_int8" in one.remedy
            assert "zero-point" in one.reason
            assert "bias is an integer" in one.reason

    def test_the_remedy_that_it_names_is_one(self, tmp_path: Path):
        options = {"ActivationSymmetric": True, "QuantizeBias": False}
        path = quantize_static(tmp_path, activations="QInt8", extra_options=options)
        finding = ask(TensorRtExporter(), path)
        assert finding.verdict == "checked", finding
        assert len(int8_of(finding)) == 3
        trt = trt_build.find_tensorrt_or_none()
        if trt is None or not trt_build.builds_without_gpu(trt):
            pytest.skip("no TensorRT that builds for SM89 here, to be asked the same")
        engine = trt_build.build(trt, path.read_bytes(), target="SM89")
        types = trt_log.compute_types(engine.log, int8_of(finding))
        assert set(types.values()) == {"Int8"}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_damaged_graph_is_a_verdict_and_no_error(backend: type[Exporter], tmp_path: Path):
    proto = float_net()
    proto.graph.node[0].input[1] = "nowhere"
    path = save(proto, tmp_path / "net.onnx")
    from eqnet.backend.machine.isolated import inspect_here

    finding = inspect_here(backend.name, path, layers_of(path))
    assert isinstance(finding, BackendFinding)
    if backend is OnnxRuntimeExporter:
        assert finding.verdict == "refused"


def test_a_transposed_convolution_is_told_by_each(tmp_path: Path):
    b = Builder(np.random.default_rng(0))
    x = b.quantize("input", "input", 0.02, zp=0, signed=True)
    w = b.weight("up", (3, 3, 2, 2), 8)
    x = b.node("ConvTranspose", [x, w], "up.output", "up", kernel_shape=[2, 2], strides=[2, 2])
    x = b.quantize(x, "up", 0.02, signed=True)
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x], "gap")], "flat")
    b.gemm(b.quantize(x, "flat", 0.01, signed=True), "fc", 3, 10)
    proto = b.model()
    dq = next(node for node in proto.graph.node if node.output[0] == w)
    dq.attribute[0].i = 1
    onnx.checker.check_model(proto)
    path = save(proto, tmp_path / "net.onnx")
    assert "transposed" in only(ask(OnnxRuntimeExporter(), path), "up").reason
    assert "transposed" in only(ask(TensorRtExporter(), path), "up").reason
    finding = only(ask(openvino(), path), "up")
    assert finding.precision == "int8" or "transposed" in finding.reason
