"""OpenVINO: the same integers as the graph says, int8 kernels proved, refusals."""

from __future__ import annotations

import numpy as np
import onnx_ir as ir
import pytest
from artifacts import profile as by_hand
from artifacts import rewrite, write_artifact
from eqnet_exporters.onnxruntime import OnnxRuntimeExporter
from eqnet_exporters.openvino import OpenVinoExporter
from graphs import Builder, inputs, residual_net

from eqnet.backend.files import sha256_file
from eqnet.backend.graph.reading import layers_of, quantizers, strip_qdq
from eqnet.runtime import load
from eqnet.spec.errors import ArtifactError, OutputError
from eqnet.spec.hardware.load import load_profile
from eqnet.stages.bench import bench

pytest.importorskip("openvino")
LAYERS = ["conv1", "block.conv1", "block.conv2", "fc"]
FORMS = [
    {},
    {"asymmetric": True},
    {"bits": 4, "weight_bits": 4},
    {"asymmetric": True, "bits": 3, "weight_bits": 2},
    {"relu6": 6 / 255},
]


@pytest.fixture
def exporter() -> OpenVinoExporter:
    return OpenVinoExporter()


@pytest.fixture
def profile():
    return load_profile("openvino_asym")


def artifact(folder, exporter, profile, **options):
    """A folder with reference.onnx, model.onnx and what `finish` wrote; returns the layers."""
    reference = ir.from_proto(residual_net(**options))
    ir.save(reference, folder / "reference.onnx")
    ir.save(exporter.lower(reference, profile), folder / "model.onnx")
    exporter.finish(folder, profile)
    return layers_of(reference)


def skip_sum(seed: int = 0) -> ir.Model:
    """A residual block whose sum has one quantized operand, as the profile places them.

    Its weights use 7 bits, so that its integers are the same on every CPU.
    """
    b = Builder(np.random.default_rng(seed), storage=7)
    x = b.quantize("input", "input", 0.02, zp=117)
    x = b.node("Relu", [b.conv(x, "conv1", 3, 8)], "relu1.output")
    x = b.quantize(x, "relu1", 0.012)
    y = b.node("Relu", [b.conv(x, "block.conv1", 8, 8)], "block.relu1.output")
    y = b.conv(b.quantize(y, "block.relu1", 0.01), "block.conv2", 8, 8)
    x = b.node("Relu", [b.node("Add", [x, y], "sum")], "block.relu2.output")
    x = b.quantize(x, "block.relu2", 0.015)
    x = b.node("Flatten", [b.node("GlobalAveragePool", [x], "gap")], "flat.output")
    b.gemm(b.quantize(x, "flat", 0.008), "fc", 8, 10)
    return ir.from_proto(b.model())


def off_grid(found: np.ndarray, expected: np.ndarray) -> float:
    """Share of images with any logit off by more than 1/1000 of an 8-bit step of the range."""
    step = np.ptp(expected) / 255
    return float((np.abs(found - expected).max(axis=1) > step / 1000).mean())


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_semantics_run_computes_the_integers_of_the_graph(tmp_path, exporter, profile, options):
    artifact(tmp_path, exporter, profile, **options)
    x = inputs(64)
    expected = OnnxRuntimeExporter().open(tmp_path / "reference.onnx", optimize=False)(x)
    found = exporter.open(tmp_path / "model.onnx", optimize=False, threads=1)(x)
    # A tie may fall to the other side, because the two add float32 products in another order.
    assert off_grid(found, expected) <= 2 / 64
    assert np.ptp(expected) > 0


def test_optimized_run_computes_the_same_integers(tmp_path, exporter, profile):
    ir.save(exporter.lower(skip_sum(), profile), tmp_path / "model.onnx")
    x = inputs(256)
    expected = OnnxRuntimeExporter().open(tmp_path / "model.onnx", optimize=False)(x)
    assert off_grid(exporter.open(tmp_path / "model.onnx")(x), expected) <= 4 / 256


def test_lower_stores_every_activation_as_the_profile_says(exporter, profile):
    model = exporter.lower(ir.from_proto(residual_net()), profile)
    assert {q.dtype for q in quantizers(model)} == {ir.DataType.UINT8}


@pytest.mark.parametrize("options", FORMS, ids=str)
def test_every_layer_is_proved_to_run_in_int8(tmp_path, exporter, profile, options):
    layers = artifact(tmp_path, exporter, profile, **options)
    assert (tmp_path / "model.xml").is_file()
    assert (tmp_path / "model.bin").is_file()
    assert exporter.int8_layers(tmp_path, layers) == LAYERS


