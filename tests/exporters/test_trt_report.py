"""What became of each layer: reasons, the table, the second process, and the offline check."""

from __future__ import annotations

import json
import os

import onnx_ir as ir
import pytest
from artifacts import replace_file
from eqnet_exporters.tensorrt import TensorRtExporter
from eqnet_exporters.trt import build as trt_build
from eqnet_exporters.trt import worker as trt_worker
from eqnet_exporters.trt.build import Engine, EngineBatches
from eqnet_exporters.trt.report import BuiltLayer, build_report, layer_rows, why_not
from trt_graphs import broken, neutral

from eqnet.backend.artifact import read_manifest, read_parity
from eqnet.spec.errors import ArtifactError, EqnetError, ProfileError
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.hardware.profile import HardwareProfile

CONV = BuiltLayer("conv", "Conv", 1, 100, 1, True)


@pytest.mark.parametrize(
    ("layer", "target", "found", "said"),
    [
        (CONV, "SM89", "Int8", ""),
        (CONV._replace(width=2), "SM89", "Half", "in the remainder"),
        (CONV._replace(reads_int8=False), "SM89", "Half", "its input is not quantized"),
        (CONV, "SM75", "Half", "SM75 has no int8 convolution kernels"),
        (CONV._replace(op="Gemm"), "SM75", "Half", "the builder chose a kernel of Half"),
        (CONV._replace(groups=4), "SM80", "Float", "convolution of 4 groups"),
        (CONV, "SM80", None, "names no kernel"),
        (CONV._replace(op="ConvTranspose"), "SM80", "Half", "a transposed convolution"),
    ],
)
def test_every_layer_that_is_not_int8_has_its_reason(layer, target, found, said):
    reason = why_not(layer, target, found)
    assert said in reason
    assert bool(said) == bool(reason)


def line(name: str, kind: str) -> str:
    return (
        f"Name: {name}_0, LayerType: correlation, Inputs: [ {{ Name: x, Datatype: {kind} }}], "
        f"Constants: [], Outputs: [], Metadata: [ONNX Layer: {name}]"
    )


def test_the_table_has_a_row_for_each_engine_and_reason():
    model = TensorRtExporter().lower(
        ir.from_proto(neutral(float_layer=True)), load_profile("tensorrt_int8")
    )
    kinds = {"conv1": "Int8", "block.conv1": "Int8", "block.conv2": "Half", "fc": "Int8"}
    log = "\n".join(line(name, kind) for name, kind in kinds.items())
    rows = layer_rows(model, [Engine("SM89", b"", log)])
    assert {row["name"]: row["computes"]["SM89"] for row in rows} == kinds
    assert [row["name"] for row in rows if row["why_not_int8"]] == ["block.conv2"]
    assert [row["bytes_expected"] for row in rows] == [432, 2304, 4 * 2304, 160]
    sums = {
        "builder": "b 1",
        "trtexec": "trtexec x",
        "layers": rows,
        "engines": [{"target": "SM89", "weights_bytes": 2048}],
    }
    report = build_report(sums)
    assert report.facts["trtexec"] == "trtexec x"
    assert report.rows == (
        ("SM89", "3 of 4", "int8", "", "2"),
        ("", "1 of 4 (block.conv2)", "half", "in the remainder: the subnet leaves it in float", ""),
    )


def test_a_missing_record_of_the_build_is_one_line(tmp_path):
    with pytest.raises(ArtifactError, match=r"build\.json: not a record of engines"):
        TensorRtExporter().build_report(tmp_path)


def rules(**engines: object) -> HardwareProfile:
    content = load_profile("tensorrt_int8").model_dump(mode="json")
    return HardwareProfile.model_validate({**content, "engines": engines})


def test_targets_and_batches_are_the_profiles(tmp_path):
    trt = pytest.importorskip("tensorrt_rtx")
    chosen = rules(targets=["SM89", "SM80"], min_batch=1, max_batch=8)
    exporter = TensorRtExporter()
    ir.save(exporter.lower(ir.from_proto(neutral()), chosen), tmp_path / "model.onnx")
    written = exporter.finish(tmp_path, chosen)
    assert [name for name in written if name.endswith(".engine")] == [
        "model.sm89.engine",
        "model.sm80.engine",
    ]
    sums = json.loads((tmp_path / "build.json").read_text())
    assert "--maxShapes=input:8x3x8x8" in sums["trtexec"]
    with pytest.raises(ProfileError, match=r"cannot build for SM90 \(allowed: SM120, "):
        trt_build.targets(trt, ["SM90"])


