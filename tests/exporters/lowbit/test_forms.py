"""The low-bit exporter's other files: QONNX, narrow ONNX types, and what verify says of them."""

from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
import pytest
from artifacts import pixels, profile, replace_file, rewrite, write_artifact
from eqnet_exporters.lowbit import checks
from eqnet_exporters.lowbit.files import PACKED_ONNX, QONNX
from eqnet_exporters.lowbit.layers import layers, needed_bits, packed_tensors
from eqnet_exporters.lowbit.packed_onnx import to_packed_onnx
from eqnet_exporters.lowbit.qonnx import DOMAIN, quant_range, to_qonnx
from graphs import Builder, inputs, residual_net
from onnx.reference import ReferenceEvaluator
from safetensors.numpy import load_file, save_file

from eqnet.backend.artifact import read_manifest, read_parity
from eqnet.backend.discovery import find_exporter
from eqnet.backend.files import sha256_file
from eqnet.backend.graph.reading import layers_of
from eqnet.backend.lowbit.bits import int_range
from eqnet.backend.lowbit.integer import INTEGER, PACKED
from eqnet.backend.lowbit.packed import write_packed
from eqnet.backend.protocol import BuildReports, ExtraChecks
from eqnet.spec.errors import ArtifactError
from eqnet.spec.manifest import PARITY, REFERENCE
from eqnet.stages.verify import verify

FORMS: dict[str, dict[str, Any]] = {
    "w8a8": {},
    "asymmetric": {"asymmetric": True},
    "asymmetric_weights": {"weight_zp": 5},
    "relu6": {"relu6": 0.04},
    "w4a4": {"weight_bits": 4, "bits": 4},
    "w2a2_asymmetric": {"weight_bits": 2, "bits": 2, "asymmetric": True, "weight_zp": 1},
    "w3a5": {"weight_bits": 3, "bits": 5},
    "w7a6": {"weight_bits": 7, "bits": 6, "asymmetric": True, "weight_zp": -3},
}
LAYERS = ["conv1", "block.conv1", "block.conv2", "fc"]
LOWBIT = {"bits": [[2, 2], [4, 4], [8, 8]]}


def quant_nodes(model: onnx.ModelProto) -> dict[str, tuple[int, int, int]]:
    """Node name -> (bit-width, signed, narrow) of every Quant node."""
    numbers = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    found = {}
    for node in model.graph.node:
        if node.op_type == "Quant":
            assert node.domain == DOMAIN
            flags = {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
            assert flags["rounding_mode"] == b"ROUND"
            found[node.name] = (int(numbers[node.input[3]]), flags["signed"], flags["narrow"])
    return found


@pytest.mark.parametrize("form", FORMS)
def test_qonnx_executes_and_has_the_integers_of_the_neutral_graph(tmp_path, form):
    pytest.importorskip("qonnx")
    model = residual_net(**FORMS[form])
    ir.save(to_qonnx(ir.from_proto(model)), tmp_path / QONNX)
    x = inputs(32)
    truth = ReferenceEvaluator(model).run(None, {"input": x})[0]
    found = checks.qonnx_runner(tmp_path / QONNX)(x)
    assert found.dtype == np.float32
    ties = np.abs(found - truth) > 1e-4
    assert ties.any(axis=1).mean() <= 0.1
    assert np.abs(found - truth).max() <= 2 * np.ptp(truth) / 255


def test_qonnx_says_the_true_bits():
    model = ir.to_proto(to_qonnx(ir.from_proto(residual_net(weight_bits=3, bits=5))))
    found = quant_nodes(model)
    assert found["block.conv1.weight.quant"] == (3, 1, 0)
    assert found["conv1.weight.quant"] == (8, 1, 1)
    assert found["input.carrier.quant"] == (8, 1, 0)
    assert found["relu1.narrow.quant"] == (5, 0, 0)
    assert {node.op_type for node in model.graph.node} == {
        "Quant",
        "Conv",
        "Relu",
        "MaxPool",
        "Add",
        "GlobalAveragePool",
        "Flatten",
        "Gemm",
    }
    assert {entry.domain: entry.version for entry in model.opset_import}[DOMAIN] == 1


@pytest.mark.parametrize(
    ("span", "expected"),
    [
        ((0, 3), (2, False, False)),
        ((-8, 7), (4, True, False)),
        ((-127, 127), (8, True, True)),
        ((0, 254), (8, False, True)),
        ((0, 97), None),
    ],
)
def test_ranges_of_quant_nodes(span, expected):
    assert quant_range(*span) == expected


def test_a_range_that_no_quant_node_has_is_clipped_before_it(tmp_path):
    pytest.importorskip("qonnx")
    b = Builder(np.random.default_rng(2))
    x = b.quantize("input", "input", 0.02, zp=120, bits=7)
    x = b.node("Relu", [b.conv(x, "conv1", 3, 8)], "r")
    x = b.quantize(b.node("GlobalAveragePool", [x], "gap"), "gap", 0.01)
    b.gemm(b.quantize(b.node("Flatten", [x], "flat"), "flat", 0.01), "fc", 8, 10)
    model = b.model()
    (high,) = (t for t in model.graph.initializer if t.name == "input.carrier.hi")
    high.CopyFrom(onnx.numpy_helper.from_array(np.array(125, np.uint8), high.name))
    made = ir.to_proto(to_qonnx(ir.from_proto(model)))
    assert "Clip" in {node.op_type for node in made.graph.node}
    onnx.save(made, tmp_path / QONNX)
    batch = inputs(16)
    truth = ReferenceEvaluator(model).run(None, {"input": batch})[0]
    np.testing.assert_allclose(
        checks.qonnx_runner(tmp_path / QONNX)(batch), truth, atol=2 * np.ptp(truth) / 255
    )


@pytest.mark.parametrize("form", FORMS)
def test_narrow_onnx_types_compute_what_the_neutral_graph_does(tmp_path, form):
    model = residual_net(**FORMS[form])
    made = to_packed_onnx(ir.from_proto(model))
    ir.save(made, tmp_path / PACKED_ONNX)
    onnx.checker.check_model(str(tmp_path / PACKED_ONNX), full_check=True)
    x = inputs(8)
    expected = ReferenceEvaluator(model).run(None, {"input": x})[0]
    found = ReferenceEvaluator(str(tmp_path / PACKED_ONNX)).run(None, {"input": x})[0]
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("bits", "weight", "activation"),
    [(2, "INT2", "UINT2"), (3, "INT4", "UINT8"), (4, "INT4", "UINT4"), (5, "INT8", "UINT8")],
)
def test_types_are_the_narrowest_that_onnx_has(bits, weight, activation):
    made = to_packed_onnx(ir.from_proto(residual_net(weight_bits=bits, bits=bits)))
    nodes = {node.name: node for node in made.graph}
    stored = nodes["block.conv1"].inputs[1].producer().inputs[0]
    assert str(stored.const_value.dtype) == weight
    assert str(nodes["relu1.narrow.q"].inputs[2].const_value.dtype) == activation
    assert ("relu1.narrow.clip" in nodes) == (bits in (3, 5))
    assert made.opset_imports[""] == 25


