"""From a float model to a verified artifact: what is stored of the float model, and said of it."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
import torch
from judged_nets import OneLogit, Outlier, fit
from nets import TinyData
from safetensors.numpy import load_file
from torch.nn import functional

from eqnet.backend.artifact import read_manifest
from eqnet.backend.preprocess import preprocess
from eqnet.cli.main import main
from eqnet.data import open_dataset
from eqnet.runtime import load as load_model
from eqnet.spec.hardware.load import load_profile
from eqnet.spec.manifest import PARITY
from eqnet.stages.export.choose_subnet import choose_subnet
from eqnet.stages.export.export import checked_exporter, export, export_in
from eqnet.stages.report import load, report, summarize
from eqnet.stages.train.post_training import post_training
from eqnet.stages.verify import verify
from eqnet.supernet.measure import Batches, accuracy
from eqnet.supernet.session import open_session

PROFILE = "onnxruntime_x86"

pytestmark = pytest.mark.usefixtures("bundled_data_only")


@pytest.fixture(scope="module")
def trained(bundled_data_only):
    """The weights of a network that was trained for a moment."""
    torch.set_num_threads(1)
    return fit(Outlier(), open_dataset("fashion_mnist"), functional.cross_entropy).state_dict()


@pytest.fixture
def supernet_of_factor(trained, tmp_path):
    """Makes the supernet of the network with one channel scaled, and the scaled network."""

    def make(factor: float):
        net = Outlier()
        net.load_state_dict(trained)
        net.scale_channel(factor)
        path, out = tmp_path / f"{factor:g}.pt", tmp_path / f"supernet{factor:g}"
        torch.save(net.state_dict(), path)
        post_training(
            model="judged_nets:outlier", weights=path, out=out, images=64, allow_code=True
        )
        return out, net.eval()

    return make


@pytest.mark.parametrize("factor", [3000.0, 1.0])
def test_one_large_channel_is_never_passed_in_silence(supernet_of_factor, tmp_path, factor):
    supernet, net = supernet_of_factor(factor)
    folder = tmp_path / "out"
    made = export(profile=PROFILE, supernet=supernet, out=folder, allow_code=True, race=False)
    checked = verify(folder, threads=1)
    assert checked.export_verdict == "passed"
    good = checked.against_float.agreement >= 0.97
    assert good or checked.quantization_verdict == checked.verdict == "failed"
    assert good or factor > 1
    assert checked.against_float.paired
    stored = load_file(folder / PARITY)
    images = torch.from_numpy(preprocess(stored["pixels"], made.preprocessing))
    with torch.no_grad():
        exact = net(images).numpy()
    np.testing.assert_allclose(stored["float_logits"], exact, rtol=1e-3, atol=1e-3)
    found = made.parity.against_float
    agreeing = np.mean(stored["logits"].argmax(1) == exact.argmax(1))
    assert found.agreement == pytest.approx(agreeing, abs=2 / len(exact))
    right = np.mean(exact.argmax(1) == stored["labels"])
    assert made.model.float_accuracy == pytest.approx(right, abs=2 / len(exact))


@pytest.fixture(scope="module")
def binary_data():
    """Images whose brightness says which of two classes they are of."""

    class Data(TinyData):
        name = "binary"
        classes = ("dark", "bright")

    return Data(200)


@pytest.fixture
def binary(binary_data, monkeypatch):
    for module in (
        "eqnet.stages.train.begin.start",
        "eqnet.supernet.session",
        "eqnet.stages.verify.dataset",
    ):
        monkeypatch.setattr(f"{module}.open_dataset", lambda *_, **__: binary_data)
    return binary_data


def one_logit_supernet(data, tmp_path):
    def loss(logits, labels):
        return functional.binary_cross_entropy_with_logits(logits[:, 0], (labels > 0).float())

    net = fit(OneLogit(), data, loss, epochs=6)
    torch.save(net.state_dict(), tmp_path / "one.pt")
    summary = post_training(
        model="judged_nets:one_logit",
        weights=tmp_path / "one.pt",
        out=tmp_path / "supernet",
        allow_code=True,
    )
    return net, summary


def test_a_network_with_one_logit_is_served_to_the_end(binary, tmp_path):
    net, summary = one_logit_supernet(binary, tmp_path)
    pixels, labels = binary.parity().take(200)
    images = torch.from_numpy(preprocess(pixels, binary.preprocessing))
    with torch.no_grad():
        right = float(((net(images)[:, 0] > 0).numpy() == labels).mean())
    assert right > 0.9
    assert summary["float_accuracy"] == pytest.approx(right)
    assert "warning" not in summary
    folder = tmp_path / "out"
    made = export(
        profile=PROFILE, supernet=tmp_path / "supernet", out=folder, allow_code=True, race=False
    )
    assert made.model.classes == 1
    assert made.parity.accuracy == pytest.approx(right, abs=0.03)
    checked = verify(folder, data=tmp_path, threads=1)
    assert checked.verdict == "passed", checked.checks
    assert checked.accuracy == pytest.approx(right, abs=0.03)
    assert checked.test_accuracy == checked.accuracy
    assert checked.against_float.agreement >= 0.97
    assert load_model(folder)(pixels[:3]).shape == (3, 1)
    page = report([folder], tmp_path / "report.html")
    assert "passed" in page.read_text()


def test_one_logit_for_other_labels_has_agreement_alone(tmp_path):
    """Ten classes of clothes say nothing of a yes or no."""
    data = open_dataset("fashion_mnist")
    _, summary = one_logit_supernet(data, tmp_path)
    assert "the model has 2 classes and the data 10" in summary["warning"]
    folder = tmp_path / "out"
    made = export(
        profile=PROFILE, supernet=tmp_path / "supernet", out=folder, allow_code=True, race=False
    )
    assert made.parity.accuracy is None
    checked = verify(folder, threads=1)
    assert (checked.export_verdict, checked.quantization_verdict) == ("passed", "passed")
    assert checked.against_float.agreement is not None
    assert checked.accuracy is None


def test_accuracy_of_one_logit_is_by_sign():
    images = Batches(torch.tensor([[-1.0], [2.0], [0.5], [-3.0]]), torch.tensor([0, 1, 0, 0]))
    assert accuracy(torch.nn.Identity(), images) == 0.75


def test_the_float_model_is_the_same_after_other_subnets(supernet_of_factor, tmp_path):
    supernet, _ = supernet_of_factor(1.0)
    session = open_session(supernet, allow_code=True)
    stored: list[Any] = []
    for name in (PROFILE, "custom_lowbit_w4a8", PROFILE):
        rules, folder = load_profile(name), tmp_path / f"{len(stored)}"
        chosen = choose_subnet(session, rules, None, tmp_path / "none")
        export_in(session, rules, checked_exporter(rules), chosen, folder)
        stored.append(load_file(folder / PARITY)["float_logits"])
    assert np.array_equal(stored[0], stored[1])
    assert np.array_equal(stored[0], stored[2])


def test_a_trained_supernet_is_judged_by_accuracies(exported):
    """What it began as is not in it, but that model's accuracy is."""
    folder = exported(PROFILE)
    made = read_manifest(folder)
    assert "float_logits" not in load_file(folder / PARITY)
    assert made.parity.against_float.agreement is None
    assert "trained further" in made.parity.against_float.reason
    checked = verify(folder, threads=1)
    assert checked.quantization_verdict == "passed"
    assert not checked.against_float.paired
    (row,) = summarize(load([folder]).artifacts)
    assert not [reason for reason in row.reasons if "float_agreement" in reason]


