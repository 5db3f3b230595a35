"""What the page's tables hold, and what is told of an artifact that is the float model."""

from __future__ import annotations

import json
from dataclasses import replace
from io import StringIO
from pathlib import Path

import pytest
from report_samples import (
    LAYERS,
    evaluated,
    five_artifacts,
    located,
    manifest,
    search_report,
    subnet,
    unquantized,
    verified,
    write_artifact,
)
from rich.console import Console

from eqnet.cli.main import main
from eqnet.spec.errors import ArtifactError
from eqnet.spec.reports import FloatTwin
from eqnet.spec.scheme import all_forms
from eqnet.stages.report import load, report, summarize
from eqnet.stages.report.tables import artifacts as over_artifacts
from eqnet.stages.report.tables import one, parity
from eqnet.stages.report.tables.summary import summary_table
from eqnet.stages.report.tables.table import Table
from eqnet.stages.report.terminal import rows_table


def texts(table: Table | None, title: str) -> list[str]:
    """A column's texts."""
    assert table is not None
    at = [column.title for column in table.columns].index(title)
    return [row.cells[at].text for row in table.rows]


def test_every_row_has_a_cell_for_every_column(tmp_path: Path) -> None:
    inputs = load(five_artifacts(tmp_path / "a"))
    tables = [
        summary_table(summarize(inputs.artifacts)),
        over_artifacts.forms_table(inputs.artifacts, [evaluated(4, next(all_forms()))]),
        over_artifacts.latency_table(inputs.artifacts),
        over_artifacts.sizes_table(inputs.artifacts),
        over_artifacts.questions_table(inputs.artifacts),
        one.front_table(search_report()),
    ]
    for artifact in inputs.artifacts:
        assert artifact.verify is not None
        tables += [one.checks_table(artifact.verify), one.layers_table(artifact)]
        tables += [one.tensors_table(artifact), one.files_table(artifact)]
    for table in tables:
        assert table is not None
        assert table.rows
        assert {len(row.cells) for row in table.rows} == {len(table.columns)}


def test_gauges_stay_within_their_cell(tmp_path: Path) -> None:
    rows = summarize(load(five_artifacts(tmp_path / "a")).artifacts)
    slow = rows[0].model_copy(update={"ratio": 7.0, "ratio_interval": (0.5, 90.0)})
    for row in summary_table([*rows, slow]).rows:
        for cell in row.cells:
            for mark in cell.gauge:
                assert 0 <= mark.at <= (mark.at if mark.to is None else mark.to) <= 1


def test_latencies_of_every_batch_and_precision_with_their_intervals(tmp_path: Path) -> None:
    (artifact, *_) = load(five_artifacts(tmp_path / "a")).artifacts
    assert artifact.bench is not None
    assert artifact.bench.quantized is not None
    timed = artifact.bench.quantized.model_copy(update={"median_interval": (0.512, 0.5349)})
    twin = FloatTwin(precision="bfloat16", latency=timed, ratio=1.0, ratio_interval=(0.9, 1.1))
    more = artifact.bench.model_copy(update={"batch": 8})
    bench = artifact.bench.model_copy(update={"other_floats": (twin,), "more": (more,)})
    table = over_artifacts.latency_table([replace(artifact, bench=bench)])
    assert texts(table, "Model") == ["artifact", "float32", "bfloat16", "artifact", "float32"]
    batches = [text.split(" / ")[0] for text in texts(table, "Batch / threads")]
    assert batches == ["1", "1", "1", "8", "8"]
    assert texts(table, "95% of the median")[2] == "0.512 to 0.535"


def test_sizes_are_those_on_the_disk(tmp_path: Path) -> None:
    folder = write_artifact(tmp_path / "a", manifest("mine", "openvino", subnet(8)), None, None)
    (bare,) = load([folder]).artifacts
    assert texts(over_artifacts.sizes_table([bare]), "model.onnx") == ["-"]
    (folder / "model.onnx").write_bytes(b"x" * 2048)
    (folder / "other").write_bytes(b"x" * 4096)  # not the manifest's
    (there,) = load([folder]).artifacts
    table = over_artifacts.sizes_table([there])
    assert texts(table, "model.onnx") == texts(table, "All files") == ["2.0 KiB"]
    assert texts(one.files_table(there), "Size") == ["2.0 KiB"]


