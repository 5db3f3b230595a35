"""Plots of searches: what they show, on the page and as files."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from report_samples import full_search_report, search_report

from eqnet.cli.main import main
from eqnet.spec.errors import ArtifactError
from eqnet.spec.reports import SearchReport
from eqnet.stages.report import load, report
from eqnet.stages.report.page import write_plots
from eqnet.stages.report.searches import details, pareto
from eqnet.stages.report.style import LIGHT, WIDE, drawing

NAMES = ["bits", "pareto", "predicted", "progress", "sensitivities"]


def write(folder: Path, search: SearchReport) -> Path:
    folder.mkdir()
    (folder / "search.json").write_text(search.model_dump_json())
    return folder


def test_plots_are_written_as_svg_and_png(tmp_path, capsys):
    folder, plots = write(tmp_path / "found", full_search_report()), tmp_path / "plots"
    page = tmp_path / "r.html"
    assert main(["report", str(folder), "--out", str(page), "--plots", str(plots)]) == 0
    assert f"plots in {plots}" in capsys.readouterr().out
    wanted = [f"custom_lowbit.{name}.{kind}" for name in NAMES for kind in ("png", "svg")]
    assert sorted(path.name for path in plots.iterdir()) == wanted
    for path in plots.iterdir():
        begin = b"\x89PNG" if path.suffix == ".png" else b"<?xml"
        assert path.read_bytes().startswith(begin)
    text = page.read_text()
    for title in ("Accuracy against each cost", "Sensitivities", "Progress over generations"):
        assert text.count(f"<h3>{title}</h3>") == 1


def test_the_same_search_gives_the_same_svg(tmp_path):
    folder = write(tmp_path / "found", full_search_report())
    for name in ("a", "b"):
        write_plots(load([folder, folder]), tmp_path / name)
    first = tmp_path / "a" / "custom_lowbit.pareto.svg"
    assert first.read_bytes() == (tmp_path / "b" / "custom_lowbit.pareto.svg").read_bytes()
    assert first.read_bytes() == (tmp_path / "b" / "custom_lowbit-2.pareto.svg").read_bytes()


def test_a_search_of_an_earlier_version_is_drawn_as_far_as_it_is_known(tmp_path):
    plots = tmp_path / "plots"
    report([write(tmp_path / "found", search_report())], tmp_path / "r.html", plots=plots)
    assert {path.name.split(".")[1] for path in plots.iterdir()} == {"bits", "pareto"}


def test_plots_need_a_search(tmp_path):
    (tmp_path / "train.jsonl").write_text('{"epoch": 1, "loss": 2}\n')
    with pytest.raises(ArtifactError, match="plots are of searches"):
        report([tmp_path / "train.jsonl"], tmp_path / "r.html", plots=tmp_path / "plots")
    assert not (tmp_path / "r.html").exists()


def test_each_known_cost_has_its_axes_and_the_budget_its_line():
    with drawing(LIGHT):
        figure = pareto.pareto_figure(full_search_report(), LIGHT, WIDE)
    assert [axes.get_xlabel() for axes in figure.axes] == [
        "cost, Mcycles",
        "weights, KiB",
        "G bit-operations",
    ]
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert set(names) == {"front, predicted", "measured", "uniform, predicted", "budget"}
    budget = [
        np.asarray(line.get_xdata()).tolist()
        for line in figure.axes[1].lines
        if line.get_label() == "budget"
    ]
    assert budget == [[60.0, 60.0]]
    labels = {text.get_text() for text in figure.axes[0].texts}
    assert labels == {f"w{bits}a{bits}" for bits in range(2, 9)}
    assert not figure.axes[2].texts  # the baselines' bit-operations are not known


def test_a_cost_that_is_another_quantity_is_drawn_once():
    search = full_search_report()
    same = [point.model_copy(update={"cost": point.size_kib}) for point in search.front]
    axes = pareto.axes_of(search.model_copy(update={"front": tuple(same)}))
    assert [axis.name for axis in axes] == ["cost", "bitops"]


def test_bars_have_the_chosen_subnets_bits():
    search = full_search_report()
    with drawing(LIGHT):
        figure = details.bits_figure(search, LIGHT, WIDE)
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    names = [text.get_text() for text in figure.axes[0].get_xticklabels()]
    assert names == list(search.best.weights)
    assert heights == [
        9.0 if bits == "remainder" else bits for bits in search.best.weights.values()
    ]


def test_the_scatter_has_what_was_measured():
    search = full_search_report()
    with drawing(LIGHT):
        figure = details.scatter_figure(search, LIGHT, WIDE)
    dots = next(line for line in figure.axes[0].lines if line.get_label() == "front")
    assert np.asarray(dots.get_ydata()).tolist() == pytest.approx([90.0, 90.6, 91.2, 91.8, 92.4])
    assert details.scatter_figure(search_report(), LIGHT, WIDE) is None
