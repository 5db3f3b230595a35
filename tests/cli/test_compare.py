"""`eqnet compare`: the table, Markdown, JSON and exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from cli_tools import one_line
from strangers import float_net, quantize_static, save

from eqnet.cli.main import main
from eqnet.cli.tables.comparison import to_markdown
from eqnet.spec.judging.comparison import FloatComparison
from eqnet.spec.outside.inspection import Coverage
from eqnet.spec.outside.side_by_side import ComparedModel, CompareReport
from eqnet.spec.reports import Latency


@pytest.fixture
def pair(tmp_path: Path) -> list[str]:
    return [
        str(save(float_net(), tmp_path / "float.onnx")),
        str(quantize_static(tmp_path, "int8.onnx")),
    ]


def report(name: str = "a|b_<c>.onnx") -> CompareReport:
    latency = Latency(
        median=2.5, p90=3, p99=3, minimum=2, mean=2.5, throughput=400, samples=(2.5,) * 5
    )
    known = ComparedModel(
        name=name,
        path=name,
        runtime="onnxruntime 1.0",
        profile="mine",
        bytes=2048,
        forms={"qdq": 4},
        int8=Coverage(layers=3, of_layers=4, macs=0.9),
        latency=latency,
        ratio=0.5,
        ratio_interval=(0.45, 0.55),
        against_reference=FloatComparison(
            images=50,
            agreement=0.98,
            snr_db=20.25,
            labelled=50,
            accuracy_drop=1.5,
            accuracy_drop_interval=(0.5, 2.5),
        ),
        agreement_interval=(0.94, 1.0),
        accuracy=0.875,
    )
    unknown = ComparedModel(
        name="b", path="b", runtime="tensorrt", bytes=10, forms={}, reasons=("no GPU",)
    )
    return CompareReport(
        models=(known, unknown),
        reference="a float net",
        images=50,
        source="photos",
        batch=1,
        threads=1,
        repeats=5,
        host={},
    )


def test_the_table(pair: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["compare", *pair, "--repeats", "5", "--quiet"]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    assert "batch 1, threads 1, 5 rounds in turns" in printed
    assert "float.onnx onnxruntime" in printed
    assert "0/3" in printed
    assert "3/3" in printed
    assert "no images (an artifact among the models, or --data)" in printed


def test_one_document(pair: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["compare", *pair, "--repeats", "5", "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert [one["name"] for one in document["models"]] == ["float.onnx", "int8.onnx"]
    assert len(document["models"][1]["latency"]["samples"]) == 5


def test_markdown_of_every_cell():
    lines = to_markdown(report()).splitlines()
    assert [line.count(" | ") for line in lines[:4]] == [8, 0, 8, 8]
    assert lines[2] == (
        r"| a\|b\_&lt;c>.onnx | onnxruntime 1.0<br>mine | 2.0 KiB | 3/4<br>90.0 % MACs | 2.500 "
        r"| 0.50<br>\[0.45, 0.55\] | 98.0 %<br>\[94.0, 100.0\] | 20.2 | 87.5 % |"
    )
    assert lines[3] == "| b | tensorrt | 10 bytes | - | - | - | - | - | - |"
    assert lines[-1] == "- b: no GPU"
    assert r"accuracy -1.50 points \[-2.50, -0.50\] against the reference" in lines[-2]


def test_markdown_is_printed(pair: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["compare", *pair, "--repeats", "5", "--format", "markdown", "-q"]) == 0
    assert capsys.readouterr().out.startswith("| model | runs in |")


@pytest.mark.parametrize(
    ("options", "code", "said"),
    [
        (["--format", "html"], 2, "unknown format 'html'"),
        (["--backend", "openvno"], 2, "did you mean 'openvino'"),
        (["--data", "absent"], 5, "no such folder"),
        (["absent.onnx"], 6, "absent.onnx: cannot read"),
    ],
)
def test_bad_input(
    options: list[str],
    code: int,
    said: str,
    pair: list[str],
    capsys: pytest.CaptureFixture[str],
):
    assert main(["compare", *pair, *options, "-q"]) == code
    assert said in one_line(capsys)


def test_one_model_is_none_to_compare(pair: list[str], capsys: pytest.CaptureFixture[str]):
    assert main(["compare", pair[0], "-q"]) == 2
    assert "allowed: 2 to 16" in one_line(capsys)
