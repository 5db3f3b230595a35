"""`eqnet explain` prints places and remedies, or one JSON document, and refuses wrong paths."""

from __future__ import annotations

import json
from typing import Any

import pytest

import eqnet.stages.explain as stage
from eqnet.cli.main import main
from eqnet.spec.reports import Applied, ExplainReport, PlaceReport, Quality, Remedy, SuspectReport

BEFORE = Quality(kl=0.04, agreement=0.9, cost=5.0)
AFTER = Quality(kl=0.01, agreement=0.95, cost=5.25)


def place(name: str, kl: float, **changes: Any) -> PlaceReport:
    values: dict[str, Any] = {
        "kind": "weights",
        "name": name,
        "bits": 8,
        "layers": (name,),
        "images": 32,
        "kl": kl,
        "kl_error": kl / 10,
        "lost": 0.015,
    }
    return PlaceReport(**(values | changes))


REPORT = ExplainReport(
    profile="onnxruntime_x86",
    supernet="runs/mine",
    subnet="5" * 64,
    images=128,
    unit="ms",
    whole=BEFORE,
    places=(place("stem", 0.03, cost_saved=-0.125), place("conv1", 0.02), place("conv2", 0.01)),
    groups=(place("conv", 0.05, kind="group", bits=0, cost_saved=2.5),),
    suspects=(SuspectReport(layer="conv9", channel=17, snr_db=3.25, expected_db=39.66),),
    remedies=(
        Remedy(
            name="stem in float", layers=("stem",), bits="remainder", before=BEFORE, after=AFTER
        ),
    ),
    applied=Applied(profile="mended.yaml", images=256, before=BEFORE, after=AFTER),
    seconds=12.5,
)


@pytest.fixture
def asked(monkeypatch):
    options: dict[str, Any] = {}

    def run(**given: Any) -> ExplainReport:
        options.update(given)
        return REPORT

    monkeypatch.setattr(stage, "explain", run)
    return options


def test_places_groups_and_remedies_are_printed(asked, capsys):
    assert main(["explain", "-p", "onnxruntime_x86", "--top", "2", "-q"]) == 0
    out = capsys.readouterr().out
    lines = [line.split() for line in out.splitlines()]
    assert ["weights", "stem", "8", "0.03000", "0.00300", "1.5", "-0.125"] in lines
    assert ["weights", "conv1", "8", "0.02000", "0.00200", "1.5"] in lines
    assert "conv2" not in out
    assert "1 places that cost less" in out
    assert ["op", "group", "conv", "0.05000", "0.00500", "1.5", "+2.5"] in lines
    assert ["conv9", "17", "3.2", "39.7"] in lines
    remedy = ["stem", "in", "float", "0.04000", "0.01000", "+5.0", "points", "+0.25"]
    assert remedy in lines
    assert "mended.yaml: on 256 other images KL 0.04000, 90.00 % agreement, 5 ms becomes" in out
    assert asked["top"] == 2
    assert asked["latency"] is True


def test_one_json_document(asked, capsys):
    command = ["explain", "-p", "onnxruntime_x86", "--no-latency", "--images", "64", "--json"]
    assert main(command) == 0
    assert ExplainReport.model_validate(json.loads(capsys.readouterr().out)) == REPORT
    assert asked["latency"] is False
    assert asked["images"] == 64


def test_nothing_to_recommend_is_said(monkeypatch, capsys):
    quiet = REPORT.model_copy(update={"remedies": (), "applied": None, "no_cost": "no runtime"})
    monkeypatch.setattr(stage, "explain", lambda **_: quiet)
    assert main(["explain", "-p", "onnxruntime_x86", "-q"]) == 0
    out = capsys.readouterr().out
    assert "no pin gains enough" in out
    assert "none: no runtime" in out


def test_wrong_paths_are_refused(refused, tmp_path):
    refused(["explain", "-p", "onnxruntime_x86", "--subnet", "no.json"], 4, "no such file")
    refused(["explain", "-p", "onnxruntime_x86", "--apply", "my chip.yaml"], 2, "--apply")
    refused(["explain", "-p", "nothing"], 3, "nothing")