def test_a_race_for_the_float_model_is_told_everywhere(tmp_path: Path, capsys) -> None:
    made = unquantized("mine", "openvino")
    folder = write_artifact(
        tmp_path / "a", made, verified("mine", "openvino", "passed", 0.94), None
    )
    told = "without quantization: the float model is what runs here"
    (row,) = summarize(load([folder]).artifacts)
    assert row.without_quantization == (
        f"{told}; in the race at export the default subnet took 2.6 ms, "
        "1.30 of the float model's time"
    )
    page = tmp_path / "r.html"
    assert main(["report", str(folder), "--out", str(page), "--json"]) == 0
    assert told in json.loads(capsys.readouterr().out)["rows"][0]["without_quantization"]
    assert f"<strong>mine</strong>: {told}" in page.read_text()
    for width in (80, 120):
        console = Console(width=width, record=True, file=StringIO())
        console.print(rows_table([row]))
        assert f"mine: {told}" in " ".join(console.export_text().split())
    (artifact,) = load([folder]).artifacts
    assert texts(one.race_table(artifact), "Taken") == ["", "chosen", ""]
    assert set(texts(one.layers_table(artifact), "Runs in")) == {"float32"}


def test_an_artifact_with_integers_is_not_called_the_float_model(tmp_path: Path) -> None:
    unraced = unquantized("mine", "openvino").model_copy(update={"race": None})
    partly = manifest("mine", "openvino", subnet(8, 0, ("conv1",)))
    folders = [
        write_artifact(tmp_path / str(index), made, None, None)
        for index, made in enumerate((unraced, partly))
    ]
    first, second = summarize(load(folders).artifacts)
    assert first.without_quantization == "without quantization: the float model is what runs here"
    assert second.without_quantization is None


def test_a_search_says_what_the_float_network_costs(tmp_path: Path) -> None:
    search = search_report().model_copy(update={"float_network": {"cost": 124.5}})
    (tmp_path / "search.json").write_text(search.model_dump_json())
    page = report([tmp_path / "search.json"], tmp_path / "r.html").read_text()
    assert "<dt>without quantization</dt><dd>124.5 Mcycles in float32</dd>" in page


def test_evaluations_are_read_from_files_and_folders(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "train.jsonl").write_text('{"epoch": 1, "loss": 2}\n')
    (folder / "recipe.json").write_text("{}")
    made = [evaluated(bits, form) for bits, form in zip((2, 4, 8), all_forms(), strict=False)]
    for report_ in made:
        (folder / f"eval-{report_.weight_bits}.json").write_text(report_.model_dump_json())
    inputs = load([folder])
    assert inputs.evaluations == tuple(made)
    assert len(inputs.trainings) == 1
    assert load([folder / "eval-4.json"]).evaluations == (made[1],)
    table = over_artifacts.forms_table([], made)
    assert texts(table, "PyTorch") == ["91.00 %", "92.00 %", "94.00 %"]
    assert len(set(texts(table, "Form"))) == 3
    page = report([folder], tmp_path / "r.html").read_text()
    assert "3 evaluations, 1 training log." in page
    assert "Accuracy per form" in page


@pytest.mark.parametrize("content", ["{", "[]", '{"weight_bits": 3, "placement": "paper"}'])
def test_a_wrong_evaluation_is_one_line(tmp_path: Path, content: str) -> None:
    (tmp_path / "eval.json").write_text(content)
    for path in (tmp_path, tmp_path / "eval.json"):
        with pytest.raises(ArtifactError, match=r"eval\.json: not a valid") as caught:
            load([path])
        assert "\n" not in str(caught.value)


def test_where_an_artifact_goes_wrong_is_told(tmp_path: Path) -> None:
    bad = located(verified("mine", "openvino", "failed", 0.4, "16.0 steps"))
    made = manifest("mine", "openvino", subnet(8))
    folder = write_artifact(tmp_path / "a", made, bad, None)
    page = report([folder], tmp_path / "r.html").read_text()
    assert f"<code>{LAYERS[5]}.out</code>, of layer <code>{LAYERS[5]}</code>" in page
    assert "16-bit sums overflow" in page
    assert "Error by depth" in page
    (artifact,) = load([folder]).artifacts
    assert artifact.verify is not None
    assert artifact.verify.location is not None
    table = parity.tensors_table("mine", artifact.verify.location)
    assert texts(table, "Beyond rounding").index("yes") == 5
    assert texts(table, "Error")[9] == "-"
    outputs = parity.outputs_table([artifact])
    assert texts(outputs, "Run") == ["semantics", "semantics", "deployed", "deployed"]
    assert texts(outputs, "Against") == ["PyTorch's subnet", "float model"] * 2


def test_parity_of_an_earlier_version_is_shown_without_tensors(tmp_path: Path) -> None:
    folders = five_artifacts(tmp_path / "a")
    assert parity.outputs_table(load(folders).artifacts) is None
    assert "Error by depth" not in report(folders, tmp_path / "r.html").read_text()
