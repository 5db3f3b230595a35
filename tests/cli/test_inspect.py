"""`eqnet inspect`: what is printed, exit codes, and nothing from a file that moves the cursor."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_tools import one_line
from strangers import float_net, quantize_static, save

from eqnet.cli.main import main
from eqnet.cli.tables.wording import form_text, named, scaled, size
from eqnet.spec.outside.inspection import TensorForm

BACKENDS = ["--backend", "onnxruntime", "--backend", "tensorrt"]


def test_tables_for_people(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = quantize_static(tmp_path)
    assert main(["inspect", str(path), *BACKENDS]) == 0
    printed = capsys.readouterr()
    assert printed.err == ""
    text = " ".join(printed.out.split())
    for part in (
        "3 qdq; 368 bytes of weights; 18.5 k MACs for one image",
        "3 of 3 layers, 100.0 % of MACs, 100.0 % of the weights' bytes",
        "onnxruntime",
        "loaded 3 of 3 100.0 % 100.0 %",
        "tensorrt refused - - -",
        "conv1 Conv int8 sym by channel 0",
        "tensorrt: not in int8: 3: conv1, depth, ... why quantizers in uint8",
        "remedy profile tensorrt_int8; quantize_static: QInt8 for both types",
    ):
        assert part in text, printed.out


def test_a_row_for_each_layer(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = save(float_net(), tmp_path / "net.onnx")
    assert main(["inspect", str(path), "--layers", "--backend", "tensorrt"]) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert ["conv1", "Conv", "float32", "float", "float", "float32", "float"] in rows
    assert ["depth", "Conv", "depthwise", "float32", "float", "float", "float32", "float"] in rows


def test_one_document_for_machines(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = save(float_net(), tmp_path / "net.onnx")
    assert main(["inspect", str(path), "--json", *BACKENDS]) == 0
    document = json.loads(capsys.readouterr().out)
    assert document["schema_version"] == 1
    assert [one["name"] for one in document["model"]["layers"]] == ["conv1", "depth", "fc"]
    assert [one["backend"] for one in document["backends"]] == ["onnxruntime", "tensorrt"]


@pytest.mark.parametrize(
    ("content", "code"), [(b"no model\n", 6), (b"", 6), (None, 6)], ids=["text", "empty", "absent"]
)
def test_bad_files(
    content: bytes | None, code: int, tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    path = tmp_path / "x.onnx"
    if content is not None:
        path.write_bytes(content)
    assert main(["inspect", str(path)]) == code
    said = one_line(capsys)
    assert str(path) in said
    assert "allowed: an ONNX file" in said


def test_an_unknown_backend(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    path = save(float_net(), tmp_path / "net.onnx")
    assert main(["inspect", str(path), "--backend", "openvno"]) == 2
    assert "did you mean 'openvino'?" in one_line(capsys)


def test_nothing_from_the_file_reaches_the_terminal_raw(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    proto = float_net()
    proto.graph.node[0].name = "\x1b[2J[red]conv[/red]"
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "\x1b]0;x\x07"
    path = save(proto, tmp_path / "net.onnx")
    assert main(["inspect", str(path), *BACKENDS, "--layers"]) == 0
    printed = capsys.readouterr().out
    assert "\x1b" not in printed
    assert "\\x1b[2J[red]conv[/red]" in printed


def test_wording():
    assert (size(900), size(3 << 20), size(5 << 30)) == ("900 bytes", "3.0 MiB", "5.0 GiB")
    assert (scaled(12), scaled(1500), scaled(300_800_000)) == ("12", "1.5 k", "300.8 M")
    assert named(["a", "b", "c"]) == "3: a, b, ..."
    asymmetric = TensorForm(type="uint8", bits=4, symmetric=False, zero_point=3)
    assert form_text(asymmetric) == "uint8 of 4 bits asym"
    assert form_text(TensorForm(type="uint8", bits=8, dynamic=True)) == "uint8 dynamic"
    assert form_text(None) == "float"
