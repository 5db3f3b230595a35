"""The scripts of `examples/` run as they stand."""

from __future__ import annotations

import http.client
import io
import json
import runpy
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from eqnet.backend import discovery
from eqnet.spec.errors import UsageError

EXAMPLES = Path(__file__).parents[2] / "examples"


def run(monkeypatch: pytest.MonkeyPatch, script: str, *arguments: str) -> None:
    monkeypatch.syspath_prepend(str(EXAMPLES))
    monkeypatch.setattr(sys, "argv", [script, *arguments])
    runpy.run_path(str(EXAMPLES / script), run_name="__main__")


@pytest.fixture(scope="module")
def deployed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What `own_network.py` makes."""
    out = tmp_path_factory.mktemp("deploy")
    with pytest.MonkeyPatch.context() as monkeypatch:
        run(monkeypatch, "own_network.py", "--out", str(out), "--epochs", "2")
    return out


def test_a_network_of_ones_own_becomes_verified_artifacts(deployed):
    for profile in ("onnxruntime_x86", "openvino_asym"):
        report = json.loads((deployed / profile / "verify.json").read_text())
        assert (report["export_verdict"], report["int8_layers"]) == ("passed", 3)
    assert (deployed / "report.html").is_file()


def test_an_artifact_answers_http(deployed, monkeypatch):
    monkeypatch.syspath_prepend(str(EXAMPLES))
    import web_service

    pixels = np.random.default_rng(0).integers(0, 256, (28, 28), np.uint8)
    picture = io.BytesIO()
    Image.fromarray(pixels).save(picture, "PNG")
    with web_service.server(deployed / "onnxruntime_x86", 0) as serving:
        threading.Thread(target=serving.serve_forever, daemon=True).start()
        answers = []
        for body in (picture.getvalue(), b"no image"):
            connection = http.client.HTTPConnection("127.0.0.1", serving.server_port, timeout=30)
            connection.request("POST", "/", body)
            response = connection.getresponse()
            answers.append((response.status, response.read()))
        serving.shutdown()
    assert [status for status, _ in answers] == [200, 400]
    found = json.loads(answers[0][1])
    assert len(found["logits"]) == 10
    assert found["class"] == int(np.argmax(found["logits"]))


def test_the_elastic_step_trains_in_ones_own_loop(monkeypatch, capsys):
    run(monkeypatch, "own_training_loop.py", "--epochs", "1")
    told = capsys.readouterr().out
    assert "epoch 1: {'high':" in told
    shares = [float(line.split()[1].rstrip("%")) for line in told.splitlines() if "W" in line[:1]]
    assert len(shares) == 3
    assert min(shares) > 30  # of ten classes


def test_a_hardware_target_of_ones_own(tmp_path, monkeypatch, capsys, bundled_data_only):
    monkeypatch.setattr(discovery, "_registered", {})
    run(monkeypatch, "own_exporter.py", "--out", str(tmp_path))
    told = capsys.readouterr().out
    assert told.startswith("my_npu simulator 0.1: passed, accuracy 0.9")
    assert "stored as int8" in told
    with pytest.MonkeyPatch.context() as elsewhere:
        elsewhere.setattr(discovery, "_registered", {})
        with pytest.raises(UsageError, match="unknown backend 'my_npu'"):
            discovery.find_exporter("my_npu")