def test_commands_say_how_far_the_float_model_is(supernet_of_factor, tmp_path, capsys):
    supernet, _ = supernet_of_factor(1.0)
    strict = tmp_path / "strict.yaml"
    demand = "parity: {float_agreement: 1.0, float_accuracy_drop: 0}"
    strict.write_text(f"extends: {PROFILE}\nname: strict\nbits: [[8, 8]]\n{demand}\n")
    folder = tmp_path / "out"
    options = ["--supernet", str(supernet), "--out", str(folder), "--allow-code", "-q", "--no-race"]
    assert main(["export", "--profile", str(strict), *options]) == 0
    out, err = capsys.readouterr()
    assert "against float" in out
    assert "images agree" in out
    assert err.startswith("warning: float_agreement: 0.9")
    assert main(["export", "--profile", str(strict), *options, "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["parity"]["against_float"]["agreement"] > 0.9
    assert err.startswith("warning: float_agreement")
    assert main(["verify", str(folder), "--threads", "1", "-q"]) == 11
    out, err = capsys.readouterr()
    for told in ("against PyTorch", "against float", "quantization: ✗ failed", "export: ✓ passed"):
        assert told in out
    assert "float_agreement" in err
    assert main(["verify", str(folder), "--threads", "1", "-q", "--json"]) == 11
    printed = json.loads(capsys.readouterr().out)
    assert printed["quantization_verdict"] == printed["verdict"] == "failed"
    assert printed["export_verdict"] == "passed"
    page = report([folder], tmp_path / "report.html", picture=tmp_path / "p.png").read_text()
    for told in ("quantization failed", "export passed", "Two questions", "Agreement with float"):
        assert told in page
