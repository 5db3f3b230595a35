"""`inspect`: any file, by every backend, without changing it and without torch."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

import onnx
import onnx_ir as ir
import pytest
from artifacts import profile, write_artifact
from graphs import residual_net
from strangers import float_net, quantize_static, save

from eqnet.backend import discovery
from eqnet.spec.errors import ArtifactError, UsageError
from eqnet.spec.outside.inspection import BackendFinding, InspectReport
from eqnet.stages.inspect import inspect, int8_coverage

ORT = ["onnxruntime"]
# Imports and runs the stage where every import of torch fails.
WITHOUT_TORCH = """
import sys

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("torch", "torchvision"):
            raise ImportError(f"{name} is blocked")

sys.meta_path.insert(0, Refuse())
import eqnet
from pathlib import Path
report = eqnet.inspect(Path(sys.argv[1]), backends=["onnxruntime", "tensorrt"])
print([finding.verdict for finding in report.backends])
"""


def finding(report: InspectReport, backend: str) -> BackendFinding:
    return {one.backend: one for one in report.backends}[backend]


def test_what_quantize_static_wrote(tmp_path: Path):
    path = quantize_static(tmp_path)
    report = inspect(path)
    model = report.model
    assert model.forms == {"qdq": 3}
    assert (model.quantized.layers, model.quantized.macs, model.quantized.weight_bytes) == (3, 1, 1)
    assert model.macs == 64 * 8 * 3 * 9 + 64 * 8 * 9 + 80
    assert model.weight_bytes == 8 * 27 + 8 * 9 + 80
    assert model.bytes == path.stat().st_size
    assert model.inputs[0].shape == ("N", 3, 8, 8)
    assert model.opsets == {"ai.onnx": 21}
    names = [one.backend for one in report.backends]
    assert names == ["onnxruntime", "openvino", "tensorrt"]
    runtime = finding(report, "onnxruntime")
    assert runtime.verdict == "loaded"
    covered = int8_coverage(runtime, model.layers)
    assert (covered.layers, covered.macs, covered.weight_bytes) == (3, 1, 1)
    assert finding(report, "tensorrt").verdict == "refused"
    assert int8_coverage(finding(report, "tensorrt"), model.layers) is None


def test_an_artifact_of_eqnet_by_its_folder(tmp_path: Path):
    folder = tmp_path / "artifact"
    write_artifact(folder, residual_net(asymmetric=True), profile())
    report = inspect(folder, backends=ORT)
    assert report.profile == "by_hand"
    assert report.model.path == str(folder / "model.onnx")
    assert [one.precision for one in report.backends[0].layers] == ["int8"] * 4


def test_the_coverage_is_by_work_and_by_weights(tmp_path: Path):
    proto = residual_net(asymmetric=True)
    fc = next(node for node in proto.graph.node if node.name == "fc")
    fc.input[0] = "flat.output"
    report = inspect(save(proto, tmp_path / "net.onnx"), backends=ORT)
    assert report.model.forms == {"qdq": 3, "weights only": 1}
    quantized = report.model.quantized
    work = {layer.name: layer.macs or 0 for layer in report.model.layers}
    assert (quantized.layers, quantized.of_layers) == (3, 4)
    assert quantized.macs == pytest.approx(1 - work["fc"] / sum(work.values()))
    assert quantized.weight_bytes == pytest.approx(1 - 80 / report.model.weight_bytes)


def test_layers_without_names_are_told_apart(tmp_path: Path):
    """The backends see a copy with names; the file itself stays as it is."""
    path = quantize_static(tmp_path)
    proto = onnx.load(path)
    for node in proto.graph.node:
        node.name = ""
    before = save(proto, path).read_bytes()
    report = inspect(path, backends=ORT)
    names = [layer.name for layer in report.model.layers]
    assert len(set(names)) == 3
    assert [one.name for one in report.backends[0].layers] == names
    assert [one.precision for one in report.backends[0].layers] == ["int8"] * 3
    assert path.read_bytes() == before


def test_names_that_nodes_share_are_told_and_refused_where_they_are(tmp_path: Path):
    proto = float_net()
    for node in proto.graph.node:
        node.name = "same"
    report = inspect(save(proto, tmp_path / "net.onnx"), backends=ORT)
    assert "several nodes, such as 'same'" in report.model.notes[0]
    assert report.backends[0].verdict == "refused"
    assert "same" in report.backends[0].reason


@pytest.mark.parametrize("named", [True, False])
def test_weights_in_files_beside_it(named: bool, tmp_path: Path):
    proto = onnx.load(quantize_static(tmp_path))
    if not named:
        for node in proto.graph.node:
            node.ClearField("name")
    folder = tmp_path / "outside"
    folder.mkdir()
    path = folder / "net.onnx"
    ir.save(ir.from_proto(proto), path, external_data="net.bin", size_threshold_bytes=8)
    report = inspect(path)
    assert report.model.external_files == ("net.bin",)
    assert report.model.bytes == path.stat().st_size + (folder / "net.bin").stat().st_size
    assert [one.precision for one in finding(report, "onnxruntime").layers] == ["int8"] * 3
    assert sorted(file.name for file in folder.iterdir()) == ["net.bin", "net.onnx"]


def test_free_dimensions(tmp_path: Path):
    proto = float_net()
    for axis in range(4):
        proto.graph.input[0].type.tensor_type.shape.dim[axis].dim_param = f"d{axis}"
    report = inspect(save(proto, tmp_path / "net.onnx"), backends=ORT)
    assert report.model.inputs[0].shape == ("d0", "d1", "d2", "d3")
    assert (report.model.macs, report.model.quantized.macs) == (None, None)
    assert report.backends[0].verdict == "loaded"


def test_names_of_a_hostile_file_are_harmless(tmp_path: Path):
    proto = float_net()
    proto.producer_name = "\x1b]0;title\x07"
    proto.graph.node[0].name = "conv\x1b[31m\n" + "x" * 10_000
    proto.graph.node[1].op_type = "Re\x1b[2Jlu"
    report = inspect(save(proto, tmp_path / "net.onnx"))
    text = report.model_dump_json()
    assert "\\u001b" not in text
    assert report.model.layers[0].name.startswith("conv\\x1b[31m\\nxxx")
    assert len(report.model.layers[0].name) < 200


def test_a_backend_that_is_not_installed_is_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setenv("PYTHONPATH", "")
    blocked = tmp_path / "blocked"
    blocked.mkdir()
    (blocked / "openvino.py").write_text("raise ImportError('openvino is blocked')\n")
    monkeypatch.syspath_prepend(blocked)
    report = inspect(save(float_net(), tmp_path / "net.onnx"), backends=["openvino"])
    assert report.backends[0].verdict == "skipped"
    assert "not installed" in report.backends[0].reason


def test_an_exporter_of_ones_own_is_asked_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    class Mine(discovery.find_exporter("onnxruntime").__class__):  # type: ignore[misc]
        name = "mine"

        def inspect(self, model, layers):
            return BackendFinding(backend="mine", verdict="refused", reason="never \x1b liked it")

    monkeypatch.setitem(discovery._registered, "mine", Mine)
    report = inspect(save(float_net(), tmp_path / "net.onnx"), backends=["mine"])
    assert report.backends[0].reason == "never \\x1b liked it"
    assert "mine" in [one.backend for one in inspect(tmp_path / "net.onnx").backends]


def test_a_folder_that_is_no_artifact_and_an_unknown_backend(tmp_path: Path):
    with pytest.raises(ArtifactError, match=r"manifest\.json"):
        inspect(tmp_path)
    with pytest.raises(UsageError, match="unknown backend 'onxruntime'"):
        inspect(save(float_net(), tmp_path / "net.onnx"), backends=["onxruntime"])


def test_a_damaged_tensor_is_told_in_one_line(tmp_path: Path):
    path = quantize_static(tmp_path)
    proto = onnx.load(path)
    for tensor in proto.graph.initializer:
        if tensor.name.endswith("scale"):
            tensor.dims[:] = [1 << 40]
    save(proto, path)
    report = inspect(path, backends=ORT)
    assert report.backends[0].verdict == "refused"


def test_modules_beside_the_file_are_not_imported(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    save(float_net(), tmp_path / "net.onnx")
    for name in ("numpy", "onnx", "onnxruntime"):
        (tmp_path / f"{name}.py").write_text(f"open('{name}.marker', 'w').close()\n")
    code = """
from pathlib import Path
from eqnet.stages.inspect import inspect
print(inspect(Path("net.onnx"), backends=["onnxruntime"]).backends[0].verdict)
"""
    monkeypatch.setenv("PYTHONPATH", ":".join(part for part in sys.path if part))
    command = [sys.executable, "-P", "-c", code]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path)
    assert done.stdout.strip() == "loaded", done.stderr
    assert list(tmp_path.glob("*.marker")) == []


def test_it_needs_no_torch_and_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    path = save(float_net(), tmp_path / "net.onnx")
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    command = [sys.executable, "-c", WITHOUT_TORCH, str(path)]
    monkeypatch.setenv("TMPDIR", str(scratch))
    monkeypatch.setenv("PYTHONPATH", ":".join(part for part in sys.path if part))
    monkeypatch.setattr(tempfile, "tempdir", None)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == "['loaded', 'checked']"
    assert list(scratch.glob("*eqnet*")) == []