def test_a_weight_zero_point_drops_the_layer_to_float_and_the_proof_says_so(
    tmp_path, exporter, profile
):
    layers = artifact(tmp_path, exporter, profile, weight_zp=3)
    assert exporter.int8_layers(tmp_path, layers) == ["conv1", "fc"]


def test_the_float_twin_has_no_int8_layer(tmp_path, exporter):
    twin = strip_qdq(ir.from_proto(residual_net()))
    ir.save(twin, tmp_path / "model.onnx")
    assert exporter.int8_layers(tmp_path, layers_of(twin)) == []


def test_finish_writes_only_the_ir(tmp_path, exporter, profile):
    ir.save(ir.from_proto(residual_net()), tmp_path / "model.onnx")
    assert exporter.finish(tmp_path, profile) == ["model.xml", "model.bin"]
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "model.bin",
        "model.onnx",
        "model.xml",
    ]


def test_the_ir_gives_the_same_logits_as_the_onnx(tmp_path, exporter, profile):
    artifact(tmp_path, exporter, profile)
    x = inputs(8)
    from_ir = exporter.open(tmp_path / "model.xml")(x)
    np.testing.assert_array_equal(from_ir, exporter.open(tmp_path / "model.onnx")(x))


@pytest.mark.parametrize("optimize", [True, False])
def test_the_shipped_ir_is_what_runs(tmp_path, exporter, profile, optimize):
    artifact(tmp_path, exporter, profile)
    x = inputs(8)
    shipped = exporter.open(tmp_path / "model.xml", optimize=optimize)(x)
    ir.save(exporter.lower(ir.from_proto(residual_net(seed=9)), profile), tmp_path / "model.onnx")
    found = exporter.open(tmp_path / "model.onnx", optimize=optimize)(x)
    np.testing.assert_array_equal(found, shipped)
    (tmp_path / "model.xml").unlink()
    alone = exporter.open(tmp_path / "model.onnx", optimize=optimize)(x)
    assert off_grid(alone, shipped) > 0.9, "the other net must differ, or the test shows nothing"


@pytest.mark.parametrize("use", [load, bench])
def test_a_changed_ir_is_refused_before_it_runs(tmp_path, exporter, use):
    folder, target = tmp_path / "net", by_hand("openvino", placement={"add": "skip"})
    manifest = write_artifact(folder, residual_net(asymmetric=True), target)
    made = {name: sha256_file(folder / name) for name in exporter.finish(folder, target)}
    rewrite(folder, files={**manifest.files, **made})
    assert load(folder)(inputs(2)).shape == (2, 10)
    with (folder / "model.bin").open("r+b") as stream:
        stream.write(b"\x55" * 64)
    with pytest.raises(ArtifactError, match=r"model\.bin: changed or corrupt"):
        use(folder)


def test_a_result_stays_valid_after_the_next_call(tmp_path, exporter):
    ir.save(ir.from_proto(residual_net()), tmp_path / "model.onnx")
    run = exporter.open(tmp_path / "model.onnx")
    first = run(inputs(4, seed=1))
    kept = first.copy()
    run(inputs(4, seed=2))
    np.testing.assert_array_equal(first, kept)
    assert run(inputs(7)).shape == (7, 10)


@pytest.mark.parametrize("content", [None, b"", b"not a model"])
def test_a_bad_file_is_one_line(tmp_path, exporter, content):
    path = tmp_path / "model.onnx"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ArtifactError, match=r"model\.onnx") as error:
        exporter.open(path)
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_written_is_one_line(tmp_path, exporter, profile, monkeypatch):
    import openvino

    def full(*_, **__):
        raise RuntimeError("Check 'ok' failed at file.cpp:1:\nno space left\n")

    ir.save(ir.from_proto(residual_net()), tmp_path / "model.onnx")
    monkeypatch.setattr(openvino, "save_model", full)
    with pytest.raises(OutputError, match="cannot write the IR: no space left") as error:
        exporter.finish(tmp_path, profile)
    assert "\n" not in str(error.value)
    assert [path.name for path in tmp_path.iterdir()] == ["model.onnx"]


def test_refusals(exporter, profile):
    assert exporter.refusals(profile) == []
    lines = exporter.refusals(load_profile("custom_lowbit_w4a8"))
    assert any(line.startswith("weights.symmetry: asymmetric") for line in lines)
    assert any(line.startswith("placement.add: both") for line in lines)


def test_available_and_named(exporter):
    assert exporter.unavailable() is None
    assert exporter.runtime_version().startswith("openvino 20")
