"""OpenVINO: devices, bfloat16, and quantizers moved onto the layers that compute."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import onnx_ir as ir
import pytest
from artifacts import profile as by_hand
from artifacts import write_artifact
from eqnet_exporters.openvino import OpenVinoExporter
from eqnet_exporters.ov.hoist_quantizers import hoist_quantizers
from eqnet_exporters.ov.run import Setting, absent_device, compile_model
from graphs import Builder, inputs, residual_net

from eqnet.backend.discovery import find_exporter
from eqnet.backend.graph.reading import layers_of, quantizer_of, quantizers
from eqnet.backend.machine import float_twin
from eqnet.backend.machine.isa import Cpu, onednn_cpu
from eqnet.runtime import load
from eqnet.spec.errors import EqnetError, UsageError
from eqnet.spec.hardware.load import load_profile
from eqnet.stages.bench import bench
from eqnet.stages.verify import verify

pytest.importorskip("openvino")
ABSENT = "NPU.7"  # no machine has eight
LAYERS = ["conv1", "block.conv1", "block.conv2", "fc"]


def target(**changes):
    return by_hand("openvino", placement={"add": "skip", "carriers": ["pool"]}, **changes)


@pytest.fixture
def exporter() -> OpenVinoExporter:
    return OpenVinoExporter()


@pytest.fixture
def absent(tmp_path):
    """An artifact for a device that is not here."""
    write_artifact(tmp_path / "net", residual_net(asymmetric=True), target(device=ABSENT))
    return tmp_path / "net"


@pytest.mark.parametrize("name", ["CPU", "AUTO", "HETERO:CPU"])
def test_devices_of_this_machine(name):
    assert absent_device(name) is None


@pytest.mark.parametrize("name", [ABSENT, f"HETERO:{ABSENT},CPU", f"AUTO:CPU,{ABSENT}"])
def test_an_absent_device_is_named_with_those_that_are_there(name):
    reason = absent_device(name)
    assert reason is not None
    assert reason.startswith(f"OpenVINO finds no device '{ABSENT}' here (available: CPU")


@pytest.mark.parametrize("name", ["CPU.0", "MULTI:CPU.0"])
def test_the_cpu_has_no_number(name):
    reason = absent_device(name)
    assert reason is not None
    assert reason.startswith("OpenVINO finds no device 'CPU.0' here (available: CPU")


def test_a_single_gpu_takes_its_number_too(monkeypatch):
    import openvino

    core = SimpleNamespace(available_devices=["CPU", "GPU"])
    monkeypatch.setattr(openvino, "Core", lambda: core)
    assert absent_device("HETERO:GPU.0,CPU") is None
    assert absent_device("GPU.1") is not None


def test_verify_of_an_absent_device_runs_elsewhere_and_is_skipped(absent):
    report = verify(absent)
    checks = {check.name: check for check in report.checks}
    assert report.verdict == "skipped"
    assert ABSENT in checks["execution"].reason
    assert checks["top1_agreement"].verdict == "passed"
    assert checks["int8_layers"].verdict == "skipped"
    assert report.runtime.startswith("onnxruntime")


def test_bench_of_an_absent_device_is_skipped(absent):
    made = bench(absent, repeats=5)
    assert (made.verdict, made.ratio) == ("skipped", None)
    assert ABSENT in made.reason


def test_load_on_an_absent_device_is_one_line(absent):
    with pytest.raises(UsageError, match=r"cannot execute here: OpenVINO finds no device"):
        load(absent)


def test_open_on_an_absent_device_is_one_line(tmp_path, exporter):
    ir.save(ir.from_proto(residual_net()), tmp_path / "model.onnx")
    with pytest.raises(EqnetError, match="finds no device") as error:
        exporter.open(tmp_path / "model.onnx", profile=target(device=ABSENT))
    assert "\n" not in str(error.value)


def test_export_for_an_absent_device_still_writes_the_ir(tmp_path, exporter):
    ir.save(ir.from_proto(residual_net()), tmp_path / "model.onnx")
    assert exporter.finish(tmp_path, target(device="GPU")) == ["model.xml", "model.bin"]


@pytest.mark.parametrize("device", ["AUTO", "HETERO:CPU"])
def test_a_device_that_chooses_gives_the_same_logits(tmp_path, exporter, device):
    write_artifact(tmp_path / "net", residual_net(asymmetric=True), target(device=device))
    path, x = tmp_path / "net" / "model.onnx", inputs(7)
    found = exporter.open(path, threads=1, profile=target(device=device))(x)
    np.testing.assert_allclose(found, exporter.open(path, threads=1)(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("device", ["CPU", "AUTO", "AUTO:CPU", "HETERO:CPU", "MULTI:CPU"])
def test_the_cpus_settings_reach_it_through_every_device(tmp_path, device):
    ir.save(ir.from_proto(residual_net()), tmp_path / "model.onnx")
    setting = Setting.of(target(device=device), threads=1)
    compiled = compile_model(tmp_path / "model.onnx", setting)
    names = ("INFERENCE_NUM_THREADS", "DYNAMIC_QUANTIZATION_GROUP_SIZE")
    own = {} if device == "CPU" else compiled.get_property("DEVICE_PROPERTIES")["CPU"]
    found = [own.get(name) if own else compiled.get_property(name) for name in names]
    assert found == [1, 0]


def test_each_backend_refuses_devices_of_others():
    def refused(backend, device):
        lines = find_exporter(backend).refusals(by_hand(backend, device=device))
        return [line for line in lines if line.startswith("device")]

    assert refused("openvino", "HETERO:GPU.1,CPU") == []
    assert refused("onnxruntime", "CPU") == []
    assert refused("onnxruntime", "GPU") == ["device: GPU (allowed: CPU)"]
    assert refused("tensorrt", "NPU") == ["device: NPU (allowed: GPU)"]


def test_what_a_profile_asks_of_the_compiler():
    profile = target(device="GPU.1", remainder="bfloat16")
    asked = Setting.of(profile, threads=2)
    assert (asked.device, asked.config()["INFERENCE_PRECISION_HINT"]) == ("GPU.1", "bf16")
    assert "INFERENCE_NUM_THREADS" not in asked.config(), "threads are the CPU's"
    plain = Setting.of(profile, optimize=False, threads=2)
    assert (plain.device, plain.config()["INFERENCE_PRECISION_HINT"]) == ("CPU", "f32")
    assert plain.config()["LP_TRANSFORMS_MODE"] == "NO"


def test_float16_is_refused_where_the_cpu_may_run(exporter):
    def refused(device):
        lines = exporter.refusals(target(device=device, remainder="float16"))
        return any(line.startswith("remainder: float16") for line in lines)

    assert all(refused(device) for device in (None, "CPU", "AUTO", "HETERO:GPU,CPU"))
    assert not any(refused(device) for device in ("GPU", "AUTO:GPU,NPU", "HETERO:GPU.1"))


@pytest.mark.parametrize("profile", ["openvino_asym", "openvino_bf16"])
@pytest.mark.parametrize("batch", [1, 7])
def test_int8_layers_in_either_precision(tmp_path, exporter, profile, batch):
    rules = load_profile(profile)
    reference = ir.from_proto(residual_net(asymmetric=profile == "openvino_asym"))
    ir.save(exporter.lower(reference, rules), tmp_path / "model.onnx")
    exporter.finish(tmp_path, rules)
    assert exporter.int8_layers(tmp_path, layers_of(reference), rules) == LAYERS
    run = exporter.open(tmp_path / "model.onnx", threads=1, profile=rules)
    assert run(inputs(batch)).shape == (batch, 10)


def test_bfloat16_changes_a_float_layer_and_semantics_stay_float32(tmp_path, exporter):
    if onednn_cpu().missing("bf16") is not None:
        pytest.skip("this CPU executes a bfloat16 remainder in float32")
    b = Builder(np.random.default_rng(0))
    x = b.node("Relu", [b.conv("input", "conv1", 3, 8, float_weight=True)], "relu1")
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x], "gap")], "flat")
    b.gemm(b.quantize(x, "flat", 0.008), "fc", 8, 10)
    ir.save(ir.from_proto(b.model()), tmp_path / "model.onnx")
    rules, batch = load_profile("openvino_bf16"), inputs(16)
    full = exporter.open(tmp_path / "model.onnx", threads=1)(batch)
    half = exporter.open(tmp_path / "model.onnx", threads=1, profile=rules)(batch)
    plain = exporter.open(tmp_path / "model.onnx", threads=1, profile=rules, optimize=False)(batch)
    assert 0 < np.abs(half - full).max() < 0.1 * np.ptp(full)
    assert np.abs(plain - full).max() < np.abs(half - full).max()


@pytest.mark.parametrize("native", [True, False])
def test_bench_times_the_float_model_as_a_user_would_run_it(tmp_path, monkeypatch, native):
    """On a CPU said to have bfloat16, or not; OpenVINO executes in float32 what is not there."""
    flags = {"avx2", "avx512_vnni", "avx512_bf16"} if native else {"avx2"}
    monkeypatch.setattr(float_twin, "cpu_of", lambda _: Cpu(frozenset(flags)))
    rules = load_profile("openvino_bf16").model_copy(update={"parity": target().parity})
    write_artifact(tmp_path / "net", residual_net(storage=7), rules)
    made = bench(tmp_path / "net", repeats=5, threads=1)
    assert made.verdict == "passed"
    assert made.float32 is not None
    timed = {made.float_precision: made.float32} | {
        twin.precision: twin.latency for twin in made.other_floats
    }
    assert set(timed) == ({"float32", "bfloat16"} if native else {"float32"})
    assert made.float32.median == min(latency.median for latency in timed.values())
    assert {name: made.float_samples(name) for name in ("float32", "bfloat16", "float16")} == {
        name: timed[name].samples if name in timed else None
        for name in ("float32", "bfloat16", "float16")
    }


def test_storage_by_sign_leaves_no_zero_point(exporter):
    model = exporter.lower(ir.from_proto(residual_net()), load_profile("openvino_bf16"))
    found = quantizers(model)
    assert {q.dtype for q in found} == {ir.DataType.UINT8, ir.DataType.INT8}
    assert {q.zero_point for q in found} == {0}


@pytest.mark.parametrize("options", [{}, {"bits": 4}, {"relu6": 6 / 255}], ids=str)
def test_quantizers_move_to_the_layers_and_change_no_logit(tmp_path, exporter, options):
    before = ir.from_proto(residual_net(**options))
    after = before.clone()
    hoist_quantizers(after)
    ir.save(before, tmp_path / "before.onnx")
    ir.save(after, tmp_path / "after.onnx")
    assert len(quantizers(after)) == len(quantizers(before))
    movers = [node for node in after.graph if node.op_type in ("MaxPool", "Flatten")]
    assert [node.op_type for node in movers] == ["MaxPool", "Flatten"]
    sources = [node.inputs[0] for node in movers]
    assert all(value is not None and quantizer_of(value) is not None for value in sources)
    names = {node.name for node in before.graph}
    assert {node.name for node in after.graph} == names, "quantizers keep their tensors' names"
    runtime, x = find_exporter("onnxruntime"), inputs(32)
    expected = runtime.open(tmp_path / "before.onnx", optimize=False)(x)
    found = runtime.open(tmp_path / "after.onnx", optimize=False)(x)
    np.testing.assert_array_equal(found, expected)


def test_a_tensor_with_another_reader_keeps_its_float_value():
    b = Builder(np.random.default_rng(0))
    x = b.node("Relu", [b.conv("input", "conv1", 3, 8, float_weight=True)], "relu1")
    pooled = b.node("MaxPool", [x], "pool", kernel_shape=[1, 1])
    y = b.conv(b.quantize(pooled, "pool", 0.01), "conv2", 8, 8)
    x = b.node("Add", [x, y], "sum")
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x], "gap")], "flat")
    b.gemm(b.quantize(x, "flat", 0.008), "fc", 8, 10)
    model = ir.from_proto(b.model())
    hoist_quantizers(model)
    order = [node.name for node in model.graph if node.op_type != "DequantizeLinear"]
    assert order.index("pool") < order.index("pool.carrier.q")