@pytest.mark.parametrize("bits", range(2, 9))
def test_bits_are_read_off_the_integers(bits):
    for layer in layers(ir.from_proto(residual_net(weight_bits=bits))):
        assert layer.weight.bits == (bits if layer.name.startswith("block") else 8)
        lo, hi = int_range(layer.weight.bits, signed=True)
        assert lo <= layer.weight.integers.min() <= layer.weight.integers.max() <= hi
    assert needed_bits(np.zeros(4, np.int8)) == 2


@pytest.mark.parametrize("form", ["w8a8", "w4a4", "w3a5"])
@pytest.mark.parametrize("runtime", ["lowbit", "openvino"])
def test_qcdq_runs_with_int8_kernels(tmp_path, form, runtime):
    if runtime == "openvino":
        pytest.importorskip("openvino")
    model, target = residual_net(**FORMS[form]), profile("lowbit", **LOWBIT)
    path = tmp_path / "model.onnx"
    ir.save(find_exporter("lowbit").lower(ir.from_proto(model), target), path)
    kinds = layers_of(ir.load(path))
    assert find_exporter(runtime).int8_layers(tmp_path, kinds) == LAYERS


def lowbit_artifact(folder, model, promised=None):
    """A hand-made artifact with the exporter's own files, all in the manifest."""
    target = profile("lowbit", **LOWBIT)
    manifest = write_artifact(folder, model, target, promised=promised)
    names = find_exporter("lowbit").finish(folder, target)
    rewrite(folder, files={**manifest.files, **{n: sha256_file(folder / n) for n in names}})
    return names


def own_checks(folder):
    report = verify(folder, threads=1)
    names = ("packed_weights", "packed_onnx", "qonnx_agreement", "integer_agreement")
    return report.verdict, {c.name: c for c in report.checks if c.name in names}


def test_verify_checks_all_files(tmp_path):
    pytest.importorskip("qonnx")
    folder = tmp_path / "sound"
    names = lowbit_artifact(folder, residual_net(weight_bits=4, bits=4))
    assert set(names) == {QONNX, PACKED_ONNX, PACKED, INTEGER}
    verdict, found = own_checks(folder)
    assert verdict == "passed"
    assert {check.verdict for check in found.values()} == {"passed"}
    assert (found["packed_weights"].value, found["packed_onnx"].value) == (8, 4)