def test_a_float32_remainder_leaves_sm75_out_and_says_so(tmp_path, monkeypatch):
    pytest.importorskip("tensorrt_rtx")
    monkeypatch.setattr(trt_build, "TARGETS", ("SM75", "SM89"))
    chosen = rules().model_copy(update={"remainder": "float32"})
    exporter = TensorRtExporter()
    assert exporter.refusals(chosen) == []
    ir.save(exporter.lower(ir.from_proto(neutral()), chosen), tmp_path / "model.onnx")
    written = exporter.finish(tmp_path, chosen)
    assert [name for name in written if name.endswith(".engine")] == ["model.sm89.engine"]
    assert list(json.loads((tmp_path / "build.json").read_text())["left_out"]) == ["SM75"]
    said = "no engine for SM75: TensorRT compiles no float32"
    assert said in (tmp_path / "build.log").read_text()
    facts = exporter.build_report(tmp_path).facts
    assert said in "\n".join(f"{key}: {value}" for key, value in facts.items())


def test_sm75_builds_no_net_with_a_float32_remainder(tmp_path):
    """The day that this fails, `WITHOUT_FLOAT32` can go.

    In a process of its own: after a build that failed, the next engine is larger than it should.
    """
    pytest.importorskip("tensorrt_rtx")
    model = TensorRtExporter().lower(ir.from_proto(neutral()), load_profile("tensorrt_int8"))
    path, target = tmp_path / "model.onnx", ("SM75",)
    ir.save(model, path)
    with pytest.raises(EqnetError, match=r"cannot build for SM75: .*FP32 GEMM"):
        trt_worker._collect(
            trt_worker._start(path, tmp_path, EngineBatches(), target), tmp_path, target
        )


def test_what_no_engine_can_run_is_refused_before_any_work():
    asked = rules(targets=["SM89", "SM75"])
    assert TensorRtExporter().refusals(asked) == []
    (line,) = TensorRtExporter().refusals(asked.model_copy(update={"remainder": "float32"}))
    assert line.startswith("engines.targets: SM75 with remainder float32: ")
    assert line.endswith("(allowed: SM80 and later, or remainder: float16)")
    placement = asked.placement.model_copy(update={"quantize": ("conv", "conv_transpose")})
    (line,) = TensorRtExporter().refusals(asked.model_copy(update={"placement": placement}))
    assert line.startswith("placement.quantize: conv_transpose, for which TensorRT has no int8")


@pytest.mark.parametrize("engines", [{"targets": ["89"]}, {"min_batch": 2}, {"max_batch": 0}])
def test_targets_and_batches_that_cannot_be_are_refused(engines):
    with pytest.raises(ValueError, match="engines"):
        rules(**engines)


def test_a_second_process_builds_the_same_engines(tmp_path, monkeypatch):
    trt = pytest.importorskip("tensorrt_rtx")
    model = TensorRtExporter().lower(ir.from_proto(neutral()), load_profile("tensorrt_int8"))
    path = tmp_path / "model.onnx"
    ir.save(model, path)
    alone = trt_worker.build_all(trt, path, ("SM80", "SM89"), EngineBatches())
    started = []
    start = trt_worker._start
    monkeypatch.setattr(trt_worker, "WORTHWHILE_BYTES", 0)
    monkeypatch.setattr(os, "cpu_count", lambda: 2)

    def watched(*arguments):
        started.append(arguments[3])
        return start(*arguments)

    monkeypatch.setattr(trt_worker, "_start", watched)
    helped = trt_worker.build_all(trt, path, ("SM80", "SM89"), EngineBatches())
    assert started == [("SM89",)]
    assert [engine.target for engine in helped] == ["SM80", "SM89"]
    assert [len(e.plan) for e in helped] == [len(e.plan) for e in alone]
    path.write_bytes(b"no model")
    with pytest.raises(EqnetError, match=r"building for SM89 failed: .*cannot parse"):
        trt_worker._collect(start(path, tmp_path, EngineBatches(), ("SM89",)), tmp_path, ("SM89",))


def test_verify_checks_the_rules_without_tensorrt(artifact, monkeypatch):
    monkeypatch.setattr(trt_build, "find_tensorrt_or_none", lambda: None)
    replace_file(artifact, "model.onnx", lambda path: ir.save(broken("storage"), path))
    parity = read_parity(artifact, read_manifest(artifact))
    (found,) = TensorRtExporter().extra_checks(artifact, parity)
    assert found.verdict == "failed"
    assert "allowed: int8" in found.reason