def test_an_older_artifact_is_skipped_and_not_refused(tmp_path):
    write_artifact(tmp_path / "old", residual_net(), profile("lowbit", **LOWBIT))
    verdict, found = own_checks(tmp_path / "old")
    assert verdict == "passed"
    assert {check.verdict for check in found.values()} == {"skipped"}
    assert PACKED in found["packed_weights"].reason


def test_without_the_package_qonnx_is_skipped(tmp_path, monkeypatch):
    import sys

    lowbit_artifact(tmp_path / "sound", residual_net())
    monkeypatch.setitem(sys.modules, "qonnx", None)
    monkeypatch.setitem(sys.modules, "qonnx.core.modelwrapper", None)
    _, found = own_checks(tmp_path / "sound")
    assert found["qonnx_agreement"].verdict == "skipped"
    assert "eqnet[qonnx]" in found["qonnx_agreement"].reason


def test_other_weights_fail(tmp_path):
    pytest.importorskip("qonnx")
    folder = tmp_path / "other"
    lowbit_artifact(folder, residual_net(weight_bits=4, bits=4))
    other = ir.from_proto(residual_net(weight_bits=4, bits=4, seed=9))
    replace_file(folder, PACKED, lambda path: write_packed(path, packed_tensors(other)))
    replace_file(folder, PACKED_ONNX, lambda path: ir.save(to_packed_onnx(other), path))
    replace_file(folder, QONNX, lambda path: ir.save(to_qonnx(other), path))
    verdict, found = own_checks(folder)
    assert verdict == "failed"
    assert {name: check.verdict for name, check in found.items()} == dict.fromkeys(found, "failed")
    assert "tensors differ" in found["packed_weights"].reason


def test_a_file_that_qonnx_cannot_run_is_one_line(tmp_path):
    pytest.importorskip("qonnx")
    (tmp_path / QONNX).write_bytes(b"not a graph")
    with pytest.raises(ArtifactError, match="qonnx cannot run it") as caught:
        checks.qonnx_runner(tmp_path / QONNX)(inputs(2))
    assert "\n" not in str(caught.value)


def with_sigmoid() -> onnx.ModelProto:
    b = Builder(np.random.default_rng(0))
    x = b.quantize("input", "input", 0.02, signed=True)
    x = b.node("Sigmoid", [b.conv(x, "conv1", 3, 8)], "sig")
    x = b.node("GlobalAveragePool", [b.quantize(x, "sig", 1 / 255)], "gap")
    b.gemm(b.quantize(b.node("Flatten", [x], "flat"), "flat", 1 / 255), "fc", 8, 10)
    return b.model()


def test_a_network_without_integer_form_says_so_and_leaves_no_half(tmp_path):
    pytest.importorskip("qonnx")
    folder, exporter = tmp_path / "sigmoid", find_exporter("lowbit")
    names = lowbit_artifact(folder, with_sigmoid(), promised=("fc",))
    assert INTEGER not in names
    assert not (folder / INTEGER).exists()
    assert isinstance(exporter, BuildReports)
    assert isinstance(exporter, ExtraChecks)
    said = exporter.build_report(folder).facts["integer program"]
    assert said.startswith("not written: Sigmoid 'sig' has no integer form")
    _, found = own_checks(folder)
    assert found["integer_agreement"].verdict == "skipped"
    assert "Sigmoid 'sig'" in found["integer_agreement"].reason
    assert found["qonnx_agreement"].verdict == "passed"


def test_the_build_report_tells_the_packed_size(tmp_path):
    lowbit_artifact(tmp_path / "a", residual_net(weight_bits=3, bits=5))
    exporter = find_exporter("lowbit")
    assert isinstance(exporter, BuildReports)
    report = exporter.build_report(tmp_path / "a")
    size = (tmp_path / "a" / PACKED).stat().st_size
    assert f"{PACKED}, {size} bytes" in report.facts["packed weights"]


def test_finish_without_a_reference_is_one_line(tmp_path):
    for content in (None, b"x"):
        if content is not None:
            (tmp_path / REFERENCE).write_bytes(content)
        with pytest.raises(ArtifactError, match=REFERENCE) as caught:
            find_exporter("lowbit").finish(tmp_path, profile("lowbit"))
        assert "\n" not in str(caught.value)


def test_few_images_say_nothing(tmp_path):
    folder = tmp_path / "few"
    lowbit_artifact(folder, residual_net())
    kept = {name: array[:8] for name, array in load_file(folder / PARITY).items()}
    replace_file(folder, PARITY, lambda path: save_file(kept, path))
    manifest = read_manifest(folder)
    rewrite(folder, parity={**manifest.parity.model_dump(), "images": 8})
    parity = read_parity(folder, read_manifest(folder))
    exporter = find_exporter("lowbit")
    assert isinstance(exporter, ExtraChecks)
    found = {c.name: c for c in exporter.extra_checks(folder, parity)}
    assert len(pixels()) > 8
    assert found["integer_agreement"].reason.startswith("8 images")
